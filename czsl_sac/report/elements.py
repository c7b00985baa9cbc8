"""Pieces of a page as HTML. Whatever is not HTML already is escaped."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from torch import Tensor


class Html(str):
    """Text that is HTML already and is not escaped again."""


def text(value: object) -> Html:
    """Return a value as HTML: escaped, unless it is HTML.

    Args:
        value: anything that prints.

    Examples:
        >>> text("<b>"), text(Html("<b>"))
        ('&lt;b&gt;', '<b>')
    """
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(parts: Iterable[object], between: str = "\n") -> Html:
    """Return parts one after the other.

    Args:
        parts: HTML, or what is to be escaped.
        between: HTML between them.
    """
    return Html(between.join(text(part) for part in parts))


def paragraph(content: object, style: str = "") -> Html:
    """Return a paragraph.

    Args:
        content: HTML, or what is to be escaped.
        style: its class.
    """
    return Html(f'<p class="{style}">{text(content)}</p>' if style else f"<p>{text(content)}</p>")


def section(title: str, *parts: Html) -> Html:
    """Return parts under a heading.

    Args:
        title: of the section.
        parts: its content.
    """
    return Html(f"<section>\n<h2>{text(title)}</h2>\n{join(parts)}\n</section>")


def columns(*parts: Html) -> Html:
    """Return parts side by side where the page is wide enough, else below each other.

    Args:
        parts: figures, tables and the like.
    """
    return Html(f'<div class="columns">{join(Html(f"<div>{part}</div>") for part in parts)}</div>')


def folded(title: str, *parts: Html) -> Html:
    """Return parts that a click on the title shows.

    Args:
        title: what is always seen.
        parts: what is not.
    """
    return Html(f"<details><summary>{text(title)}</summary>\n{join(parts)}\n</details>")


def figure(svg: str, caption: str) -> Html:
    """Return a plot with its caption.

    Args:
        svg: an `<svg>` element.
        caption: under it.
    """
    return Html(f"<figure>\n{svg}\n<figcaption>{text(caption)}</figcaption>\n</figure>")


def table(
    headers: Sequence[object],
    rows: Iterable[Sequence[object]],
    caption: str = "",
    *,
    names: int = 1,
) -> Html:
    """Return a table that scrolls sideways where the page is too narrow for it.

    Args:
        headers: of the columns.
        rows: of cells, HTML or what is to be escaped.
        caption: above it.
        names: columns from the left that hold names; the others hold numbers, to the right.
    """

    def line(cells: Sequence[object], tag: str) -> str:
        styles = ["" if column < names else ' class="number"' for column in range(len(cells))]
        shown = zip(cells, styles, strict=True)
        return f"<tr>{''.join(f'<{tag}{style}>{text(c)}</{tag}>' for c, style in shown)}</tr>"

    top = f"<caption>{text(caption)}</caption>" if caption else ""
    head = f"<thead>{line(headers, 'th')}</thead>" if headers else ""
    body = "\n".join(line(row, "td") for row in rows)
    return Html(f'<div class="scroll"><table>{top}{head}<tbody>\n{body}\n</tbody></table></div>')


def bars(rows: Iterable[tuple[str, int, Sequence[float]]], caption: str) -> Html:
    """Return bars of shares, one row a name.

    Args:
        rows: name, number of images, and the share of each method in [0, 1].
        caption: above them.
    """
    lines = []
    for name, images, shares in rows:
        tracks = "".join(
            f'<span class="track{"" if first else " second"}">'
            f'<span style="width:{100 * share:.1f}%"></span></span>'
            for first, share in zip((True, False), shares, strict=False)
        )
        values = " / ".join(f"{100 * share:.1f}" for share in shares)
        lines.append(
            f'<tr><td>{text(name)} <span class="muted">{images}</span></td>'
            f'<td class="bar">{tracks}</td><td class="number">{values}</td></tr>'
        )
    body = "\n".join(lines)
    return Html(
        f'<table class="bars"><caption>{text(caption)}</caption><tbody>\n{body}\n</tbody></table>'
    )


def card(picture: Html, lines: Iterable[tuple[str, Html]]) -> Html:
    """Return a picture with what is said of it.

    Args:
        picture: an `<img>` element.
        lines: who says what.
    """
    said = "".join(f"<dt>{text(who)}</dt><dd>{what}</dd>" for who, what in lines)
    return Html(f'<div class="card">{picture}<dl>{said}</dl></div>')


def image(pixels: Tensor, description: str) -> Html:
    """Return an image that the page itself holds.

    Args:
        pixels: `[H, W, 3]` in [0, 1].
        description: for those who do not see it.
    """
    from PIL import Image

    stream = io.BytesIO()
    levels = (pixels * 255).round().byte().numpy()
    Image.fromarray(levels).save(stream, format="JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Html(f'<img alt="{text(description)}" src="data:image/jpeg;base64,{data}">')
