"""Options of CAMS, and its published settings per data set."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import PromptOptions, Settings

_PUBLISHED: dict[str, Any] = {"train_backbone": "adaptformer", "epochs": 15, "batch_size": 64}


@dataclass(frozen=True)
class CAMSOptions(PromptOptions):
    """Latent units gather what the last vision layers see; three spaces take it apart."""

    name: ClassVar[str] = "cams"
    label: ClassVar[str] = "CAMS"
    implementation: ClassVar[str] = "czsl_sac.methods.cams.method:CAMS"
    citation: ClassVar[str] = "Yang et al., arXiv 2511.16378, 2025"
    settings: ClassVar[Settings] = {
        "scenes": {
            "train_backbone": "adaptformer",
            "adapter_layers": (2, 3),
            "lr": 1e-3,
            "prompt_dropout": 0.1,
            "latent_units": 8,
            "extraction_layers": 2,
        },
        "ut-zappos": {
            **_PUBLISHED,
            "lr": 2.5e-4,
            "lr_step": 1,
            "adapter_layers": tuple(range(15, 24)),
            "extraction_layers": 9,
            "global_share": 0.65,
        },
        "mit-states": {
            **_PUBLISHED,
            "lr": 1e-4,
            "adapter_layers": tuple(range(16, 24)),
            "adapter_bottleneck": 128,
            "extraction_layers": 8,
        },
        "cgqa": {
            **_PUBLISHED,
            "lr": 1e-4,
            "adapter_layers": tuple(range(12, 24)),
            "adapter_bottleneck": 128,
            "extraction_layers": 12,
        },
        "fruit-ripeness": {"prompt_dropout": 0.1, "latent_units": 8, "extraction_layers": 2},
    }
    inference: ClassVar[frozenset[str]] = PromptOptions.inference | {"global_share"}
    looks_at: ClassVar[Literal["states"]] = "states"

    latent_units: int = 32
    """Latent units, learned queries that gather from the vision layers."""
    extraction_layers: int | None = None
    """Last vision layers that the units look at (UT-Zappos 9, MIT-States 8, C-GQA 12); None: a
    third of all."""
    unit_dropout: float = 0.5
    """Dropout on the latent units, and on the features of the three spaces."""
    attention_dropout: float = 0.1
    """Dropout in the cross-attention and in the MLPs of the units."""
    global_share: float = 0.85
    """Share β of the image's global logits in the composition's; the rest is of the units'."""
    primitive_loss_weight: float = 0.5
    """Weight of the attribute's and the object's loss."""
    train_temperature: bool = True
    """Learn 1/τ, which starts at the backbone's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "latent_units", "extraction_layers", low=1)
        check_ranges(self, "unit_dropout", "attention_dropout", low=0, below=1)
        check_range("global_share", self.global_share, low=0, high=1)
        check_range("primitive_loss_weight", self.primitive_loss_weight, low=0)
