"""Single images of a study: where the baseline and SAC look, and what they predict."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from czsl_sac.experiments.plan import Study
from czsl_sac.experiments.runner import Measurement
from czsl_sac.experiments.setting import Setting
from czsl_sac.files import write_atomically
from czsl_sac.pictures import colours, require_matplotlib
from czsl_sac.predict.heatmaps import paint_looks
from czsl_sac.predict.looks import Looks, class_attention, look_at
from czsl_sac.report.examples import ExampleGroup, example_groups, spread
from czsl_sac.report.scoring import check_same_images, score_run
from czsl_sac.space import CompositionSpace
from czsl_sac.training.scoring import split_candidates
from czsl_sac.training.trained import TrainedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 2
"""Images beside each other in a picture of attention."""


def draw_images(
    study: Study, measured: Sequence[Measurement], setting: Setting, path: Path
) -> None:
    """Draw images of the test split, spread evenly over it, so that none is picked.

    Args:
        study: whose `looks` is not empty.
        measured: its rows, the baseline's first; seed 0 is drawn.
        setting: on what they were measured.
        path: PNG to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib("figures")
    baseline, ours = (m.run_dir for m in measured if m.seed == 0)
    root = setting.quick_data or setting.data_root
    draw = _attention if study.looks == "attention" else _predictions
    figure = draw(baseline, ours, root, study.images)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _attention(baseline: Path, ours: Path, root: Path | None, number: int) -> "Figure":
    """The condenser's attention, and the baseline's last layer's, on one scale an image."""
    from matplotlib.figure import Figure

    run, plain = (TrainedRun.load(path, data_root=root) for path in (ours, baseline))
    images: Any = run.data.split("test")
    places = spread(torch.ones(len(images), dtype=torch.bool), number)
    items = [images[place] for place in places]
    pixels = torch.stack([item[0] for item in items]).to(run.session.device)
    targets = torch.tensor([int(item[1]) for item in items])
    space, position = split_candidates(run.data, "test")
    with torch.no_grad(), run.session.autocast():
        looks = look_at(run.method, run.method.predictor(space), pixels, position[targets])
        attention = class_attention(plain.method.backbone.visual, pixels).float().cpu()
    both = Looks(None, None, looks.condenser, attention)
    backbone = run.method.backbone
    shown = colours(pixels, mean=backbone.mean, std=backbone.std)
    rows = ceil(len(places) / _COLUMNS)
    figure = Figure(figsize=(7.4 * _COLUMNS, 3.4 * rows), layout="constrained")
    parts = figure.subfigures(rows, _COLUMNS, squeeze=False).flatten()
    for row, (part, target) in enumerate(zip(parts, targets.tolist(), strict=False)):
        paint_looks(part, shown[row], both, row, " ".join(run.data.space.pairs[target]))
    return figure


def _predictions(baseline: Path, ours: Path, root: Path | None, number: int) -> "Figure":
    """Images by who is right, with what both say: green is right, red is wrong."""
    from matplotlib.figure import Figure

    plain, own = (score_run(path, "test", data_root=root) for path in (baseline, ours))
    check_same_images(plain, own, "SAC")
    predicted = (plain.scored.predicted, own.scored.predicted)
    theirs, mine = (each == own.targets for each in predicted)
    masks = {
        "SAC alone is right": mine & ~theirs,
        "the baseline alone is right": theirs & ~mine,
        "both are right": mine & theirs,
        "both are wrong": ~mine & ~theirs,
    }
    run = own.run
    groups = example_groups(
        masks, run.data, "test", run.method.backbone, own.targets, predicted, number
    )
    groups = [group for group in groups if group.images]
    figure = Figure(figsize=(1.9 * number, 2.9 * len(groups)), layout="constrained")
    parts = figure.subfigures(len(groups), 1, squeeze=False).flatten()
    for part, group in zip(parts, groups, strict=True):
        part.suptitle(f"{group.title}: {group.images} of {len(own.targets)}", fontsize=11)
        axes = part.subplots(1, number, squeeze=False)[0]
        for axis in axes:
            axis.set_axis_off()
        _show(group, axes, run.data.space)
    return figure


def _show(group: ExampleGroup, axes: "Sequence[Axes]", space: CompositionSpace) -> None:
    for axis, example in zip(axes, group.examples, strict=False):
        axis.imshow(example.picture.numpy(), interpolation="bilinear")
        axis.set_title(" ".join(space.pairs[example.truth]), fontsize=9, parse_math=False)
        for line, (name, column) in enumerate(
            zip(("baseline", "SAC"), example.predicted, strict=True)
        ):
            axis.text(
                0.5,
                -0.04 - 0.13 * line,
                f"{name}: {' '.join(space.pairs[column])}",
                transform=axis.transAxes,
                ha="center",
                va="top",
                fontsize=8,
                color="green" if column == example.truth else "red",
                parse_math=False,
            )
