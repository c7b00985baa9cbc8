"""Options of Troika, and its published settings per data set."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import PromptOptions, Published, Settings, printed


@dataclass(frozen=True)
class TroikaOptions(PromptOptions):
    """Three prompts, three views of an image, texts pulled towards it."""

    name: ClassVar[str] = "troika"
    label: ClassVar[str] = "Troika"
    implementation: ClassVar[str] = "czsl_sac.methods.troika.method:Troika"
    citation: ClassVar[str] = "Huang et al., CVPR 2024"
    published: ClassVar[Published] = printed(
        """
        closed | 66.8 73.8 54.6 41.7 | 49.0 53.0 39.3 22.1 | 41.0 35.7 29.4 12.4
        open   | 66.4 61.2 47.8 33.0 | 48.8 18.7 20.1 7.2  | 40.8 7.9 10.9 2.7
        """
    )
    settings: ClassVar[Settings] = {
        "scenes": {
            "train_backbone": "adaptformer",
            "lr": 4e-3,
            "prompt_dropout": 0.1,
            "traction_layers": 1,
            "traction_dropout": 0.0,
        },
        "ut-zappos": {
            "train_backbone": "adaptformer",
            "lr": 5e-4,
            "batch_size": 128,
            "traction_layers": 2,
            "traction_dropout": 0.0,
        },
        "mit-states": {
            "train_backbone": "adaptformer",
            "lr": 1e-4,
            "eval_batch_size": 32,
            "traction_layers": 3,
            "traction_dropout": 0.1,
        },
        "cgqa": {
            "train_backbone": "adaptformer",
            "lr": 3.125e-6,
            "eval_batch_size": 4,
            "prompt_dropout": 0.0,
            "traction_layers": 2,
            "traction_dropout": 0.0,
            "primitive_loss_weight": 0.1,
        },
        "fruit-ripeness": {"prompt_dropout": 0.1},
    }

    disentangle: Literal["per_patch", "none"] = "per_patch"
    """Disentanglers on every token that the alignment looks at, or none."""
    text_side: Literal["tracted", "plain"] = "tracted"
    """Texts pulled towards each image, or as they are."""
    traction_layers: int = 3
    """Layers of the cross-modal traction (MIT-States 3, UT-Zappos and C-GQA 2)."""
    traction_dropout: float = 0.1
    """Dropout in the traction (MIT-States 0.1, UT-Zappos and C-GQA 0)."""
    primitive_loss_weight: float = 1.0
    """Weight of the attribute's and the object's loss (C-GQA 0.1)."""
    legacy_patch_norm: bool = False
    """Normalise the patches once, twice, three times for the branches, as published."""
    legacy_eval_mode: bool = False
    """No dropout, and frozen BatchNorm, after the first epoch, as published."""
    chunk_size: int = 128
    """Compositions whose texts of a batch are held in memory at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "traction_layers", "chunk_size", low=1)
        check_range("traction_dropout", self.traction_dropout, low=0, below=1)
        check_range("primitive_loss_weight", self.primitive_loss_weight, low=0)

    def unread(self) -> dict[str, str]:
        """Return what is idle without traction."""
        if self.text_side == "tracted":
            return super().unread()
        names = ("traction_layers", "traction_dropout", "legacy_patch_norm")
        return super().unread() | dict.fromkeys(names, 'text_side is "plain"')
