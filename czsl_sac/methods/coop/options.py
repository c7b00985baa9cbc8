"""Options of CoOp; its settings are CSP's, which compares with it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from czsl_sac.methods.csp.options import PUBLISHED
from czsl_sac.methods.options import MethodOptions, Published, Settings, printed


@dataclass(frozen=True)
class CoOpOptions(MethodOptions):
    """One learned context for all compositions."""

    name: ClassVar[str] = "coop"
    label: ClassVar[str] = "CoOp"
    implementation: ClassVar[str] = "czsl_sac.methods.coop.method:CoOp"
    citation: ClassVar[str] = "Zhou et al., IJCV 2022"
    published: ClassVar[Published] = printed(
        """
        closed | 52.1 49.3 34.6 18.8 | 34.4 47.6 29.8 13.5 | 20.5 26.8 17.1 4.4
        open   | 52.1 31.5 28.9 13.2 | 34.6 9.3 12.3 2.8   | 21.0 4.6 5.5 0.7
        """
    )
    settings: ClassVar[Settings] = {
        "scenes": {"train_backbone": "none", "lr": 4e-3},
        "ut-zappos": {**PUBLISHED, "lr": 5e-4},
        "mit-states": {**PUBLISHED, "lr": 5e-5},
        "cgqa": {**PUBLISHED, "lr": 5e-5},
    }
    looks_at: ClassVar[Literal["aligned"]] = "aligned"
    train_context: ClassVar[bool] = True
    train_primitives: ClassVar[bool] = False
    prompt_dropout: ClassVar[float] = 0.0

    template: str = "a photo of"
    """Words that the context starts from, any number."""
