"""The compositions that a prediction may name, as a user asks for them."""

from pathlib import Path

from czsl_sac.checks import suggestion
from czsl_sac.space import CompositionSpace, Pair

KEYWORDS = ("all", "seen", "open")


def candidate_space(space: CompositionSpace, candidates: str) -> CompositionSpace:
    """Return the space of the compositions asked for, with the same attributes and objects.

    Args:
        space: of the run.
        candidates: `"all"` compositions of the run's data set, the `"seen"` ones, the `"open"`
            world of every attribute with every object, or a text file with a composition a line,
            `attribute object`.

    Returns:
        The candidates; those that were seen in training are seen.

    Raises:
        ValueError: no such choice and no such file, or the file names an unknown composition.

    Examples:
        >>> space = CompositionSpace.closed_world([("ripe", "apple"), ("old", "fig")],
        ...                                       test=[("old", "apple")])
        >>> [len(candidate_space(space, name)) for name in ("all", "seen", "open")]
        [3, 2, 4]
    """
    if candidates == "all":
        return space
    if candidates == "seen":
        return CompositionSpace(space.attributes, space.objects, space.seen, space.seen)
    if candidates == "open":
        return space.open_world()
    path = Path(candidates)
    if not path.is_file():
        remedy = suggestion(candidates, KEYWORDS) or "there is no such file, give one that exists."
        raise ValueError(
            f"candidates is {candidates!r} but must be all, seen, open, or a file with an "
            f"attribute and an object a line: {remedy}"
        )
    pairs = list(dict.fromkeys(_read_list(path, space)))
    if not pairs:
        raise ValueError(f"{path} names no composition: write an attribute and an object a line.")
    seen = set(space.seen)
    return CompositionSpace(space.attributes, space.objects, pairs, [p for p in pairs if p in seen])


def parse_pair(text: str, space: CompositionSpace, where: str) -> Pair:
    """Return the composition that a text names: an attribute, white space, an object.

    Names may hold spaces themselves: the text is split where both sides are known.

    Args:
        text: such as `"red circle"`.
        space: whose attributes and objects are known.
        where: what the text is, for the message.

    Raises:
        ValueError: an attribute or an object is unknown, or the text can be read in two ways.

    Examples:
        >>> space = CompositionSpace(["dark red"], ["fig"], [("dark red", "fig")], [])
        >>> parse_pair("dark red fig", space, "composition")
        ('dark red', 'fig')
    """
    words = text.split()
    splits = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    fitting = [(a, o) for a, o in splits if a in space.attributes and o in space.objects]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(
            f"{where} is {text!r} but must name one composition, and can be read as {fitting[0]} "
            f"or {fitting[1]}: rename an attribute or an object of the data set."
        )
    if not splits:
        raise ValueError(
            f"{where} is {text!r} but must be an attribute and an object: write both, with a "
            "space between."
        )
    attribute, obj = next((s for s in splits if s[0] in space.attributes), splits[-1])
    unknown, known, kind = (
        (obj, space.objects, "object")
        if attribute in space.attributes
        else (attribute, space.attributes, "attribute")
    )
    hint = suggestion(unknown, known) or f"known are {_some(known)}"
    raise ValueError(f"{where} is {text!r}, but {unknown!r} is no {kind} of the run: {hint}")


def _read_list(path: Path, space: CompositionSpace) -> list[Pair]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    return [
        parse_pair(line, space, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
