"""The paper's equations as pure, eager functions: the reference for everything faster."""

from czsl_sac.functional.alignment import (
    blend_similarities,
    class_token_similarity,
    feature_similarity,
    patch_max_reference,
    token_similarities,
    weighted_similarity,
)
from czsl_sac.functional.condensation import condense_tokens
from czsl_sac.functional.fusion import PathProbabilities, combine_primitives, fuse_predictions
from czsl_sac.functional.losses import (
    alignment_loss,
    base_loss,
    composition_probabilities,
    condenser_loss,
    distillation_loss,
    total_loss,
)
from czsl_sac.functional.memory import (
    memory_logits,
    prediction_entropy,
    prototype_similarities,
    retrieval_weights,
    start_memory,
    store_sample,
)

__all__ = [
    "PathProbabilities",
    "alignment_loss",
    "base_loss",
    "blend_similarities",
    "class_token_similarity",
    "combine_primitives",
    "composition_probabilities",
    "condense_tokens",
    "condenser_loss",
    "distillation_loss",
    "feature_similarity",
    "fuse_predictions",
    "memory_logits",
    "patch_max_reference",
    "prediction_entropy",
    "prototype_similarities",
    "retrieval_weights",
    "start_memory",
    "store_sample",
    "token_similarities",
    "total_loss",
    "weighted_similarity",
]
