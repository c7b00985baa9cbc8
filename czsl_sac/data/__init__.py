"""Data sets for compositional zero-shot learning; importing them needs torch alone."""

from czsl_sac.data.protocol import CZSLData, SplitName
from czsl_sac.data.scenes import SceneDataset, Scenes

__all__ = ["CZSLData", "SceneDataset", "Scenes", "SplitName"]
