"""What predicts image files: a finished run, or CLIP as it comes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from czsl_sac.methods.base import CZSLMethod
from czsl_sac.pictures import require_matplotlib
from czsl_sac.predict.candidates import candidate_space, parse_pair
from czsl_sac.predict.heatmaps import HeatmapWriter
from czsl_sac.predict.predictions import PredictedBatch, Prediction, predict_files, top_predictions
from czsl_sac.space import CompositionSpace
from czsl_sac.training.build import image_reader
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.session import Session
from czsl_sac.words import counted


class ReadyToPredict(Protocol):
    """What predicts: a trained run, or CLIP as it comes."""

    @property
    def method(self) -> CZSLMethod:
        """In evaluation mode."""

    @property
    def config(self) -> TrainConfig:
        """Batch size and reader of images."""

    @property
    def session(self) -> Session:
        """Device and precision."""


class RunPredictor:
    """Names the compositions of image files by a run that `czsl-sac train` made.

    The run's data set need not be there.

    Args:
        run: with the options that prediction needs; see `on_new_images` of a method's options.
        candidates: what may be predicted: `"all"`, `"seen"`, `"open"`, or a file of compositions;
            see `czsl_sac.predict.candidates`.
        heatmaps: folder for a picture of where the method looked in each image; None draws none.
        heatmaps_for: composition that the pictures explain, `"attribute object"`; None takes the
            likeliest of each image.

    Attributes:
        space: the candidates.
        unreadable: what is wrong with each file met so far that could not be predicted.

    Raises:
        ValueError: an option does not fit the run.
        ImportError: pictures are asked for and matplotlib is not installed.
    """

    def __init__(
        self,
        run: ReadyToPredict,
        *,
        candidates: str = "all",
        heatmaps: Path | None = None,
        heatmaps_for: str | None = None,
    ) -> None:
        self.method, self.config, self.session = run.method, run.config, run.session
        self.space, self._explained = check_request(
            self.method.space, candidates=candidates, heatmaps=heatmaps, heatmaps_for=heatmaps_for
        )
        self.unreadable: list[str] = []
        with self.session.autocast():
            self.predictor = self.method.predictor(self.space)
        self._writer = (
            None if heatmaps is None else HeatmapWriter(self.method, self.predictor, heatmaps)
        )

    def batches(
        self,
        paths: Sequence[Path],
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Iterator[PredictedBatch]:
        """Predict image files in their order, and draw them if asked for.

        Args:
            paths: image files.
            batch_size: files per batch; None takes the run's `eval_batch_size`.
            show_progress: show a bar on stderr, if that is a terminal.

        Yields:
            Probabilities of each batch over `space`, and its files that cannot be read.

        Raises:
            ValueError: at the end, if none of the files could be read.
        """
        read = 0
        for batch in predict_files(
            self.method,
            self.predictor,
            paths,
            self.session,
            batch_size=batch_size or self.config.optim.eval_batch_size,
            image_reader=image_reader(self.config.data),
            show_progress=show_progress,
        ):
            self.unreadable += batch.unreadable
            read += len(batch.paths)
            if self._writer is not None:
                with self.session.autocast():
                    self._writer.draw(
                        batch.paths, batch.images, batch.probabilities, self._explained
                    )
            yield batch
        if not read:
            raise ValueError(
                f"{counted(len(paths), 'file')} given, but none is an image that can be read: "
                "give JPEG or PNG files, or a folder of them."
            )

    def predict(
        self, paths: Sequence[Path], *, top_k: int = 3, batch_size: int | None = None
    ) -> Iterator[Prediction]:
        """Predict image files and keep what is likeliest; see `batches`.

        Args:
            paths: image files.
            top_k: compositions, attributes and objects to keep of each image.
            batch_size: files per batch; None takes the run's `eval_batch_size`.

        Yields:
            A prediction for each file that can be read.
        """
        for batch in self.batches(paths, batch_size=batch_size):
            yield from top_predictions(batch, self.space, top_k)


def check_request(
    space: CompositionSpace, *, candidates: str, heatmaps: Path | None, heatmaps_for: str | None
) -> tuple[CompositionSpace, int | None]:
    """Return the candidates, and the column of the composition that heat maps explain.

    Raises:
        ValueError: a composition is unknown.
        ImportError: pictures are asked for and matplotlib is not installed.
    """
    if heatmaps is not None:
        require_matplotlib("heat maps")
    chosen = candidate_space(space, candidates)
    if heatmaps_for is None:
        return chosen, None
    return chosen, chosen.index(*parse_pair(heatmaps_for, chosen, "heatmaps_for"))
