"""What every test and every docstring example may rely on."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _fixed_seed(doctest_namespace: dict[str, object]) -> None:
    """Seed torch before each test, and let docstring examples use ``torch`` freely."""
    torch.manual_seed(0)
    doctest_namespace["torch"] = torch
