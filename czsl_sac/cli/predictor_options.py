"""Options that say what predicts, of the commands that predict image files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from czsl_sac.predict.run_predictor import ReadyToPredict


@dataclass(frozen=True, kw_only=True)
class PredictorOptions:
    """What predicts, a run or CLIP as it comes, and what it may name."""

    attributes: Path | None = None
    """Without a run: text file with an attribute a line, for CLIP as it comes."""
    objects: Path | None = None
    """Without a run: text file with an object a line."""
    backbone: str = "ViT-B/32"
    """Without a run: CLIP to use, see czsl-sac train --help."""
    candidates: str = "all"
    """Compositions to choose from: "all" of the data set, those "seen" in training, the "open"
    world of every attribute with every object, or a file with one "attribute object" a line."""
    checkpoint: Literal["best", "last"] = "best"
    """Best epoch by validation AUC, or the last."""
    data_root: Path | None = None
    """Where the data set is now, if a memory has to be filled anew from it; None: where it was."""

    def __post_init__(self) -> None:
        if (self.attributes is None) != (self.objects is None):
            lacking = "objects" if self.objects is None else "attributes"
            raise ValueError(
                f"{lacking} is missing but must be given with the other list of words: add "
                f"--{lacking} FILE."
            )

    def ready(self, run: Path | None, *, adapt: bool = False, **asked: Any) -> "ReadyToPredict":
        """Return the run, or CLIP as it comes on two lists of words.

        Args:
            run: its folder; None, or whatever it is, where two lists are given.
            adapt: let what is predicted change the predictions that follow.
            asked: what else is asked of the predictor, checked before CLIP is loaded; see
                `check_request`.

        Raises:
            FileNotFoundError: there is no run, or no such file.
            ValueError: what is asked does not fit.
        """
        from czsl_sac.predict.run_predictor import check_request  # loads torch, as do the following
        from czsl_sac.training.run_folder import RunFolder
        from czsl_sac.training.trained import TrainedRun
        from czsl_sac.training.untrained import read_words, untrained

        if self.attributes is not None and self.objects is not None:
            words = (read_words(self.attributes), read_words(self.objects))
            return untrained(*words, backbone=self.backbone)
        assert run is not None
        record = RunFolder(run).read_record()
        check_request(record.space, candidates=self.candidates, **asked)
        return TrainedRun.load(
            run,
            checkpoint=self.checkpoint,
            data_root=self.data_root,
            **record.config.method.on_new_images(adapt),
        )
