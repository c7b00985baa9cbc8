"""Options of MSCI, and its published settings per data set."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import PromptOptions, Settings

_PUBLISHED: dict[str, Any] = {"train_backbone": "adaptformer"}

# 0.9 · 0.9 / 0.1, as the released configurations weigh p(a), p(o) and the composition's logit.
_CLOSED_WORLD = 8.1


@dataclass(frozen=True)
class MSCIOptions(PromptOptions):
    """Texts meet what the first vision layers see, then what the last do."""

    name: ClassVar[str] = "msci"
    label: ClassVar[str] = "MSCI"
    implementation: ClassVar[str] = "czsl_sac.methods.msci.method:MSCI"
    citation: ClassVar[str] = "Wang et al., IJCAI 2025"
    settings: ClassVar[Settings] = {
        "scenes": {
            "train_backbone": "adaptformer",
            "lr": 8e-3,
            "prompt_dropout": 0.1,
            "low_layers": 2,
            "high_layers": 2,
        },
        "ut-zappos": {
            **_PUBLISHED,
            "lr": 2.5e-4,
            "batch_size": 48,
            "low_layers": 3,
            "high_layers": 3,
        },
        "mit-states": {
            **_PUBLISHED,
            "lr": 1e-4,
            "epochs": 20,
            "eval_batch_size": 32,
            "low_layers": 4,
            "high_layers": 4,
            "primitive_weight": _CLOSED_WORLD,
        },
        "cgqa": {
            **_PUBLISHED,
            "lr": 1.25e-5,
            "batch_size": 48,
            "prompt_dropout": 0.0,
            "low_layers": 4,
            "high_layers": 4,
            "primitive_loss_weight": 0.1,
            "primitive_weight": _CLOSED_WORLD,
        },
        "fruit-ripeness": {"prompt_dropout": 0.1, "low_layers": 2, "high_layers": 2},
    }
    inference: ClassVar[frozenset[str]] = PromptOptions.inference | {"primitive_weight"}
    looks_at: ClassVar[Literal["states"]] = "states"

    low_layers: int | None = None
    """First vision layers whose tokens the texts meet first (UT-Zappos 3, MIT-States and C-GQA
    4); None: a sixth of all."""
    high_layers: int | None = None
    """Last vision layers whose tokens they meet then, likewise."""
    stage_layers: int = 1
    """Layers of cross-attention in each of the two stages."""
    stage_dropout: float = 0.1
    """Dropout in both stages, and on what joins the vision layers."""
    primitive_loss_weight: float = 1.0
    """Weight of the attribute's and the object's loss (C-GQA 0.1)."""
    primitive_weight: float = 1.0
    """Weight of p(a) p(o) in a score, beside the composition's logit (closed world: MIT-States and
    C-GQA 8.1; open world: these 1.63)."""
    chunk_size: int = 128
    """Compositions whose texts of a batch are held in memory at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "low_layers", "high_layers", "stage_layers", "chunk_size", low=1)
        check_range("stage_dropout", self.stage_dropout, low=0, below=1)
        check_ranges(self, "primitive_loss_weight", "primitive_weight", low=0)
