"""Data sets for compositional zero-shot learning; importing them needs torch alone.

What only reads and checks image files loads no torch, so the names here are loaded when used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from czsl_sac.data.protocol import CZSLData, SplitName
    from czsl_sac.data.scenes import SceneDataset, Scenes

__all__ = ["CZSLData", "SceneDataset", "Scenes", "SplitName"]


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from czsl_sac.data import protocol, scenes

    return getattr(scenes if name in scenes.__all__ else protocol, name)
