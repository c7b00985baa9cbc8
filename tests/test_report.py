"""`czsl-sac report`: one page that needs no other, with the numbers that evaluate gives."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_run

from czsl_sac import CompositionSpace
from czsl_sac.cli import main
from czsl_sac.predict import pictures
from czsl_sac.report import elements as html
from czsl_sac.report.page import render
from czsl_sac.report.plots import Series, line_plot
from czsl_sac.report.run_report import RunReport, collect_report
from czsl_sac.report.scored import confusions, error_kinds, spread
from czsl_sac.run import load_run, train

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """A page taken apart: its references, its ids, the cells of its tables, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], "unclosed elements"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._open and {"td", "th"} & set(self._open) and self.rows:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def report() -> RunReport:
    return collect_report(tiny_run(), examples=2)


@pytest.fixture(scope="module")
def page(report: RunReport) -> Page:
    return Page(render(report))


def test_the_page_refers_to_nothing_outside_it(report: RunReport, page: Page) -> None:
    inside = [r for r in page.references if r.startswith("#")]
    assert {reference[1:] for reference in inside} <= set(page.ids)
    others = [r for r in page.references if not r.startswith("#")]
    assert others
    assert all(r.startswith("data:image/jpeg;base64,") for r in others)
    assert len(page.ids) == len(set(page.ids))
    text = render(report)
    assert not re.search(r"https?://|@import|<script|<link", text)
    assert all(name.startswith("#") for name in re.findall(r"url\(([^)]*)\)", text))


def test_the_numbers_are_those_of_evaluate(page: Page) -> None:
    for protocol in ("exact", "legacy"):
        result = load_run(tiny_run()).evaluate(protocol=protocol)
        expected = [
            f"{100 * value:.2f}"
            for value in (
                *(result.seen, result.unseen, result.hm, result.auc),
                *(result.attribute, result.object),
            )
        ]
        assert ["SAC", protocol, *expected] in page.rows
    assert any(row[:2] == ["Zero-shot CLIP", "exact"] for row in page.rows)
    assert any("Transductive: the memory bank of SAC" in words for words in page.words)


def test_predictions_add_up_to_the_accuracies(report: RunReport, page: Page) -> None:
    space, run = report.data.space, report.methods[0]
    right = space.pair_indices[run.predicted] == space.pair_indices[report.targets]
    assert right.double().mean(0).tolist() == pytest.approx(
        [run.result.attribute, run.result.object]
    )
    kinds = error_kinds(space, report.targets, run.predicted)
    assert torch.stack(list(kinds.values())).sum(0).eq(1).all()
    seen = space.seen_mask[report.targets]
    shares = [f"{100 * float(mask[seen].double().mean()):.2f}" for mask in kinds.values()]
    assert ["SAC", "seen", *shares] in page.rows
    assert sum(group.images for group in report.groups) == len(report.targets)


def test_the_baseline_is_zero_shot_clip_on_the_plain_backbone(report: RunReport) -> None:
    run = load_run(tiny_run("zero-shot"))
    method, data = run.method, run.data
    space = data.space
    candidates = data.candidates("test")
    images, targets = zip(*[data.split("test")[i] for i in range(48)], strict=True)
    scores = method.predictor(space)(torch.stack(images)).masked_fill(~candidates, -torch.inf)
    assert torch.equal(report.methods[1].predicted, scores.argmax(1))
    assert report.targets.tolist() == list(targets)


def test_examples_show_their_own_image(report: RunReport) -> None:
    (group, *_) = (group for group in report.groups if group.examples)
    example = group.examples[0]
    rows = (report.targets == example.truth).nonzero().flatten().tolist()
    images = torch.stack([report.data.split("test")[row][0] for row in rows])
    shown = pictures.visible(images, load_run(tiny_run()).method.backbone)
    assert any(torch.equal(example.picture, image) for image in shown)


