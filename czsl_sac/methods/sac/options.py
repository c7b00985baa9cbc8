"""Options of SAC, and its settings per data set (the paper's supplement, Sec. A)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import PromptOptions, Published, Settings, printed

_OF_CONDENSER = (
    *("num_blocks", "num_heads", "mlp_ratio", "condenser_dropout", "alpha", "schedule"),
    *("condenser_epochs", "condenser_lr", "beta"),
)
_OF_BANK = ("capacity", "retrieval_temperature", "text_slot", "empty_slots", "gamma")


@dataclass(frozen=True)
class SACOptions(PromptOptions):
    """Sparse alignment, visual adaptive condensation and memory bank."""

    name: ClassVar[str] = "sac"
    label: ClassVar[str] = "SAC"
    implementation: ClassVar[str] = "czsl_sac.methods.sac.method:SAC"
    citation: ClassVar[str] = (
        "One Patch, One Text: Sparse Alignment for Closing CLIP's Modality Gap"
    )
    published: ClassVar[Published] = printed(
        """
        closed | 73.3 76.8 62.0 50.0 | 53.2 53.0 40.8 24.0 | 45.8 39.5 34.8 16.2
        open   | 72.9 66.7 54.8 42.3 | 52.9 21.2 23.1 9.4  | 45.5 11.5 15.3 4.6
        """
    )
    settings: ClassVar[Settings] = {
        # Chosen on validation (docs/scenes.md).
        "scenes": {"num_blocks": 1, "alpha": 0.5, "beta": 0.7, "gamma": 0.1, "capacity": 16},
        "ut-zappos": {"num_blocks": 3, "alpha": 0.5, "beta": 0.3, "gamma": 0.5, "capacity": 16},
        "mit-states": {"num_blocks": 3, "alpha": 0.9, "beta": 0.7, "gamma": 0.4, "capacity": 24},
        "cgqa": {
            "num_blocks": 1,
            "alpha": 0.5,
            "beta": 0.7,
            "gamma": 0.1,
            "capacity": 16,
            "prompt_dropout": 0.0,
        },
        "fruit-ripeness": {"num_blocks": 1, "beta": 0.5, "gamma": 0.1, "prompt_dropout": 0.1},
    }
    memory: ClassVar[frozenset[str]] = frozenset({"capacity", "text_slot"})
    inference: ClassVar[frozenset[str]] = PromptOptions.inference | {
        *("bank", "capacity", "text_slot", "retrieval_temperature", "empty_slots"),
        *("beta", "gamma"),
    }

    alignment: Literal["patch_max", "cls"] = "patch_max"
    """Sparse alignment (Eq. 1, 2), or the class token alone as most methods use."""
    condense: bool = True
    """Visual adaptive condensation (Eq. 5, 6) on top of the alignment."""
    num_blocks: int = 3
    """Blocks K of the condenser."""
    num_heads: int | None = None
    """Attention heads of the condenser; None means one per 64 dimensions."""
    mlp_ratio: float = 4.0
    """Hidden size of the condenser's feed-forward network, as a multiple of D."""
    condenser_dropout: float = 0.0
    """Dropout inside the condenser."""
    alpha: float = 0.5
    """Weight α of the distillation from alignment to condenser (Eq. 8), 0 to 1; 0 turns it off."""
    schedule: Literal["joint", "staged", "end_to_end"] = "joint"
    """One loop with each loss training its own parts (Eq. 11), Alg. 1's two loops, or one loop in
    which the condenser's loss also trains backbone and prompts."""
    condenser_epochs: int | None = None
    """Epochs of stage II if the schedule is staged; None means as many as epochs."""
    condenser_lr: float | None = None
    """Learning rate of the condenser; None means lr."""
    bank: Literal["off", "train", "dynamic"] = "dynamic"
    """Memory bank at test time: none, filled from training images, or updated on the stream too."""
    capacity: int = 16
    """Samples N that the bank keeps per composition."""
    retrieval_temperature: float = 0.1
    """Temperature τ_mb of the bank's retrieval (Eq. 10)."""
    text_slot: Literal["first_replaced", "until_full", "permanent"] = "first_replaced"
    """How long the bank keeps the text embedding that each composition starts from."""
    empty_slots: Literal["masked", "zeros"] = "masked"
    """Empty slots of the bank: left out of Eq. 10's softmax, or zero vectors in it."""
    beta: float = 0.5
    """Weight β of the alignment's prediction against the condenser's and the bank's (Eq. 12)."""
    gamma: float = 0.5
    """Weight γ of the bank's prediction (Eq. 12)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "alpha", "beta", low=0, high=1)
        check_ranges(self, "num_blocks", "num_heads", "condenser_epochs", "capacity", low=1)
        check_ranges(self, "mlp_ratio", "condenser_lr", "retrieval_temperature", above=0)
        check_range("condenser_dropout", self.condenser_dropout, low=0, below=1)
        check_range("gamma", self.gamma, low=0)
        if self.bank != "off" and not self.condense:
            raise ValueError(
                f'bank is "{self.bank}" but condense is off, and the bank stores condensed '
                'features: turn condense on or set bank to "off".'
            )

    def unread(self) -> dict[str, str]:
        """Return what is idle without condenser, bank, or the second loop of Alg. 1."""
        found = super().unread()
        if not self.condense:
            found |= dict.fromkeys(_OF_CONDENSER, "condense is off")
        elif self.schedule != "staged":
            found["condenser_epochs"] = f'schedule is "{self.schedule}"'
        if self.bank == "off":
            found |= dict.fromkeys(_OF_BANK, 'bank is "off"')
        return found

    def on_new_images(self, adapt: bool) -> dict[str, Any]:
        """Return whether the bank is updated on a user's images."""
        if self.bank == "off":
            return super().on_new_images(adapt)
        return {"bank": "dynamic" if adapt else "train"}

    @property
    def is_transductive(self) -> bool:
        """Whether the bank is updated on the test stream."""
        return self.bank == "dynamic"
