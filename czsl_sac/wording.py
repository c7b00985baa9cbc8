"""How numbers and names are written for people."""

__all__ = ["counted", "printable"]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s unless the number is one.

    Args:
        number: how many.
        noun: in the singular.

    Examples:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: object) -> str:
    r"""Return a text with its control characters and other invisible ones as escapes.

    A name may hold what moves a terminal's cursor, breaks a line of a table, or is no Unicode at
    all (file names of other encodings). A backslash stays one.

    Args:
        text: what is to be shown, such as a path.

    Examples:
        >>> printable("a\tb\x1b[2Jc\u202ed\udcff")
        'a\\tb\\x1b[2Jc\\u202ed\\udcff'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )
