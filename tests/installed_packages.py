"""Packages that are installed for the time of a test."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from czsl_sac.methods import registry

VISPROD = Path(__file__).parent.parent / "examples" / "visprod"


def install(
    patch: pytest.MonkeyPatch, folder: Path, methods: Mapping[str, str], *sources: Path
) -> None:
    """Let a package offer methods by entry point; its sources are put on the path.

    Args:
        patch: takes it away again.
        folder: where the package's metadata goes.
        methods: name of each method, and where it is.
        sources: folders of its modules.
    """
    about = folder / "offering-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    lines = [f"[{registry.ENTRY_POINTS}]", *(f"{name} = {at}" for name, at in methods.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for path in (folder, *sources):
        patch.syspath_prepend(str(path))
    forget()


def forget() -> None:
    """Look for installed methods again."""
    registry.method_names.cache_clear()
    registry.method_options.cache_clear()
