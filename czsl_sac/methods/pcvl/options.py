"""Options of PCVL; where the paper's values could not be read, its settings are CSP's."""

from dataclasses import dataclass
from typing import ClassVar

from czsl_sac.checks import check_range
from czsl_sac.methods.csp.options import PUBLISHED
from czsl_sac.methods.options import MethodOptions, Published, Reads, Settings


@dataclass(frozen=True)
class PCVLOptions(MethodOptions):
    """A learned vector per attribute and object, in a learned context."""

    name: ClassVar[str] = "pcvl"
    label: ClassVar[str] = "PCVL"
    implementation: ClassVar[str] = "czsl_sac.methods.pcvl.method:PCVL"
    citation: ClassVar[str] = "Xu et al., arXiv 2211.05077"
    published: ClassVar[Published] = {
        "closed": {
            "ut-zappos": (64.4, 64.0, 46.1, 32.2),
            "mit-states": (48.5, 47.2, 35.3, 18.3),
        },
        "open": {
            "ut-zappos": (64.6, 44.0, 37.1, 21.6),
            "mit-states": (48.5, 16.0, 17.7, 6.1),
        },
    }
    settings: ClassVar[Settings] = {
        "scenes": {"train_backbone": "none", "lr": 1e-3},
        "ut-zappos": {**PUBLISHED, "lr": 5e-4, "prompt_dropout": 0.2},
        "mit-states": {**PUBLISHED, "lr": 5e-5},
        "cgqa": {**PUBLISHED, "lr": 5e-5},
        "fruit-ripeness": {"prompt_dropout": 0.1},
    }

    template: str = "a photo of"
    """Words that the context starts from, any number."""
    prompt_dropout: float = 0.3
    """Dropout on attribute and object embeddings in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("prompt_dropout", self.prompt_dropout, low=0, below=1)

    @property
    def reads(self) -> Reads:
        """What the alignment looks at."""
        return "class_token" if self.alignment == "cls" else "tokens"
