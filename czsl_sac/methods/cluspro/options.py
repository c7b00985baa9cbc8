"""Options of ClusPro, and its published settings per data set."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import PromptOptions, Published, Settings, printed

_PUBLISHED: dict[str, Any] = {
    "train_backbone": "adaptformer",
    "epochs": 15,
    "lr": 1e-4,
    "weight_decay": 5e-5,
}


@dataclass(frozen=True)
class ClusProOptions(PromptOptions):
    """Clusters of each attribute's and object's features pull their space apart."""

    name: ClassVar[str] = "cluspro"
    label: ClassVar[str] = "ClusPro"
    implementation: ClassVar[str] = "czsl_sac.methods.cluspro.method:ClusPro"
    citation: ClassVar[str] = "Qu et al., ICLR 2025"
    published: ClassVar[Published] = printed(
        """
        closed | 70.7 76.0 58.5 46.6 | 52.1 54.0 40.7 23.8 | 44.3 37.8 32.8 14.9
        open   | 71.0 66.2 54.1 39.5 | 51.2 22.1 23.0 9.3  | 41.6 8.3 11.6 3.0
        """
    )
    # Learning rate, weight decay and epochs are the paper's; batch sizes and dropout, of which it
    # says nothing, the released configurations'.
    settings: ClassVar[Settings] = {
        "scenes": {"train_backbone": "adaptformer", "lr": 8e-3, "prompt_dropout": 0.1},
        "ut-zappos": {**_PUBLISHED, "batch_size": 128},
        "mit-states": {**_PUBLISHED, "batch_size": 64},
        "cgqa": {**_PUBLISHED, "batch_size": 16, "prompt_dropout": 0.0},
        "fruit-ripeness": {"prompt_dropout": 0.1},
    }
    inference: ClassVar[frozenset[str]] = PromptOptions.inference | {"composition_score"}
    looks_at: ClassVar[Literal["aligned"]] = "aligned"

    prototypes: int = 5
    """Prototypes K of each attribute and each object."""
    momentum: float = 0.99
    """Share of a prototype that stays after a step; the rest is the mean of its features."""
    assignment: Literal["local_aware", "transport", "nearest"] = "local_aware"
    """How features find their prototype: transport that keeps similar features together, plain
    transport with equal shares, or the nearest by cosine."""
    coherence: float = 1.0
    """Strength κ of what keeps similar features together (Eq. 7)."""
    transport_entropy: float = 0.1
    """Weight of the entropy in the transport."""
    clustered: Literal["class_token", "winner"] = "class_token"
    """Which token of an image is clustered with sparse alignment: the class token, or the one that
    its own attribute's, or object's, text fits best."""
    second_adapter: bool = True
    """Compare with texts and contrast after a second adapter, as the released code does."""
    contrast_weight: float = 0.2
    """Weight α of the prototype-based contrast (Eq. 12; released code 0.1)."""
    contrast_temperature: float = 0.1
    """Temperature of the contrast (Eq. 10; released code 0.07)."""
    decorrelation_weight: float = 0.5
    """Weight β of the decorrelation of attributes and objects (Eq. 12; released code 0)."""
    primitive_loss_weight: float = 1.0
    """Weight of the attribute's and the object's loss (released code for C-GQA 0.1)."""
    composition_score: Literal["logit", "probability"] = "logit"
    """What of the composition joins p(a) p(o) in a score: its logit, or p(c) (Eq. 13)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("prototypes", self.prototypes, low=1)
        check_range("momentum", self.momentum, low=0, below=1)
        check_ranges(self, "coherence", "contrast_weight", "decorrelation_weight", low=0)
        check_range("primitive_loss_weight", self.primitive_loss_weight, low=0)
        check_ranges(self, "transport_entropy", "contrast_temperature", above=0)

    def unread(self) -> dict[str, str]:
        """Return what is idle for the assignment, and with the class token alone."""
        found = super().unread()
        if self.alignment == "cls":
            found["clustered"] = 'alignment is "cls"'
        if self.assignment != "local_aware":
            found["coherence"] = f'assignment is "{self.assignment}"'
        if self.assignment == "nearest":
            found["transport_entropy"] = 'assignment is "nearest"'
        return found
