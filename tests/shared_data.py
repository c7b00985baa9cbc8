"""Tests that need data beside the checkout, each skipped for what it lacks itself."""

import pytest

from benchmarks.shared_data import SHARED, VARIABLE

__all__ = ["SHARED", "needs"]


def needs(path: str) -> pytest.MarkDecorator:
    """Skip a test, or one case of it, where a file or folder of the data is not there.

    Args:
        path: inside the folder of the data.
    """
    missing = not (SHARED / path).exists()
    return pytest.mark.skipif(missing, reason=f"no {path} in {SHARED}, which {VARIABLE} can name")
