"""The figures of the page on reliability: protocols and memory bank on hundreds of cases."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_evaluator_protocols", "test_evaluator", "test_memory_bank"])
def test_hundreds_of_cases(name: str) -> None:
    """400 cases against the published evaluator and a brute force, 600 against a plain bank."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", str(TESTS / f"{name}.py")],
        cwd=TESTS.parent,
        env={**os.environ, "CZSL_SAC_EXAMPLES": "10"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
