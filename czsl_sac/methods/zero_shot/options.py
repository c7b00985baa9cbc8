"""Options of zero-shot CLIP."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from czsl_sac.methods.options import MethodOptions, Published, Settings, printed


@dataclass(frozen=True)
class ZeroShotOptions(MethodOptions):
    """CLIP as it comes; nothing is trained."""

    name: ClassVar[str] = "zero-shot"
    label: ClassVar[str] = "Zero-shot CLIP"
    implementation: ClassVar[str] = "czsl_sac.methods.zero_shot.method:ZeroShotCLIP"
    citation: ClassVar[str] = "Radford et al., ICML 2021"
    published: ClassVar[Published] = printed(
        """
        closed | 15.8 49.1 15.6 5.0 | 30.2 46.0 26.1 11.0 | 7.5 25.0 8.6 1.4
        open   | 15.7 20.6 11.2 2.2 | 30.1 14.3 12.8 3.0  | 7.5 4.6 4.0 0.3
        """
    )
    settings: ClassVar[Settings] = {
        name: {"train_backbone": "none"}
        for name in ("scenes", "ut-zappos", "mit-states", "cgqa", "fruit-ripeness")
    }
    looks_at: ClassVar[Literal["aligned"]] = "aligned"

    template: str = "a photo of"
    """Words before the attribute."""
