"""What every test and every docstring example may rely on."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores: one thread each, in the programs they start, too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch


@pytest.fixture(autouse=True)
def _fixed_seed(doctest_namespace: dict[str, object]) -> None:
    """Seed torch before each test, and let docstring examples use ``torch`` freely."""
    torch.manual_seed(0)
    doctest_namespace["torch"] = torch
