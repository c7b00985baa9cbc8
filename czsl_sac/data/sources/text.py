"""Text as people and their programs write it: encodings, and words for a split."""

import codecs
from pathlib import Path

from czsl_sac.checks import suggestion
from czsl_sac.data.protocol import SPLITS
from czsl_sac.words import visible


def read_text(path: Path) -> str:
    r"""Return a text file without its byte order mark, which editors and Excel put at the start.

    Args:
        path: in UTF-8, or in UTF-16 with its mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is in another encoding, or no text.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train_pairs.txt"
        >>> _ = path.write_text("ripe apple\n", "utf-8-sig")
        >>> read_text(path)
        'ripe apple\n'
    """
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{visible(path)} is no text in UTF-8 ({error.reason} at byte {error.start}): "
            "save it in UTF-8."
        ) from None


def unknown_split(name: str) -> str:
    """Return what to say of a split that is none of train, val and test.

    Examples:
        >>> print(unknown_split("valid"))
        'valid': did you mean val?
    """
    near = suggestion(name.strip().lower(), SPLITS)
    return f"{name!r}: {near}" if near else repr(name)
