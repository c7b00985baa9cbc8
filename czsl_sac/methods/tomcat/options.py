"""Options of TOMCAT, and its published settings per data set (the paper's Tab. 8)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import Settings, WordOptions

_AT_TEST = (
    *("queue_size", "queue_feature", "alpha", "beta", "theta", "collaboration_weight"),
    *("test_lr", "test_weight_decay", "test_eps"),
)
_PUBLISHED: dict[str, Any] = {"train_backbone": "adaptformer", "epochs": 20}


@dataclass(frozen=True)
class TOMCATOptions(WordOptions):
    """Learned prompts and adapters, and prototypes that go on learning from the test images."""

    name: ClassVar[str] = "tomcat"
    label: ClassVar[str] = "TOMCAT"
    implementation: ClassVar[str] = "czsl_sac.methods.tomcat.method:TOMCAT"
    citation: ClassVar[str] = "Yan and Feng, NeurIPS 2025"
    settings: ClassVar[Settings] = {
        "scenes": {"train_backbone": "adaptformer", "lr": 8e-3, "prompt_dropout": 0.1},
        "ut-zappos": {
            **_PUBLISHED,
            "lr": 5e-4,
            "batch_size": 128,
            "alpha": 0.0,
            "beta": 7.5,
            "theta": 1.0,
            "collaboration_weight": 3.5,
            "test_lr": 5e-6,
            "test_weight_decay": 1e-3,
        },
        "mit-states": {**_PUBLISHED, "lr": 1e-4, "weight_decay": 1e-4},
        "cgqa": {
            **_PUBLISHED,
            "lr": 1e-4,
            "prompt_dropout": 0.0,
            "alpha": 0.5,
            "theta": 2.0,
            "collaboration_weight": 1.75,
            "test_lr": 6.25e-6,
        },
        "fruit-ripeness": {"prompt_dropout": 0.1},
    }
    inference: ClassVar[frozenset[str]] = WordOptions.inference | {"learn_at_test", *_AT_TEST}
    looks_at: ClassVar[Literal["aligned"]] = "aligned"
    train_context: ClassVar[bool] = True
    train_primitives: ClassVar[bool] = True

    learn_at_test: bool = True
    """Learn from the test images, one after the other; off, the trained model alone predicts."""
    queue_size: int = 3
    """Test images K that are kept per composition, those of the lowest entropy."""
    queue_feature: Literal["aligned", "class_token"] = "aligned"
    """What is kept of an image: what the alignment compares with its composition, or the class
    token; with the class token's alignment these are the same."""
    alpha: float = 1.25
    """Weight α of the visual prototypes in the logits (Eq. 6)."""
    beta: float = 10.0
    """Sharpness β of the visual prototypes: α exp(-β (1 - cos)) (Eq. 6)."""
    theta: float = 1.5
    """Degree θ of the update: a prototype moves by sigmoid(-θ cos) of what was learned (Eq. 4)."""
    collaboration_weight: float = 2.5
    """Weight λ of the loss that aligns visual and textual prototypes (Eq. 9)."""
    test_lr: float = 1e-6
    """Learning rate at test (AdamW)."""
    test_weight_decay: float = 1e-4
    """Weight decay at test."""
    test_eps: float = 1e-3
    """AdamW's ε at test."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("queue_size", self.queue_size, low=1)
        check_ranges(self, "alpha", "theta", "collaboration_weight", "test_weight_decay", low=0)
        check_ranges(self, "beta", "test_lr", "test_eps", above=0)

    def unread(self) -> dict[str, str]:
        """Return what is idle where nothing is learned at test, or the queues say nothing."""
        found = super().unread()
        if not self.learn_at_test:
            return found | dict.fromkeys(_AT_TEST, "learn_at_test is off")
        if self.alignment == "cls":
            found["queue_feature"] = 'alignment is "cls"'
        if self.alpha == 0:
            found["beta"] = "alpha is 0"
        return found

    def on_new_images(self, adapt: bool) -> dict[str, Any]:
        """Return whether the prototypes learn from a user's images."""
        return {"learn_at_test": adapt}

    @property
    def is_transductive(self) -> bool:
        """Whether test images change what is predicted for those after them."""
        return self.learn_at_test
