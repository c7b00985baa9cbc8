"""The composable blocks as plain nn.Modules. They need torch alone."""

from czsl_sac.modules.alignment import Aligner, ClassTokenAligner, PatchMaxAligner, build_aligner
from czsl_sac.modules.condensation import VisualCondenser
from czsl_sac.modules.memory_bank import EntropyMemoryBank

__all__ = [
    "Aligner",
    "ClassTokenAligner",
    "EntropyMemoryBank",
    "PatchMaxAligner",
    "VisualCondenser",
    "build_aligner",
]
