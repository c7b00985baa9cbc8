"""Where a prediction comes from, drawn over the image: a colour means one value in a picture."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from czsl_sac.files import write_atomically
from czsl_sac.methods.base import CZSLMethod, Predictor
from czsl_sac.pictures import colours
from czsl_sac.predict.looks import Looks, look_at
from czsl_sac.words import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure

SIMILARITY, ATTENTION = "cosine similarity to the text", "share of the attention, %"
"""What the maps measure: the labels of their colour bars."""

_NOTHING = 0.5
"""Attention on all patches, in percent, below which it is written as 0 and nothing is drawn."""
_LONGEST = 200
"""Bytes of an image's name that its picture keeps: file systems allow 255 with what is added."""


class HeatmapWriter:
    """Draws where a method looked, one PNG file an image.

    Args:
        method: in evaluation mode.
        predictor: the method's, over the candidates.
        folder: where the pictures go; made if needed. A picture is named after its image,
            `NAME_heatmap.png`, with a number where two images share their name.
    """

    def __init__(self, method: CZSLMethod, predictor: Predictor, folder: Path) -> None:
        self.method, self.predictor, self.folder = method, predictor, folder
        self._taken: set[str] = set()

    def draw(
        self,
        paths: Sequence[Path],
        images: Tensor,
        probabilities: Tensor,
        column: int | None = None,
    ) -> list[Path]:
        """Draw a batch.

        Args:
            paths: of the images.
            images: `[B, 3, H, W]`, normalised.
            probabilities: over the candidates, `[B, C]`.
            column: composition to explain; None takes the likeliest of each image.

        Returns:
            The pictures.
        """
        if not paths:
            return []
        columns = (
            probabilities.argmax(dim=1)
            if column is None
            else torch.full((len(paths),), column, dtype=torch.int64)
        )
        figures = draw_batch(self.method, self.predictor, images, probabilities, columns)
        written = []
        for path, figure in zip(paths, figures, strict=True):
            target = self.folder / self._name(path)
            write_atomically(target, partial(figure.savefig, format="png"))
            written.append(target)
        return written

    def _name(self, path: Path) -> str:
        stem = path.stem
        while len(os.fsencode(stem)) > _LONGEST:
            stem = stem[:-1]
        name, number = f"{stem}_heatmap.png", 1
        while name.lower() in self._taken:  # some file systems do not tell A from a
            number += 1
            name = f"{stem}_heatmap_{number}.png"
        self._taken.add(name.lower())
        return name


def draw_batch(
    method: CZSLMethod,
    predictor: Predictor,
    images: Tensor,
    probabilities: Tensor,
    columns: Tensor,
) -> "Iterator[Figure]":
    """Draw where a method looked for one composition in each image.

    The arguments are those of `look_at`, and probabilities over the candidates, `[B, C]`.

    Yields:
        The figure of each image, under the composition's name and probability.
    """
    space, backbone = predictor.space, method.backbone
    looks = look_at(method, predictor, images, columns)
    shown = colours(images, mean=backbone.mean, std=backbone.std)
    for row, index in enumerate(columns.tolist()):
        title = f"{' '.join(space.pairs[index])}: {100 * probabilities[row, index]:.1f} %"
        if not space.seen_mask[index]:
            title += " (unseen)"
        yield draw_looks(shown[row], looks, row, title)


def draw_looks(image: Tensor, looks: Looks, row: int, title: str) -> "Figure":
    """Return the figure of one image: as it is, and under each map that there is.

    Maps of one measure share their scale and their colour bar. The arguments are those of
    `paint_looks`.
    """
    from matplotlib.figure import Figure

    width = 2.3 * (1 + len(list(panels_of(looks, row))))
    figure = Figure(figsize=(width, 3.4), dpi=110, layout="compressed")
    paint_looks(figure, image, looks, row, title)
    return figure


def paint_looks(
    figure: "Figure | SubFigure", image: Tensor, looks: Looks, row: int, title: str
) -> None:
    """Draw one image into a figure: as it is, and under each map that there is.

    Args:
        figure: empty; a part of a larger one, where several images are shown.
        image: `[H, W, 3]` in [0, 1].
        looks: of a batch.
        row: of the image in the batch.
        title: above all.
    """
    panels = list(panels_of(looks, row))
    figure.suptitle(visible(title), fontsize=11, parse_math=False)
    grid = figure.add_gridspec(2, 1 + len(panels), height_ratios=[1, 0.05])
    first, *others = (figure.add_subplot(grid[0, column]) for column in range(1 + len(panels)))
    for axis in (first, *others):
        axis.set_axis_off()
        axis.imshow(image.numpy(), interpolation="bilinear")
    first.set_title("image\n", fontsize=9)
    for measure in dict.fromkeys(panel.measure for panel in panels):
        own = [column for column, panel in enumerate(panels) if panel.measure == measure]
        scale = _scale([panels[column] for column in own])
        for column in own:
            others[column].set_title(panels[column].title, fontsize=9)
            _paint(others[column], panels[column], image.shape[0], scale)
        bar = figure.add_subplot(grid[1, 1 + own[0] : 2 + own[-1]])
        _colour_bar(figure, bar, measure, scale, panels[own[0]].class_token)


