"""Options of PLID, and its published settings per data set (the public code's)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_ranges
from czsl_sac.methods.options import PromptOptions, Published, Reads, Settings, printed

_SMALL: dict[str, Any] = {
    "train_backbone": "last_block",
    "feature_dropout": 0.1,
    "primitive_loss_weight": 0.01,
}


@dataclass(frozen=True)
class PLIDOptions(PromptOptions):
    """Classes as distributions of texts, informed by sentences of a language model."""

    name: ClassVar[str] = "plid"
    label: ClassVar[str] = "PLID"
    implementation: ClassVar[str] = "czsl_sac.methods.plid.method:PLID"
    questionnaire: ClassVar[str] = "czsl_sac.methods.plid.sentences:Sentences"
    citation: ClassVar[str] = "Bao et al., ECCV 2024"
    published: ClassVar[Published] = printed(
        """
        closed | 67.3 68.8 52.4 38.7 | 49.7 52.4 39.0 22.1 | 38.8 33.0 27.9 11.0
        open   | 67.6 55.5 46.6 30.8 | 49.1 18.7 20.0 7.3  | 39.1 7.5 10.6 2.5
        """
    )
    settings: ClassVar[Settings] = {
        "scenes": {
            "train_backbone": "none",
            "lr": 1e-3,
            "prompt_dropout": 0.1,
            "feature_dropout": 0.1,
            "num_sentences": 12,  # as many as there are templates
            "views": 0,
        },
        "ut-zappos": {
            **_SMALL,
            "lr": 1e-4,
            "batch_size": 256,  # 128, accumulated twice
            "epochs": 25,
            "lr_step": 5,
            "num_sentences": 32,
            "smoothing": 0.001,
        },
        "mit-states": {
            "train_backbone": "none",
            "lr": 5e-5,
            "weight_decay": 2e-5,
            "batch_size": 128,  # 64, accumulated twice
            "epochs": 50,
            "lr_step": 10,
        },
        "cgqa": {
            **_SMALL,
            "lr": 1e-5,
            "batch_size": 128,  # 64, accumulated twice
            "epochs": 20,
            "lr_step": 4,
            "smoothing": 0.01,
            "spread_over": "objects",
        },
        "fruit-ripeness": {"prompt_dropout": 0.1, "num_sentences": 12, "views": 0},
    }
    inference: ClassVar[frozenset[str]] = PromptOptions.inference | {
        *("primitive_share", "primitive_texts", "chunk_size"),
    }
    looks_at: ClassVar[Literal["aligned"]] = "aligned"

    descriptions: Path | None = None
    """File of sentences about compositions, as czsl-sac describe makes it; None, and compositions
    that it lacks: sentences made of templates, which say no more than the names."""
    num_sentences: int = 64
    """Sentences N of each composition (UT-Zappos 32)."""
    views: int = 8
    """Augmented views of an image beside the image, in training and at test."""
    feature_dropout: float = 0.5
    """Dropout in the blocks that enhance texts and images (UT-Zappos, C-GQA 0.1)."""
    primitive_share: float = 0.1
    """Share of attribute and object in the score; in training drawn anew for each batch, from a
    Beta distribution of this mean."""
    primitive_loss_weight: float = 0.1
    """Weight of the attribute's and the object's loss (UT-Zappos, C-GQA 0.01)."""
    primitive_texts: Literal["candidates", "seen"] = "candidates"
    """Whose mean the text of an attribute or object is: of the compositions that are scored and
    have it, or of the seen ones always."""
    smoothing: float = 0.0
    """Share of a label's mass on seen compositions of the same attribute, 0 to 1."""
    spread_over: Literal["compositions", "objects"] = "compositions"
    """Whose covariances the loss takes: of every composition, or of objects (C-GQA)."""
    chunk_size: int = 512
    """Compositions whose sentences are attended to at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "num_sentences", "chunk_size", low=1)
        check_ranges(self, "views", "primitive_loss_weight", low=0)
        check_ranges(self, "feature_dropout", "primitive_share", "smoothing", low=0, below=1)

    @property
    def reads(self) -> Reads:
        """Images, of which views are made; without them what the alignment looks at."""
        return "states" if self.views else super().reads
