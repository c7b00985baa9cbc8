"""Options of DFSP, and its published settings per data set."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range
from czsl_sac.methods.options import PromptOptions, Published, Settings, printed

_PUBLISHED: dict[str, Any] = {
    "train_backbone": "none",
    "epochs": 20,
    "batch_size": 256,
    "lr_step": 3,
    "prompt_dropout": 0.3,
}


@dataclass(frozen=True)
class DFSPOptions(PromptOptions):
    """Prompts taken apart into attributes and objects, and fused with the image."""

    name: ClassVar[str] = "dfsp"
    label: ClassVar[str] = "DFSP"
    implementation: ClassVar[str] = "czsl_sac.methods.dfsp.method:DFSP"
    citation: ClassVar[str] = "Lu et al., CVPR 2023"
    published: ClassVar[Published] = printed(
        """
        closed | 66.7 71.7 47.2 36.0 | 46.9 52.0 37.3 20.6 | 38.2 32.0 27.1 10.5
        open   | 66.8 60.0 44.0 30.3 | 47.5 18.5 19.3 6.8  | 38.3 7.2 10.4 2.4
        """
    )
    settings: ClassVar[Settings] = {
        "scenes": {"train_backbone": "none", "lr": 2e-3},
        "ut-zappos": {**_PUBLISHED, "lr": 5e-4, "fusion": "img2txt"},
        "mit-states": {**_PUBLISHED, "lr": 1e-4},
        "cgqa": {**_PUBLISHED, "lr": 5e-5},
        "fruit-ripeness": {"prompt_dropout": 0.1},
    }
    looks_at: ClassVar[Literal["states"]] = "states"

    fusion: Literal["txt2img", "img2txt"] = "txt2img"
    """Image tokens attend to prompts (MIT-States, C-GQA), or prompts to image tokens."""
    primitive_loss_weight: float = 0.01
    """Weight of the attribute's and the object's loss."""
    chunk_size: int = 128
    """Fusion img2txt: compositions whose texts of a batch are held in memory at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("primitive_loss_weight", self.primitive_loss_weight, low=0)
        check_range("chunk_size", self.chunk_size, low=1)

    def unread(self) -> dict[str, str]:
        """Return what only the other fusion reads."""
        idle = {"chunk_size": 'fusion is "txt2img"'} if self.fusion == "txt2img" else {}
        return super().unread() | idle
