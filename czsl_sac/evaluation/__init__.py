"""Evaluation: the seen-unseen evaluator, open-world feasibility, the modality gap, pointing."""

from czsl_sac.evaluation.chance import Chance, chance_row, small_sample_warnings
from czsl_sac.evaluation.evaluator import CZSLEvaluator
from czsl_sac.evaluation.feasibility import (
    Feasibility,
    feasibility_scores,
    mask_infeasible,
    threshold_grid,
)
from czsl_sac.evaluation.modality_gap import ModalityGap, modality_gap_l2, relative_modality_gap
from czsl_sac.evaluation.patch_shares import PatchShares
from czsl_sac.evaluation.pointing import Pointing, PointingResult
from czsl_sac.evaluation.result import CZSLResult
from czsl_sac.evaluation.token_answers import TokenAnswers, TokenKind, TokenMeter
from czsl_sac.evaluation.word_vectors import read_word_vectors

__all__ = [
    "CZSLEvaluator",
    "CZSLResult",
    "Chance",
    "Feasibility",
    "ModalityGap",
    "PatchShares",
    "Pointing",
    "PointingResult",
    "TokenAnswers",
    "TokenKind",
    "TokenMeter",
    "chance_row",
    "feasibility_scores",
    "mask_infeasible",
    "modality_gap_l2",
    "read_word_vectors",
    "relative_modality_gap",
    "small_sample_warnings",
    "threshold_grid",
]
