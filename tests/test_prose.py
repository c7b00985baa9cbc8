"""Docstrings and errors speak one dialect: the imperative, known sections, one form of sentence."""

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("czsl_sac", "examples", "benchmarks")

# Rooms whose prose is still to be mended. The list only shrinks; it must be empty in the end.
TO_MEND: tuple[str, ...] = ()

SECTIONS = ("Args", "Attributes", "Examples", "Raises", "Returns", "Shape", "Warns", "Yields")
ENTRIES = {"Args", "Attributes", "Raises", "Warns"}
"""Sections that hold one entry a name."""

PROPER = {
    *("Adam", "AdaptFormer", "AUC", "BatchNorm", "CLIP", "CSP", "DFSP", "Eq", "EXIF", "HM", "JSON"),
    *("LoRA", "None", "OpenAI", "RMG", "SAC", "Scenes", "Triton", "Troika", "True", "False"),
}
"""Words that keep their capital at the start of an entry."""


def rooms() -> dict[str, list[Path]]:
    """Python files by room: a folder or file of the package, the examples, the benchmarks."""
    found: dict[str, list[Path]] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder)
            room = inside.parts[0].removesuffix(".py") if folder == "czsl_sac" else folder
            found.setdefault(room, []).append(path)
    return found


@cache
def moods() -> list[tuple[Path, str]]:
    """What ruff says of first words that are not in the imperative.

    A private function may also name what it returns: "The items of a split", "What is wrong with".
    """
    options = ("--select", "D401", "--output-format", "json", "--no-cache")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *options, *FOLDERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    said = []
    for found in json.loads(done.stdout):
        path, row, message = Path(found["filename"]), found["location"]["row"], found["message"]
        if not (re.search(r'"(The|What|Whether|An?) ', message) and is_private(path, row)):
            said.append((path, f"{row}: {message}"))
    return said


