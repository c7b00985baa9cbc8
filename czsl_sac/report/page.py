"""The page about a run: one HTML file that needs no other, with every name escaped."""

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from itertools import pairwise
from string import Template

from czsl_sac._version import __version__
from czsl_sac.data.protocol import SplitName
from czsl_sac.evaluation import CZSLResult
from czsl_sac.report import elements as html
from czsl_sac.report.elements import Html
from czsl_sac.report.plots import Series, curve_series, line_plot
from czsl_sac.report.run_report import Example, RunReport
from czsl_sac.report.scored import Recall, Scored, confusions, error_kinds, recalls
from czsl_sac.space import Pair

CONFUSIONS = 15
"""Rows of the table of confusions."""

SHOWN = 20
"""Attributes and objects that are seen without a click, the worst first."""

_METRICS = {
    "S": "seen",
    "U": "unseen",
    "HM": "hm",
    "AUC": "auc",
    "attribute": "attribute",
    "object": "object",
}
_GAPS = {"relative": "relative_modality_gap", "L2": "modality_gap_l2"}


def render(report: RunReport) -> str:
    """Return the page.

    Args:
        report: what it says.
    """
    title = f"{report.methods[0].label} on {report.data.name}: {report.run_dir.name}"
    body = html.join(
        [
            Html(f"<header>\n<h1>{html.text(title)}</h1>\n{_summary(report)}\n</header>"),
            html.section("Result", *_result(report)),
            html.section("Training", *_training(report)),
            html.section("Attributes and objects", *_primitives(report)),
            html.section("Errors", *_errors(report)),
            html.section("Examples", *_examples(report)),
            html.section("Data", *_data(report)),
            html.section("Configuration", *_configuration(report)),
        ]
    )
    template = files("czsl_sac.report").joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(title=escape(title), body=body)


def _summary(report: RunReport) -> Html:
    backbone, optim = report.config.backbone, report.config.optim
    scored = (
        f"{len(report.targets):,} images of the {report.split} split, {report.checkpoint} epoch. "
        f"Closed world: {report.candidates:,} candidate compositions."
    )
    trained = (
        f"{report.methods[0].label} with alignment {report.config.method.alignment}, "
        f"backbone {backbone.backbone} ({backbone.train_backbone}), "
        f"{optim.epochs} epochs, learning rate {optim.lr:g}, seed {report.config.seed}."
    )
    made = Html(
        f"Made by <code>czsl-sac report {html.text(report.run_dir)}</code>, version {__version__}."
    )
    return html.join(html.paragraph(line, "muted") for line in (trained, scored, made))


def _result(report: RunReport) -> Iterator[Html]:
    rows = []
    for method in report.methods:
        rows.append([method.label, "exact", *_metrics(method.result)])
        rows.append([method.label, "legacy", *_metrics(method.legacy)])
    yield html.table(["method", "protocol", *_METRICS], rows, "In percent", names=2)
    yield html.paragraph(
        "S and U are the best accuracies on images of seen and unseen compositions, HM the best "
        "harmonic mean of both, AUC the area under the curve below. The exact protocol sweeps "
        "every bias at which a prediction changes; legacy repeats the published evaluator. "
        "Attribute and object are accuracies without a bias, as is everything further down.",
        "muted",
    )
    learned = [method.label for method in report.methods if method.transductive]
    if learned:
        yield html.paragraph(
            f"Transductive: the memory bank of {' and '.join(learned)} was updated on these images "
            "while they were scored.",
            "note",
        )
    curves = [
        curve_series(m.label, m.result.curve, (m.result.hm_unseen, m.result.hm_seen))
        for m in report.methods
    ]
    svg = line_plot(
        "curve",
        curves,
        x_label="accuracy on unseen compositions, %",
        y_label="accuracy on seen compositions, %",
    )
    curve = html.figure(svg, "Seen-unseen curve, exact protocol; the dot is at the best HM")
    yield html.columns(curve, *_gaps(report.methods))


def _gaps(methods: list[Scored]) -> Iterator[Html]:
    rows = [
        [method.label, kind.replace("_", " "), *(f"{gap[name]:.4f}" for name in _GAPS.values())]
        for method in methods
        for kind, gap in method.result.modality_gap.items()
    ]
    if rows:
        caption = "Modality gap between image features and texts"
        yield html.table(["method", "image feature", *_GAPS], rows, caption, names=2)


def _metrics(result: CZSLResult) -> list[str]:
    return [_percent(getattr(result, name)) for name in _METRICS.values()]


