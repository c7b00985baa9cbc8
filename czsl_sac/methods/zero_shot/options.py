"""Options of zero-shot CLIP."""

from dataclasses import dataclass
from typing import ClassVar

from czsl_sac.methods.options import MethodOptions, Reads, Settings


@dataclass(frozen=True)
class ZeroShotOptions(MethodOptions):
    """CLIP as it comes; nothing is trained."""

    name: ClassVar[str] = "zero-shot"
    label: ClassVar[str] = "Zero-shot CLIP"
    implementation: ClassVar[str] = "czsl_sac.methods.zero_shot.method:ZeroShotCLIP"
    citation: ClassVar[str] = "Radford et al., ICML 2021"
    settings: ClassVar[Settings] = {
        name: {"train_backbone": "none"}
        for name in ("scenes", "ut-zappos", "mit-states", "cgqa", "fruit-ripeness")
    }

    template: str = "a photo of"
    """Words before the attribute."""

    @property
    def reads(self) -> Reads:
        """What the alignment looks at."""
        return "class_token" if self.alignment == "cls" else "tokens"