def test_a_run_can_be_the_baseline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tiny_run("csp")
    output = tmp_path / "new" / "page.html"
    arguments = ["report", str(tiny_run()), "--baseline", str(other), "--examples", "0"]
    capsys.readouterr()  # what training the runs printed
    assert main([*arguments, "--output", str(output), "--split", "val"]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    result = load_run(other).evaluate(split="val")
    row = [f"CSP ({other.name})", "exact", f"{100 * result.seen:.2f}"]
    assert any(cells[:3] == row for cells in Page(output.read_text("utf-8")).rows)


def test_the_page_is_written_into_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run("zero-shot")
    capsys.readouterr()
    assert main(["report", str(run), "--examples", "1"]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = Page((run / "report.html").read_text("utf-8"))
    assert "Nothing was trained." in page.words
    methods = {row[0] for row in page.rows if len(row) == 8}
    assert methods == {"method", "Zero-shot CLIP"}  # no baseline beside itself
    assert {path.name for path in run.iterdir()} >= {"config.json", "report.html"}


def test_a_baseline_on_other_data_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = load_run(tiny_run("zero-shot")).config
    for changed, message in (
        ({"split_seed": 1}, "was trained on other compositions (scenes, CompositionSpace("),
        ({"eval_images_per_pair": 2}, "has another test split (96 images) than the run (48 images"),
    ):
        other, data = tmp_path / next(iter(changed)), replace(config.data, **changed)
        train(replace(config, data=data), other)
        assert main(["report", str(tiny_run()), "--baseline", str(other)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run in nowhere: the folder nowhere does not exist"),
        (
            ["RUN", "--baseline", "nowhere"],
            "there is no run in nowhere: the folder nowhere does not exist",
        ),
        (["RUN", "--examples", "-1"], "examples must be at least 0, got -1"),
        (["RUN", "--output", "."], "output is the folder . but must be a file"),
        (["RUN", "--basline", "x"], "did you mean --baseline?"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [str(tiny_run()) if argument == "RUN" else argument for argument in arguments]
    assert main(["report", *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_without_matplotlib_the_remedy_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    assert main(["report", str(tiny_run())]) == 2
    assert 'pip install "czsl-sac[viz]"' in capsys.readouterr().err


def test_names_are_escaped_everywhere() -> None:
    name = "<b>\"&'</b>"
    made = [
        html.table([name], [[name]], name),
        html.bars([(name, 1, (0.5,))], name),
        html.card(html.image(torch.zeros(2, 2, 3), name), [(name, html.text(name))]),
        html.section(name, html.paragraph(name)),
        html.folded(name),
        html.figure("", name),
    ]
    for piece in made:
        assert "<b>" not in piece
        assert "&lt;b&gt;&quot;&amp;&#x27;&lt;/b&gt;" in piece
    svg = line_plot("name", [Series(name, [0], [0]), Series("b", [0], [0])], x_label="", y_label="")
    assert "<b>" not in svg


def test_class_names_are_escaped_on_the_page(report: RunReport) -> None:
    def strange(names: tuple[str, ...]) -> list[str]:
        return [f"<i>{name}&" for name in names]

    space = report.data.space
    renamed = CompositionSpace(
        strange(space.attributes),
        strange(space.objects),
        [strange(pair) for pair in space.pairs],
        [strange(pair) for pair in space.seen],
    )

    class Renamed:
        name, space = "<i>data&", renamed
        split, candidates = report.data.split, report.data.candidates

    methods = []
    for method in report.methods:
        recall = {
            field: {f"<i>{name}&": value for name, value in getattr(method.result, field).items()}
            for field in ("attribute_recall", "object_recall")
        }
        methods.append(replace(method, label="<i>SAC&", result=replace(method.result, **recall)))
    text = render(replace(report, data=Renamed(), methods=methods, run_dir=Path("<i>run&")))
    assert "<i>" not in text
    assert Page(text).words.count("<i>data&") == 1
    for name in ("&lt;i&gt;blue&amp;", "&lt;i&gt;SAC&amp;", "&lt;i&gt;run&amp;"):
        assert name in text


def test_confusions_count_the_commonest_errors_first() -> None:
    space = CompositionSpace.closed_world(
        train=[("red", "car"), ("red", "cat"), ("wet", "cat")], test=[("wet", "car")]
    )
    assert space.pairs[0] == ("red", "car")
    targets, predicted = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([1, 1, 0, 1, 3, 2])
    found = confusions(space, targets, predicted, most=5)
    assert [(c.truth, c.predicted, c.errors, c.images) for c in found] == [
        (("red", "car"), ("red", "cat"), 2, 3),
        (("wet", "car"), ("wet", "cat"), 1, 2),
    ]
    assert confusions(space, targets, predicted, most=1) == found[:1]


def test_examples_are_spread_over_all_places() -> None:
    mask = torch.ones(10, dtype=torch.bool)
    assert spread(mask, 2) == [0, 9]
    assert spread(mask, 0) == []
    assert spread(~mask, 3) == []
    assert spread(mask, 99) == list(range(10))