def _training(report: RunReport) -> Iterator[Html]:
    records = report.records
    if not records:
        yield html.paragraph("Nothing was trained.")
        return
    epochs = list(range(1, len(records) + 1))
    starts = [
        position - 0.5
        for position, (last, this) in enumerate(pairwise(records), start=2)
        if last["stage"] != this["stage"]
    ]
    names = list(dict.fromkeys(name for record in records for name in record["losses"]))
    losses = [
        Series(
            name,
            [e for e, r in zip(epochs, records, strict=True) if name in r["losses"]],
            [r["losses"][name] for r in records if name in r["losses"]],
        )
        for name in names
    ]
    validation = [
        Series(label, epochs, [100 * record["val"][name] for record in records])
        for label, name in _METRICS.items()
    ]
    parts = [
        html.figure(
            line_plot(
                "losses", losses, x_label="epoch", y_label="loss", bounds=starts, whole_steps=True
            ),
            "Training losses, mean of each epoch",
        ),
        html.figure(
            line_plot(
                "validation",
                validation,
                x_label="epoch",
                y_label="%",
                bounds=starts,
                whole_steps=True,
            ),
            "Validation, exact protocol, without memory bank",
        ),
    ]
    yield html.columns(*parts)
    best = max(records, key=lambda record: record["val"]["auc"])
    seconds = sum(record["seconds"] for record in records)
    stages = " and ".join(dict.fromkeys(record["stage"] for record in records))
    yield html.paragraph(
        f"{len(records)} epochs ({stages}) in {seconds:,.0f} s. Best validation AUC "
        f"{_percent(best['val']['auc'])} in epoch {best['epoch']}"
        f"{' of stage ' + best['stage'] if starts else ''}.",
        "muted",
    )


def _primitives(report: RunReport) -> Iterator[Html]:
    who = " / ".join(method.label for method in report.methods)
    yield html.paragraph(
        f"Share of an attribute's (object's) images in whose prediction it is right: {who}, in "
        "percent, after the number of its images; the worst first.",
        "muted",
    )
    parts = []
    for kind in ("attribute", "object"):
        rows = recalls(report.data.space, report.targets, report.methods, kind)
        shown = html.bars(rows[:SHOWN], f"{len(rows)} {kind}s")
        rest: list[Recall] = rows[SHOWN:]
        if rest:
            shown = html.join([shown, html.folded(f"{len(rest)} more", html.bars(rest, ""))])
        parts.append(shown)
    yield html.columns(*parts)


def _errors(report: RunReport) -> Iterator[Html]:
    space, targets = report.data.space, report.targets
    seen = space.seen_mask[targets]
    rows = []
    for method in report.methods:
        kinds = error_kinds(space, targets, method.predicted)
        for name, images in (("seen", seen), ("unseen", ~seen)):
            shares = [_percent(float(mask[images].double().mean())) for mask in kinds.values()]
            rows.append([method.label, name, *shares])
    yield html.table(["method", "images of", *kinds], rows, "In percent of the images", names=2)
    run = report.methods[0]
    worst = confusions(space, targets, run.predicted, CONFUSIONS)
    if worst:
        yield html.table(
            ["image shows", "predicted", "images", "of"],
            [
                [_pair(report, c.truth), _pair(report, c.predicted), c.errors, c.images]
                for c in worst
            ],
            f"Most confused compositions of {run.label}; * unseen",
            names=2,
        )


def _examples(report: RunReport) -> Iterator[Html]:
    yield html.paragraph(
        "Taken at even distances from all images of each kind, not chosen. * unseen composition",
        "muted",
    )
    for group in report.groups:
        if group.images:
            share = _percent(group.images / len(report.targets))
            yield Html(
                f"<h3>{html.text(group.title)} "
                f'<span class="muted">{group.images:,} images, {share} %</span></h3>'
            )
            cards = html.join(_card(report, example) for example in group.examples)
            yield Html(f'<div class="cards">{cards}</div>')


def _card(report: RunReport, example: Example) -> Html:
    truth = report.data.space.pairs[example.truth]
    lines = [("image shows", html.text(_pair(report, truth)))]
    for method, column in zip(report.methods, example.predicted, strict=True):
        lines.append((method.label, _judged(report.data.space.pairs[column], truth)))
    return html.card(html.image(example.picture, " ".join(truth)), lines)


def _judged(predicted: Pair, truth: Pair) -> Html:
    """A predicted composition with each word marked right or wrong, by more than its colour."""
    words = [
        Html(
            f'<span class="{"right" if said == true else "wrong"}">{html.text(said)}&nbsp;'
            f"{'✓' if said == true else '✗'}</span>"
        )
        for said, true in zip(predicted, truth, strict=True)
    ]
    return html.join(words, " ")


def _data(report: RunReport) -> Iterator[Html]:
    space, data = report.data.space, report.data
    facts = [
        ("data set", data.name),
        ("attributes", f"{len(space.attributes):,}"),
        ("objects", f"{len(space.objects):,}"),
        ("compositions", f"{len(space):,}"),
        ("seen", f"{int(space.seen_mask.sum()):,}"),
    ]
    splits: tuple[SplitName, ...] = ("train", "val", "test")
    rows = []
    for split in splits:
        candidates = data.candidates(split)
        unseen = int((candidates & ~space.seen_mask).sum())
        rows.append([split, f"{len(data.split(split)):,}", f"{unseen:,}"])  # type: ignore[arg-type]
    yield html.columns(
        html.table([], facts), html.table(["split", "images", "unseen compositions"], rows)
    )


def _configuration(report: RunReport) -> Iterator[Html]:
    groups = report.config.to_dict()
    seed = groups.pop("seed")
    parts = [
        html.table([], [(name, _value(v)) for name, v in options.items()], group, names=2)
        for group, options in groups.items()
    ]
    yield html.folded("All options", html.table([], [("seed", seed)]), html.columns(*parts))


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pair(report: RunReport, pair: Pair) -> str:
    seen = report.data.space.seen_mask[report.data.space.index(*pair)]
    return " ".join(pair) + ("" if seen else " *")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
