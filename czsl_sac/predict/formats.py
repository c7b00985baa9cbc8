"""Predictions as a table for people, and as CSV or JSON lines for programs."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TextIO

from czsl_sac.predict.predictions import Prediction
from czsl_sac.words import visible

Format = Literal["table", "csv", "jsonl"]

CSV_COLUMNS = ("image", "kind", "rank", "attribute", "object", "seen", "probability")

UNENCODABLE = "backslashreplace"
r"""How a CSV stream should write file names that are no Unicode: byte 0xff as `\udcff`."""


def write_predictions(predictions: Iterable[Prediction], format: Format, stream: TextIO) -> None:
    """Write predictions to a stream; CSV and JSON lines as they come, a table at the end.

    No name can break the output: control characters and bytes that are no Unicode are escaped in
    JSON, from which the name is read back as it was, and shown as escapes in a table, and in CSV
    on a terminal.

    Args:
        predictions: may be a generator.
        format: `"table"`; `"csv"`, a row for each composition (and each attribute and object, in
            the column `kind`) of an image; or `"jsonl"`, an object for each image.
        stream: open for text, with `newline=""` and `errors=UNENCODABLE`.
    """
    if format == "jsonl":
        for prediction in predictions:
            stream.write(_json_line(prediction, stream.encoding) + "\n")
    elif format == "csv":
        shown: Callable[[object], str] = visible if stream.isatty() else str
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for prediction in predictions:
            writer.writerows([*map(shown, row)] for row in _csv_rows(prediction))
    else:
        stream.write(_table(predictions) + "\n")
    stream.flush()  # a full disk is met here, where it is an error, and not when Python ends


def to_json(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON types: the image, and three lists, most probable first."""
    return {
        "image": str(prediction.path),
        "compositions": [
            {
                "attribute": ranked.pair[0],
                "object": ranked.pair[1],
                "probability": ranked.probability,
                "seen": ranked.seen,
            }
            for ranked in prediction.compositions
        ],
        "attributes": [
            {"attribute": name, "probability": value} for name, value in prediction.attributes
        ],
        "objects": [{"object": name, "probability": value} for name, value in prediction.objects],
    }


def _json_line(prediction: Prediction, encoding: str | None) -> str:
    content = to_json(prediction)
    line = json.dumps(content, ensure_ascii=False)
    try:
        line.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(content)
    return line if line.isprintable() else json.dumps(content)


def _csv_rows(prediction: Prediction) -> Iterator[tuple[object, ...]]:
    image = str(prediction.path)
    for rank, ranked in enumerate(prediction.compositions, start=1):
        seen = str(ranked.seen).lower()
        yield image, "composition", rank, *ranked.pair, seen, ranked.probability
    for rank, (name, value) in enumerate(prediction.attributes, start=1):
        yield image, "attribute", rank, name, "", "", value
    for rank, (name, value) in enumerate(prediction.objects, start=1):
        yield image, "object", rank, "", name, "", value


def _table(predictions: Iterable[Prediction]) -> str:
    from tabulate import tabulate

    rows: list[list[str]] = []
    unseen = False
    for prediction in predictions:
        unseen |= not all(ranked.seen for ranked in prediction.compositions)
        lists = (
            [(_named(r.pair, r.seen), r.probability) for r in prediction.compositions],
            prediction.attributes,
            prediction.objects,
        )
        for rank in range(max(map(len, lists))):
            cells = [str(prediction.path) if rank == 0 else ""]
            for ranked in lists:
                name, value = ranked[rank] if rank < len(ranked) else ("", None)
                cells += [name, "" if value is None else f"{100 * value:.1f}"]
            rows.append([*map(visible, cells)])
    headers = ["image", "composition", "%", "attribute", "%", "object", "%"]
    align = ("left", *("left", "right") * 3)
    table = tabulate(rows, headers=headers, colalign=align, disable_numparse=True)
    return f"{table}\n\n* unseen: a composition without a training image" if unseen else table


def _named(pair: tuple[str, str], seen: bool) -> str:
    return " ".join(pair) + ("" if seen else " *")
