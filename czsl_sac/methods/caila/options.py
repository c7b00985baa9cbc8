"""Options of CAILA, and its published settings per data set."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import MethodOptions, Published, Settings, printed

_PUBLISHED: dict[str, Any] = {
    "train_backbone": "none",  # the method itself adds what learns
    "epochs": 20,
    "lr_step": 20,  # one learning rate for all of training
    "weight_decay": 5e-5,
}


@dataclass(frozen=True)
class CAILAOptions(MethodOptions):
    """Adapters for attributes, for objects and for their mixture, in both towers."""

    name: ClassVar[str] = "caila"
    label: ClassVar[str] = "CAILA"
    implementation: ClassVar[str] = "czsl_sac.methods.caila.method:CAILA"
    citation: ClassVar[str] = "Zheng et al., WACV 2024"
    published: ClassVar[Published] = printed(
        """
        closed | 67.8 74.0 57.0 44.1 | 51.0 53.9 39.9 23.4 | 43.9 38.5 32.7 14.8
        open   | 67.8 59.7 49.4 32.8 | 51.0 20.2 21.6 8.2  | 43.9 8.0 11.5 3.1
        """
    )
    settings: ClassVar[Settings] = {
        "scenes": {"train_backbone": "none", "lr": 5e-4, "image_dropout": 0.1},
        "ut-zappos": {**_PUBLISHED, "lr": 2e-5, "batch_size": 32, "image_dropout": 0.1},
        "mit-states": {**_PUBLISHED, "lr": 1e-5, "batch_size": 16},
        "cgqa": {**_PUBLISHED, "lr": 1e-5, "batch_size": 16},
        "fruit-ripeness": {"image_dropout": 0.1},
    }
    looks_at: ClassVar[Literal["states"]] = "states"

    template: str = "a photo of a"
    """Words before the names in every prompt, fixed."""
    concept_reduction: int = 4
    """How many times narrower an adapter's hidden layer is than the tower."""
    fusion_layer: int | None = None
    """First vision layer of the mixture, counted from 0; None takes the middle (ViT-L/14: 12)."""
    concept_shift: float = 0.1
    """Probability that an image gets its attribute or object from another image of the batch."""
    image_dropout: float = 0.5
    """Dropout on the composition's unit image feature in training (UT-Zappos 0.1)."""
    primitive_scale: float = 20.0
    """Start of the attribute's and the object's logit scale, as a multiple of 1/τ."""
    train_norms: bool = True
    """Learn the layer norms of both towers, as the published code does."""
    train_projections: bool = True
    """Learn both towers' projections to the joint space, as the published code does."""
    train_words: bool = True
    """Learn the embeddings of the words of the names, as the published code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "concept_reduction", "fusion_layer", low=1)
        check_range("concept_shift", self.concept_shift, low=0, high=1)
        check_range("image_dropout", self.image_dropout, low=0, below=1)
        check_range("primitive_scale", self.primitive_scale, above=0)
