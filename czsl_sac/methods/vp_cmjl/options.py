"""Options of VP-CMJL, and its published settings per data set."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range
from czsl_sac.methods.options import PromptOptions, Settings

_PUBLISHED: dict[str, Any] = {
    "train_backbone": "adaptformer",
    "epochs": 20,
    "lr_step": 3,
    "attention_heads": 16,
}


@dataclass(frozen=True)
class VPCMJLOptions(PromptOptions):
    """Visual proxies of attributes and objects learn beside the texts, and from them."""

    name: ClassVar[str] = "vp-cmjl"
    label: ClassVar[str] = "VP-CMJL"
    implementation: ClassVar[str] = "czsl_sac.methods.vp_cmjl.method:VPCMJL"
    citation: ClassVar[str] = "Zhang et al., ICCV 2025"
    settings: ClassVar[Settings] = {
        "scenes": {"train_backbone": "adaptformer", "lr": 8e-3, "prompt_dropout": 0.1},
        "ut-zappos": {
            **_PUBLISHED,
            "lr": 5e-4,
            "batch_size": 16,
            "proxy_weight": 0.7,
            "text_weight": 0.3,
        },
        "mit-states": {**_PUBLISHED, "lr": 5e-4, "batch_size": 32, "epochs": 15},
        "cgqa": {
            **_PUBLISHED,
            "lr": 5e-5,
            "batch_size": 32,
            "proxy_weight": 1.0,
            "text_weight": 1.0,
        },
        "fruit-ripeness": {"prompt_dropout": 0.1},
    }
    inference: ClassVar[frozenset[str]] = PromptOptions.inference | {
        "proxy_weight",
        "text_weight",
        "primitive_score",
    }
    looks_at: ClassVar[Literal["aligned"]] = "aligned"

    proxy_weight: float = 0.3
    """Weight α of the visual proxies' logits in a score (UT-Zappos 0.7, C-GQA 1)."""
    text_weight: float = 0.7
    """Weight β of the texts' logits in a score (UT-Zappos 0.3, C-GQA 1)."""
    primitive_score: Literal["sum", "product"] = "sum"
    """How p(a) and p(o) join the composition's logit: their sum, as the released code has it, or
    their product, as in Troika."""
    primitive_loss_weight: float = 1.0
    """Weight of the attribute's and the object's losses."""
    joint_loss_weight: float = 1.0
    """Weight of the divergence between texts' and proxies' compositions."""
    detach_teacher: bool = False
    """Let the divergence teach the proxies alone; the released code lets it move the texts too."""
    attention_heads: int | None = None
    """Heads with which an image attends to attributes and objects; None: one for 64 of D."""
    attention_logits: bool = True
    """Add the attention of the image to attributes and objects to their texts' logits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("attention_heads", self.attention_heads, low=1)
        for name in ("proxy_weight", "text_weight", "primitive_loss_weight", "joint_loss_weight"):
            check_range(name, getattr(self, name), low=0)

    def unread(self) -> dict[str, str]:
        """Return what is idle without the divergence."""
        found = super().unread()
        if self.joint_loss_weight == 0:
            found["detach_teacher"] = "joint_loss_weight is 0"
        return found