class Panel(NamedTuple):
    """One map over the patches.

    Attributes:
        title: in two lines.
        measure: what is mapped, with its unit.
        weights: of the patches, `[side, side]`; None if there is nothing to draw.
        patch: to outline, counted from 0 by rows; None for none.
        won: whether sparse alignment took that patch, rather than the class token.
        class_token: value of the class token, to be marked on the colour bar; None for none.
        note: to write into the picture.
    """

    title: str
    measure: str
    weights: Tensor | None
    patch: int | None = None
    won: bool = False
    class_token: float | None = None
    note: str = ""


def panels_of(looks: Looks, row: int) -> Iterator[Panel]:
    """Return the maps to draw of one image."""
    if looks.similarity is not None:
        yield _similarity_panel(looks.similarity[row], looks.winner, row)
    for name, weights in (
        ("condenser's attention", looks.condenser),
        ("class token's attention", looks.class_token),
    ):
        if weights is not None:
            percent = 100 * _grid(weights[row])
            share = float(percent.sum())
            title = f"{name}\n{share:.0f} % on patches"
            if share < _NOTHING:
                yield Panel(title, ATTENTION, None, note="all on the class token")
            else:
                yield Panel(title, ATTENTION, percent)


def _similarity_panel(values: Tensor, winners: Tensor | None, row: int) -> Panel:
    grid, class_token = _grid(values), float(values[0])
    if winners is None:
        title = "similarity to the text\nbefore the reduction"
        return Panel(title, SIMILARITY, grid, class_token=class_token)
    winner = int(winners[row])
    if winner > 0:
        title = f"sparse alignment\ntakes the patch: {values[winner]:.2f}"
        return Panel(title, SIMILARITY, grid, winner - 1, True, class_token)
    best = int(values[1:].argmax())
    title = f"sparse alignment\nbest patch {values[best + 1]:.2f}, class token {class_token:.2f}"
    return Panel(title, SIMILARITY, grid, best, False, class_token, "class token won")


def _grid(tokens: Tensor) -> Tensor:
    """Patches of an image's tokens `[T]` as `[side, side]`."""
    side = round((len(tokens) - 1) ** 0.5)
    return tokens[1:].view(side, side)


class _Scale(NamedTuple):
    """What the colours of a measure mean in one picture."""

    low: float
    high: float
    colours: "Colormap"


def _scale(panels: Sequence[Panel]) -> _Scale:
    """One scale for all maps of a measure; the class token's value is on it."""
    import matplotlib
    import numpy as np
    from matplotlib.colors import ListedColormap

    rgba = matplotlib.colormaps["turbo"](np.linspace(0, 1, 256))
    drawn = [panel.weights for panel in panels if panel.weights is not None]
    if panels[0].measure == ATTENTION:
        # From nothing, which leaves the image as it is. Never finer than attention that is spread
        # evenly: what is next to nothing must not look like a spot.
        rgba[:, 3] = np.linspace(0, 1, 256).clip(max=0.35) / 0.35 * 0.65
        even = 100 / max((weights.numel() for weights in drawn), default=100)
        high = max((float(weights.max()) for weights in drawn), default=0.0)
        return _Scale(0.0, max(high, even), ListedColormap(rgba))
    rgba[:, 3] = 0.5
    values = [weights.flatten() for weights in drawn]
    values += [torch.tensor([p.class_token]) for p in panels if p.class_token is not None]
    low, high = (float(edge) for edge in torch.cat(values).aminmax())
    return _Scale(low, max(high, low + 1e-6), ListedColormap(rgba))


def _paint(axis: "Axes", panel: Panel, size: int, scale: _Scale) -> None:
    if panel.weights is not None:
        edges = (-0.5, size - 0.5, size - 0.5, -0.5)
        axis.imshow(
            panel.weights.numpy(),
            cmap=scale.colours,
            vmin=scale.low,
            vmax=scale.high,
            extent=edges,
            interpolation="bilinear",
            interpolation_stage="data",
        )
        if panel.patch is not None:
            side = len(panel.weights)
            _outline(axis, panel.patch, size / side, side, won=panel.won)
    if panel.note:
        box: dict[str, Any] = {"facecolor": "black", "alpha": 0.75, "edgecolor": "none", "pad": 2}
        axis.text(
            *(0.5, 0.03, panel.note),
            transform=axis.transAxes,
            ha="center",
            va="bottom",
            fontsize=8,
            color="white",
            bbox=box,
        )


def _outline(axis: "Axes", patch: int, step: float, side: int, *, won: bool) -> None:
    from matplotlib.patches import Rectangle

    row, column = divmod(patch, side)
    corner = (column * step - 0.5, row * step - 0.5)
    for colour, width, style in (("black", 4, "-"), ("white", 2, "-" if won else ":")):
        box = Rectangle(
            corner, step, step, fill=False, edgecolor=colour, linewidth=width, linestyle=style
        )
        axis.add_patch(box)


def _colour_bar(
    figure: "Figure | SubFigure",
    axis: "Axes",
    measure: str,
    scale: _Scale,
    class_token: float | None,
) -> None:
    """Draw the scale of a measure, with a mark at the class token's value."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    colours = ScalarMappable(Normalize(scale.low, scale.high), scale.colours)
    figure.colorbar(colours, cax=axis, orientation="horizontal", ticks=MaxNLocator(4))
    axis.tick_params(labelsize=7)
    if class_token is not None:
        measure += " (▼ class token)"
        place = axis.get_xaxis_transform()
        axis.plot([class_token], [1], "kv", markersize=6, clip_on=False, transform=place)
    axis.set_xlabel(measure, fontsize=8)
