"""The composable blocks as plain nn.Modules. They need torch alone."""

from czsl_sac.blocks.alignment import Aligner, ClassTokenAligner, PatchMaxAligner, build_aligner
from czsl_sac.blocks.condensation import VisualCondenser
from czsl_sac.blocks.memory_bank import EntropyMemoryBank

__all__ = [
    "Aligner",
    "ClassTokenAligner",
    "EntropyMemoryBank",
    "PatchMaxAligner",
    "VisualCondenser",
    "build_aligner",
]
