"""Pages of HTML that need no other file, with every name escaped: what the templates are given."""

import base64
import io
from collections.abc import Iterable, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from czsl_sac._version import __version__
from czsl_sac.evaluation import CZSLResult
from czsl_sac.evaluation.result import COLUMNS
from czsl_sac.report.plots import curve_series, line_plot
from czsl_sac.space import CompositionSpace, Pair
from czsl_sac.words import counted, visible

SHARES = {"patch_wins": "a patch wins", "patch_attention": "attention on patches"}
"""Field of `CZSLResult.patch_shares`: column of a table."""


def page(template: str, **context: Any) -> str:
    """Return a template of this folder, filled in.

    Args:
        template: its name.
        context: what it asks for; a name that is missing is an error.
    """
    return (
        _templates()
        .get_template(template)
        .render(
            version=__version__, metrics=list(COLUMNS), share_names=list(SHARES.values()), **context
        )
    )


def curve_plot(results: Iterable[tuple[str, CZSLResult]]) -> Markup:
    """Return the seen-unseen curves of labelled results, as an `<svg>` element.

    Args:
        results: those of one label share their colour.
    """
    curves = [
        curve_series(label, result.curve, (result.hm_unseen, result.hm_seen))
        for label, result in results
    ]
    return line_plot(
        "curve",
        curves,
        x_label="accuracy on unseen compositions, %",
        y_label="accuracy on seen compositions, %",
    )


def percent(share: float) -> str:
    """Return a share in [0, 1] in percent, with two digits.

    Examples:
        >>> percent(0.12345)
        '12.35'
    """
    return f"{100 * share:.2f}"


def shares_table(results: Iterable[tuple[str, Sequence[CZSLResult]]]) -> list[list[str]]:
    """Return how much of the work patches do, a row a method that compares any, in percent.

    Args:
        results: label, and results over the seeds, whose mean is shown.
    """
    rows = []
    for label, of_seeds in results:
        found = [result.patch_shares for result in of_seeds]
        cells = []
        for name in SHARES:
            values = [shares[name] for shares in found if name in shares]
            cells.append(percent(fmean(values)) if values else "")
        if any(cells):
            rows.append([label, *cells])
    return rows


def shown(value: object) -> str:
    """Return the value of an option, of JSON types or None, as text.

    Examples:
        >>> shown(["q", "k"]), shown(None)
        ('q, k', 'None')
    """
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def data_uri(pixels: Tensor) -> str:
    """Return an image `[H, W, 3]` in [0, 1] as the address of itself, so that the page holds it."""
    from PIL import Image

    stream = io.BytesIO()
    levels = (pixels * 255).round().byte().numpy()
    Image.fromarray(levels).save(stream, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("czsl_sac.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        counted=counted, data_uri=data_uri, named=_named, percent=percent, visible=visible
    )
    return templates


def _named(space: CompositionSpace, composition: int | Pair) -> str:
    """Return a composition in words, with a star if it is unseen."""
    column = composition if isinstance(composition, int) else space.index(*composition)
    return " ".join(space.pairs[column]) + ("" if space.seen_mask[column] else " *")
