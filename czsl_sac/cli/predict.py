"""`czsl-sac predict`: compositions of image files, by a finished run."""

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import tyro

from czsl_sac.checks import check_not_folder, check_range
from czsl_sac.cli.options import parse_options
from czsl_sac.cli.predictor_options import PredictorOptions
from czsl_sac.words import counted, visible

if TYPE_CHECKING:
    from czsl_sac.predict.predictions import Prediction
    from czsl_sac.predict.run_predictor import RunPredictor


@dataclass(frozen=True)
class PredictOptions(PredictorOptions):
    """Name the compositions that image files show, most probable first.

    An attribute's (object's) probability is the sum of those of the candidates that hold it.
    Files that cannot be read are reported and the others predicted. Exit code: 0 if every file was
    predicted, 1 if some were not, 2 if nothing could be done.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run; with --attributes there is none, and images come first."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files, folders (all files below), or patterns such as 'photos/**/*.jpg'."""
    top_k: int = 3
    """Compositions, attributes and objects to name for each image."""
    format: Literal["table", "csv", "jsonl"] = "table"
    """A table, or CSV or JSON lines for programs."""
    output: Path | None = None
    """File to write instead of printing."""
    heatmaps: Path | None = None
    """Folder for a picture of each image: the patch that sparse alignment chose and where the
    condenser looked."""
    heatmaps_for: str | None = None
    """Composition that the heat maps explain, "attribute object"; None: each image's likeliest."""
    adapt: bool = False
    """SAC: update the memory bank on these images, batch by batch in their order (transductive)."""
    batch_size: int | None = None
    """Images per batch; None takes the run's own for evaluation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.images and self.attributes is None:
            raise ValueError(
                "images is empty but must be image files, folders or patterns: name them after the "
                "run."
            )
        check_range("top_k", self.top_k, low=1)
        check_range("batch_size", self.batch_size, low=1)
        if self.heatmaps_for is not None and self.heatmaps is None:
            raise ValueError(
                f"heatmaps_for is {self.heatmaps_for!r} but heatmaps must be a folder then: add "
                "--heatmaps DIR."
            )
        _check_writable("output", self.output, folder=False)
        _check_writable("heatmaps", self.heatmaps, folder=True)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(PredictOptions, "predict", arguments)

    from czsl_sac.files import write_atomically
    from czsl_sac.predict.images import find_files  # loads torch, as do the following
    from czsl_sac.predict.run_predictor import RunPredictor

    without_run = (str(options.run),) if options.attributes is not None else ()
    paths, missing = find_files((*without_run, *options.images))
    if not paths:
        raise ValueError(f"no image to predict: {missing[0]}")
    if options.output is not None and options.output.resolve() in {p.resolve() for p in paths}:
        raise ValueError(
            f"output is {options.output} but must not be one of the images, which would be lost: "
            "name another file."
        )
    asked: dict[str, Any] = {
        "heatmaps": options.heatmaps,
        "heatmaps_for": options.heatmaps_for,
    }
    ready = options.ready(options.run, adapt=options.adapt, **asked)
    predictor = RunPredictor(ready, candidates=options.candidates, **asked)
    _name(missing)
    if options.output is None:
        _write(predictor, paths, options, sys.stdout)
    else:
        write_atomically(
            options.output, lambda temporary: _write_file(predictor, paths, options, temporary)
        )
    _summarise(options, len(paths), len(missing), len(predictor.unreadable))
    return 1 if missing or predictor.unreadable else 0


def _write_file(
    predictor: "RunPredictor", paths: list[Path], options: PredictOptions, path: Path
) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        _write(predictor, paths, options, stream)


def _write(
    predictor: "RunPredictor", paths: list[Path], options: PredictOptions, stream: TextIO
) -> None:
    from czsl_sac.predict.formats import UNENCODABLE, write_predictions
    from czsl_sac.predict.predictions import top_predictions

    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=UNENCODABLE)

    def predictions() -> "Iterator[Prediction]":
        # Lines that appear one by one on a terminal leave no room for a bar.
        bar = options.format == "table" or not stream.isatty()
        for batch in predictor.batches(paths, batch_size=options.batch_size, show_progress=bar):
            _name(batch.unreadable)
            yield from top_predictions(batch, predictor.space, options.top_k)

    write_predictions(predictions(), options.format, stream)


def _name(unreadable: Sequence[str]) -> None:
    from tqdm import tqdm

    for problem in unreadable:
        tqdm.write(f"czsl-sac: {visible(problem)}", file=sys.stderr)


def _summarise(options: PredictOptions, found: int, missing: int, unreadable: int) -> None:
    predicted = found - unreadable
    said = [f"{counted(predicted, 'image')} predicted"]
    if missing + unreadable:
        said.append(f"{missing + unreadable} could not be read")
    if options.heatmaps is not None:
        said.append(f"heat maps in {options.heatmaps}")
    if options.output is not None:
        said.append(f"written to {options.output}")
    print(visible("; ".join(said)), file=sys.stderr)
    if options.adapt:
        note = "The method learned from these images: transductive predictions."
        print(note, file=sys.stderr)


def _check_writable(name: str, path: Path | None, *, folder: bool) -> None:
    """Refuse a path that runs through a file before an hour of predictions is lost to it."""
    if path is None:
        return
    if not folder:
        check_not_folder(name, path)
    for parent in (path, *path.parents) if folder else path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise ValueError(
                    f"{name} is {path} but {parent} must be a folder, and is a file: choose "
                    "another path."
                )
            return
