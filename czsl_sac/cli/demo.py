"""`czsl-sac demo`: a page on which images can be dropped."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from czsl_sac.checks import check_range
from czsl_sac.cli.options import parse_options
from czsl_sac.cli.predictor_options import PredictorOptions
from czsl_sac.words import counted

if TYPE_CHECKING:
    from czsl_sac.predict.run_predictor import ReadyToPredict


@dataclass(frozen=True)
class DemoOptions(PredictorOptions):
    """Open a page on which images can be dropped: likeliest compositions, a table, heat maps.

    The page asks no other machine for anything, and shows what czsl-sac predict says. Images that
    are dropped are deleted when the command ends, by Ctrl+C.
    """

    run: tyro.conf.Positional[Path | None] = None
    """Folder of the run; with --attributes there is none."""
    host: str = "127.0.0.1"
    """Address to listen at: this machine alone, or 0.0.0.0 for all that can reach it."""
    port: int = 7860
    """Port to listen at; 0 takes any that is free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("port", self.port, low=0, high=65535)
        if self.run is None and self.attributes is None:
            raise ValueError(
                "run is missing but must be the folder of a run: name it, or give --attributes "
                "FILE and --objects FILE."
            )
        if self.run is not None and self.attributes is not None:
            raise ValueError(
                f"run is {self.run} but must be left out with --attributes: choose one of both."
            )


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(DemoOptions, "demo", arguments)
    if find_spec("gradio") is None:
        raise ImportError(
            'the page is made with gradio, which is not installed: pip install "czsl-sac[demo]"'
        )

    from czsl_sac.demo.explorer import Explorer  # loads torch, as do the following
    from czsl_sac.demo.page import build_page
    from czsl_sac.demo.server import address, application, listen, serve, uploads
    from czsl_sac.pictures import require_matplotlib

    require_matplotlib("heat maps")
    with listen(options.host, options.port) as listening, uploads():
        ready = options.ready(options.run, heatmaps=None, heatmaps_for=None)
        explorer = Explorer(ready, candidates=options.candidates)
        bias, bias_from = _bias(options)
        page = build_page(
            explorer,
            title=_title(options, ready),
            about=_about(options, ready),
            bias=bias,
            bias_from=bias_from,
        )
        answering = application(page)
        print(f"{address(listening)} (Ctrl+C ends it)", flush=True)
        if options.host not in ("127.0.0.1", "localhost", "::1"):
            print("Whoever reaches this machine can use the page.", flush=True)
        serve(answering, listening)
    return 0


def _bias(options: DemoOptions) -> tuple[float, str]:
    """The bias of the best harmonic mean on validation, and how the page calls it."""
    from math import isfinite

    from czsl_sac.training.run_folder import RunFolder

    epoch = None if options.run is None else RunFolder(options.run).epoch_of(options.checkpoint)
    bias = 0.0 if epoch is None else float(epoch["val"]["bias"])
    if epoch is None or not isfinite(bias):
        return 0.0, "0 adds none."
    return round(bias, 3), f"{bias:.3f} was best on validation, 0 adds none."


def _title(options: DemoOptions, ready: "ReadyToPredict") -> str:
    label = ready.config.method.label
    if options.run is None:
        return f"{label}, {ready.config.backbone.backbone}"
    return f"{label} on {ready.config.data.dataset}"


def _about(options: DemoOptions, ready: "ReadyToPredict") -> str:
    space = ready.method.space
    of = (
        f"{counted(len(space.attributes), 'attribute')}, {counted(len(space.objects), 'object')}, "
        f"{counted(len(space), 'composition')}"
    )
    if options.run is None:
        return f"As it comes, without training: {of}."
    backbone, unseen = ready.config.backbone.backbone, len(space) - len(space.seen)
    return f"{options.run}, backbone {backbone}: {of}, {unseen} of them unseen in training."
