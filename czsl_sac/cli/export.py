"""`czsl-sac export`: a run as one file that predicts without this package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from czsl_sac.checks import check_range
from czsl_sac.cli.options import parse_options


@dataclass(frozen=True)
class ExportOptions:
    """Write a run as one file: pixels in; likeliest compositions, attributes and objects out.

    The texts and what a memory holds are constants of the file. Its predictions are compared with
    the run's before it takes its place.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    to: Path
    """File to write: MODEL.onnx for onnxruntime and others, MODEL.pt2 for torch.export."""
    candidates: str = "all"
    """Compositions to choose from: "all" of the data set, those "seen" in training, the "open"
    world of every attribute with every object, or a file with one "attribute object" a line."""
    top: int = 5
    """Compositions to name of each image."""
    checkpoint: Literal["best", "last"] = "best"
    """Best epoch by validation AUC, or the last."""
    data_root: Path | None = None
    """Where the data set is now, if a memory has to be filled anew from it; None: where it was."""

    def __post_init__(self) -> None:
        check_range("top", self.top, low=1)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(ExportOptions, "export", arguments)

    from czsl_sac.cli.predictor_options import PredictorOptions
    from czsl_sac.predict.exporting import TOLERANCE, check_path, export  # these load torch

    check_path(options.to)
    predictor = PredictorOptions(
        candidates=options.candidates,
        checkpoint=options.checkpoint,
        data_root=options.data_root,
    )
    ready = predictor.ready(options.run, heatmaps=None, heatmaps_for=None)
    path = export(ready, options.to, candidates=options.candidates, top=options.top)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.1f} MiB, predicts as the run does to {TOLERANCE:g}")
    return 0
