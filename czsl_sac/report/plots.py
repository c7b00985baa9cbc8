"""Line plots as SVG to stand inside a page: text in the page's colour and font, no references."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from czsl_sac.words import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3f83c8", "#d9822b", "#35a063", "#d3504e", "#8d6fc4", "#1f9ea3", "#b0568f")
"""Of the series; each can be told from a white and from a black page."""

_INK = "#010203"  # stands for the page's colour of text until it is replaced
_MUTED = "#808080"


class Series(NamedTuple):
    """A line of a plot.

    Attributes:
        label: in the legend; series of one label share their colour.
        x: positions.
        y: values; as many.
        mark: a point to mark on it, or None.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    mark: tuple[float, float] | None = None


def line_plot(
    name: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    bounds: Sequence[float] = (),
    whole_steps: bool = False,
) -> Markup:
    """Return a plot of lines as an `<svg>` element.

    Args:
        name: unlike that of any other plot of the page: it makes the ids in it unique.
        series: lines; from the eighth label on they are dashed, in the same colours.
        x_label: under the plot.
        y_label: beside it.
        bounds: positions of thin upright lines, between two stages for example.
        whole_steps: let ticks of x be whole numbers, and mark every value.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(line.label for line in series))
    for number, line in enumerate(series):
        dashed, place = divmod(labels.index(line.label), len(COLOURS))
        first = all(line.label != earlier.label for earlier in series[:number])
        colour = COLOURS[place]
        (drawn,) = axes.plot(line.x, line.y, color=colour, marker="o" if whole_steps else None)
        drawn.set(linewidth=1.6, markersize=3, linestyle="--" if dashed else "-")
        # Two dollars would be read as a formula, and a leading underscore as no label.
        drawn.set_label(" " + visible(line.label).replace("$", r"\$") if first else "_")
        if line.mark is not None:
            axes.plot(*line.mark, "o", color=colour, markersize=6)
    for position in bounds:
        axes.axvline(position, color=_MUTED, linewidth=0.8, linestyle=":")
    if whole_steps:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(labels) > 1:
        columns = min(4, max(1, 64 // (max(map(len, labels)) + 6)))  # 64 letters fit side by side
        figure.legend(
            loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=_INK
        )
    _use_ink(axes)
    return _to_svg(figure, name)


def curve_series(label: str, curve: Mapping[str, Any], best: tuple[float, float]) -> Series:
    """Return the seen-unseen curve as a line, in percent.

    Args:
        label: of the method.
        curve: of a `CZSLResult`.
        best: unseen and seen accuracy at the best harmonic mean, which is marked.
    """
    unseen, seen = (100 * curve[name] for name in ("unseen", "seen"))
    return Series(label, unseen.tolist(), seen.tolist(), (100 * best[0], 100 * best[1]))


def _use_ink(axes: "Axes") -> None:
    axes.grid(color=_MUTED, linewidth=0.5, alpha=0.35)
    axes.tick_params(colors=_INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_MUTED)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=9)


def _to_svg(figure: "Figure", name: str) -> Markup:
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # In a page the namespaces are known, and its width decides the size.
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', text, count=1)
    text = re.sub(r'font: [\d.]+px [^;"]*', _without_font, text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    return Markup(text.replace(_INK, "currentColor").strip())


def _without_font(match: "re.Match[str]") -> str:
    """Return the size of a text, in the page's font."""
    size = re.search(r"[\d.]+px", match[0])
    return f"font-size: {size[0] if size else '10px'}"