def is_private(path: Path, row: int) -> bool:
    """Whether the docstring at a line is of a function whose name starts with an underscore."""
    return any(
        isinstance(node, ast.FunctionDef) and node.body[0].lineno == row and node.name[0] == "_"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring, those below a field included."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        for child in node.body:
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                yield child.lineno, inspect.cleandoc(child.value.value)


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the sections of a docstring, each with its lines, without their indentation."""
    lines = text.split("\n")
    heads = [
        number
        for number, line in enumerate(lines[:-1])
        if re.fullmatch(r"[A-Z]\w+( \w+)?:", line) and lines[number + 1].startswith("    ")
    ]
    for number in heads:
        body = []
        for line in lines[number + 1 :]:
            if line and not line.startswith("    "):
                break
            body.append(line[4:])
        yield lines[number].removesuffix(":"), body


def entries(body: list[str]) -> list[str]:
    """Each entry of a section on one line: `name: what it is`."""
    joined: list[str] = []
    for line in body:
        if line.startswith(" ") and joined:
            joined[-1] += f" {line.strip()}"
        elif line:
            joined.append(line)
    return joined


def docstring_faults(text: str) -> Iterator[str]:
    """Yield what is wrong with one docstring."""
    found = dict(sections(text))
    if ">>> " in text and ">>> " not in "\n".join(found.get("Examples", [])):
        yield "an example stands outside the section Examples"
    for name, body in found.items():
        if name not in SECTIONS:
            yield f"section {name!r} is not one of {', '.join(SECTIONS)}"
        for entry in entries(body) if name in ENTRIES else ():
            what = entry.partition(": ")[2]
            first = re.match(r"\w+", what)
            if not what:
                yield f"{name}: entry {entry!r} has no description"
            elif not what.endswith("."):
                yield f"{name}: entry ends without a period: {entry!r}"
            elif first and re.fullmatch(r"[A-Z][a-z]+", first[0]) and first[0] not in PROPER:
                yield f"{name}: entry starts with a capital: {entry!r}"
    prose = re.sub(r"``.*?``|`[^`]*`|\$[^$]*\$", "", re.sub(r"(?m)^ *(>>>|\.\.\.).*$", "", text))
    size = r"(?:[BTDCAONLHWKPS]|\d+)"
    for shape in re.findall(rf"\[{size}(?:, (?:{size}|[a-z]))*\]|\([BTDC](?:, {size})+\)", prose):
        if re.search("[A-Z]", shape):
            yield f"shape {shape} is not written `[B, T, D]`, with backticks and brackets"


def error_faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield errors that do not say what must be, or what to do about it."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Raise) and node.exc is not None):
            continue
        call = node.exc if isinstance(node.exc, ast.Call) else ast.Call(node.exc, [], [])
        if not (isinstance(call.func, ast.Name) and call.func.id in ("ValueError", "TypeError")):
            continue
        if not call.args:
            yield node.lineno, f"{call.func.id} without a sentence"
            continue
        text = sentence(call.args[0])
        if text is None or re.fullmatch(r"…( \(.*\))?", text):  # made elsewhere
            continue
        if not re.search(r"\b(must|but)\b|[:;] (\S+ \S+|…)", text):
            yield node.lineno, f'error is not "x is A but must be B: do C.": {text!r}'
        # "it adapts …": a clause that another sentence takes up.
        if not text.rstrip().endswith((".", "…")) and not re.match(r"its? ", text):
            yield node.lineno, f"error ends without a period: {text!r}"


def sentence(node: ast.expr) -> str | None:
    """The text of a message, … for what is filled in; None if it is not written here."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [sentence(node.left), sentence(node.right)]
        return None if sides == [None, None] else "".join(side or "…" for side in sides)
    return None


def faults(room: str) -> list[str]:
    """Everything that is wrong in a room, each with file and line."""
    found = []
    for path in rooms()[room]:
        name, tree = path.relative_to(ROOT), ast.parse(path.read_text("utf-8"))
        found += [f"{name}:{said}" for file, said in moods() if file == path]
        found += [
            f"{name}:{line}: {fault}"
            for line, text in docstrings(tree)
            for fault in docstring_faults(text)
        ]
        found += [f"{name}:{line}: {fault}" for line, fault in error_faults(tree)]
    return found


@pytest.mark.parametrize("room", rooms())
def test_the_prose_of_every_room_is_in_one_dialect(room: str) -> None:
    found = faults(room)
    if room in TO_MEND and found:
        pytest.xfail(f"{len(found)} to mend, the first: {found[0]}")
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Do.\n\nExample:\n    >>> 1", "section 'Example'"),
        ("Do.\n\n>>> 1\n1", "outside the section Examples"),
        ("Do.\n\nArgs:\n    x: a number", "ends without a period"),
        ("Do.\n\nArgs:\n    x: The number,\n        written.", "starts with a capital"),
        ("Do.\n\nRaises:\n    ValueError", "has no description"),
        ("Map tokens [B, T, D].", "shape [B, T, D]"),
        ("Map tokens (B, T, D) to one.", "shape (B, T, D)"),
    ],
)
def test_a_fault_in_a_docstring_is_found(text: str, fault: str) -> None:
    assert fault in "\n".join(docstring_faults(text))


def test_a_docstring_in_the_dialect_has_no_fault() -> None:
    text = """Compare tokens `[B, T, D]` with texts (Eq. 2), for B in [0, 1].

    Args:
        tokens: of B images,
            the class token first.
        mode: CLIP's own.

    Examples:
        >>> torch.zeros(2, 3)[B, T]
    """
    assert list(docstring_faults(inspect.cleandoc(text))) == []


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("raise ValueError", 1),
        ("raise TypeError('x is wrong.')", 1),
        ("raise ValueError(f'x is {x}: give a name')", 1),
        ("raise ValueError(f'x is {x} but must be B: do C.')", 0),
        ("raise ValueError('x is ' + name + ': give a name.')", 0),
        ("raise ValueError(message)", 0),
        ("raise KeyError(name)", 0),
    ],
)
def test_errors_are_read(code: str, faults: int) -> None:
    assert len(list(error_faults(ast.parse(code)))) == faults
