"""Words of messages: a few of many, a number with its noun, characters that cannot be seen."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, whose plural ends in s unless it is given.

    Examples:
        >>> counted(1, "image"), counted(2, "image"), counted(0, "kind of fault", "kinds of fault")
        ('1 image', '2 images', '0 kinds of fault')
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def some(items: Sequence[str], limit: int = 3) -> str:
    """Return the first few items as a sentence tells them, all characters made visible.

    Examples:
        >>> some(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], limit=2)
        'a.jpg, b.jpg and 2 more'
    """
    left = len(items) - limit
    return ", ".join(map(visible, items[:limit])) + (f" and {left} more" if left > 0 else "")


def visible(text: object) -> str:
    r"""Return a text with escapes for what a terminal obeys or hides: control and invisible ones.

    Examples:
        >>> print(visible("ri\u200bpe\x1b[2J apple"))
        ri\u200bpe\x1b[2J apple
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
