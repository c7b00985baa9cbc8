"""Options of RAPR, and its published settings per data set (the public code's)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import PromptOptions, Published, Settings, printed

_PUBLISHED: dict[str, Any] = {
    "train_backbone": "lora",
    "lora_rank": 4,
    "lora_alpha": 4.0,  # no scale
    "lora_targets": ("q", "v"),
    "epochs": 20,
    "lr_step": 20,  # one learning rate for all of training
}


@dataclass(frozen=True)
class RAPROptions(PromptOptions):
    """Three views of an image, two of them enriched by training images that they retrieve."""

    name: ClassVar[str] = "rapr"
    label: ClassVar[str] = "RAPR"
    implementation: ClassVar[str] = "czsl_sac.methods.rapr.method:RAPR"
    citation: ClassVar[str] = "Jing et al., AAAI 2024"
    published: ClassVar[Published] = printed(
        """
        closed | 69.4 72.8 56.5 44.5 | 50.0 53.3 39.2 22.5 | 45.6 36.0 32.0 14.4
        open   | 69.4 59.4 47.9 33.3 | 49.9 20.1 21.8 8.2  | 45.5 11.2 14.6 4.4
        """
    )
    settings: ClassVar[Settings] = {
        "scenes": {"lr": 4e-3, "prompt_dropout": 0.1, "database_size": 32},
        "ut-zappos": {
            **_PUBLISHED,
            "lora_layers": (23,),
            "lr": 3e-4,
            "batch_size": 256,  # 128, accumulated twice
            "view_adapter": "attention",
            "composition_residual": 0.8,
            "attribute_residual": 0.0,
            "object_residual": 0.0,
            "retrieval_size": 32,
            "retrieval_weight": 0.8,
            "primitive_share": 0.8,
            "debias_weight": 5.0,
            "retrieval_loss_size": 512,
        },
        "mit-states": {**_PUBLISHED, "lora_layers": (23,), "lr": 1e-4, "batch_size": 256},
        "cgqa": {
            **_PUBLISHED,
            "lora_layers": tuple(range(12, 24)),
            "lr": 3e-4,
            "database_size": 16,
            "composition_residual": 0.8,
            "debias_weight": 5.0,
            "retrieval_loss_size": 32,
        },
        "fruit-ripeness": {"prompt_dropout": 0.1, "database_size": 32},
    }
    inference: ClassVar[frozenset[str]] = PromptOptions.inference | {
        *("primitive_share", "retrieval_size", "retrieval_weight", "retrieval_sharpness"),
    }
    looks_at: ClassVar[Literal["states"]] = "states"

    view_adapter: Literal["mlp", "attention"] = "mlp"
    """What each view adds to the last states: an MLP on every token, or a whole block."""
    view_dropout: float = 0.3
    """Dropout in it."""
    composition_residual: float = 0.9
    """Share of CLIP's own feature in the composition's view, 0 to 1."""
    attribute_residual: float = 0.2
    """The same of the attribute's view."""
    object_residual: float = 0.2
    """The same of the object's view."""
    database_size: int = 128
    """Training images that the databases hold per attribute and per object."""
    retrieval_size: int = 16
    """Images that a view retrieves."""
    retrieval_weight: float = 0.5
    """Share of what was retrieved in the attribute's and the object's view, 0 to 1."""
    retrieval_sharpness: float = 10.0
    """What multiplies the cosines before their softmax weighs the retrieved images."""
    retrieval_tokens: Literal["all", "class_token"] = "all"
    """With sparse alignment: tokens that what was retrieved is mixed into; the query is the class
    token either way."""
    primitive_share: float = 0.2
    """Share w of attribute and object: (1 - w) pair + w (attribute + object), loss and score."""
    debias_weight: float = 1.0
    """Weight of the loss that keeps objects out of the attribute's view and attributes out of
    the object's."""
    legacy_debias: bool = False
    """Take of that loss the object's view alone, twice, as the published code does."""
    retrieval_loss_size: int = 128
    """Retrieved images that the retrieval loss compares with each view."""
    retrieval_loss_weight: float = 0.1
    """Weight of the retrieval loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("view_dropout", self.view_dropout, low=0, below=1)
        shares = ("composition_residual", "attribute_residual", "object_residual")
        check_ranges(self, *shares, "retrieval_weight", "primitive_share", low=0, high=1)
        check_ranges(self, "database_size", "retrieval_size", "retrieval_loss_size", low=1)
        check_range("retrieval_sharpness", self.retrieval_sharpness, above=0)
        check_ranges(self, "debias_weight", "retrieval_loss_weight", low=0)

    def unread(self) -> dict[str, str]:
        """Return what is idle with the class token alone, or with a weight of zero."""
        found = super().unread()
        if self.alignment == "cls":
            found["retrieval_tokens"] = 'alignment is "cls"'
        if self.debias_weight == 0:
            found["legacy_debias"] = "debias_weight is 0"
        if self.retrieval_loss_weight == 0:
            found["retrieval_loss_size"] = "retrieval_loss_weight is 0"
        return found
