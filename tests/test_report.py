"""`czsl-sac report`: one page that needs no other, with the numbers that evaluate gives."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from jinja2 import UndefinedError
from pages import Page, check_self_contained
from tiny_runs import tiny_run

from czsl_sac import CompositionSpace, pictures
from czsl_sac.cli import main
from czsl_sac.predict.looks import look_at
from czsl_sac.report.examples import spread
from czsl_sac.report.page import page
from czsl_sac.report.plots import COLOURS, Series, line_plot
from czsl_sac.report.run_page import render
from czsl_sac.report.run_report import RunReport, collect_report
from czsl_sac.report.scored import confusions, error_kinds
from czsl_sac.run import load_run, train
from czsl_sac.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def report() -> RunReport:
    return collect_report(tiny_run(), examples=2)


@pytest.fixture(scope="module")
def shown(report: RunReport) -> Page:
    return Page(render(report))


def test_the_page_refers_to_nothing_outside_it(report: RunReport, shown: Page) -> None:
    check_self_contained(render(report))
    assert any(reference.startswith("data:image/jpeg") for reference in shown.references)


def test_the_numbers_are_those_of_evaluate(shown: Page) -> None:
    for protocol in ("exact", "legacy"):
        result = load_run(tiny_run()).evaluate(protocol=protocol)
        expected = [
            f"{100 * value:.2f}"
            for value in (
                *(result.seen, result.unseen, result.hm, result.auc),
                *(result.attribute, result.object),
            )
        ]
        assert ["SAC", protocol, *expected] in shown.rows
        chance = asdict(result.chance())
        assert chance.pop("protocol") == protocol
        values = [f"{100 * value:.2f}" for value in chance.values()]
        assert ["chance", protocol, *values, "", ""] in shown.rows
        assert result.notes()
        assert set(result.notes()) <= set(shown.words)
    assert any(row[:2] == ["Zero-shot CLIP", "exact"] for row in shown.rows)
    assert any("Transductive: the memory bank of SAC" in words for words in shown.words)


def test_the_shares_of_the_patches_are_those_of_the_images_own_compositions(
    report: RunReport, shown: Page
) -> None:
    run = load_run(tiny_run(), bank="train")
    images = torch.stack([run.data.split("test")[row][0] for row in range(len(report.targets))])
    looks = look_at(run.method, run.method.predictor(run.data.space), images, report.targets)
    shares = {
        "patch_wins": float((looks.winner > 0).double().mean()),
        "patch_attention": float(looks.condenser[:, 1:].sum(1).double().mean()),
    }
    low, high = looks.similarity.aminmax(dim=1, keepdim=True)
    active = (looks.similarity > (low + high) / 2)[:, 1:].double().sum(1) / 65
    found = dict(report.methods[0].result.patch_shares)
    assert found.pop("active_patches") == pytest.approx(float(active.mean()), abs=1e-3)
    assert found == pytest.approx(shares)
    assert ["SAC", *(f"{100 * share:.2f}" for share in shares.values())] in shown.rows
    assert any("A patch wins the alignment in" in words for words in shown.words)
    assert not report.methods[1].result.patch_shares  # the class token alone is compared


def test_the_page_says_what_made_the_run(report: RunReport, shown: Page) -> None:
    (line,) = (words for words in shown.words if words.startswith("Begun "))
    record = RunFolder(tiny_run()).read_record()
    assert record.created in line
    for name, version in record.versions.items():
        assert f"{name} {version}" in line
    changes = ({"option": "epochs", "from": 1, "to": 3, "after_epoch": 1},)
    page = Page(render(replace(report, record=replace(report.record, changes=changes))))
    assert "epochs was changed from 1 to 3 after 1 epoch." in page.words


def test_predictions_add_up_to_the_accuracies(report: RunReport, shown: Page) -> None:
    space, run = report.data.space, report.methods[0]
    right = space.pair_indices[run.predicted] == space.pair_indices[report.targets]
    assert right.double().mean(0).tolist() == pytest.approx(
        [run.result.attribute, run.result.object]
    )
    kinds = error_kinds(space, report.targets, run.predicted)
    assert torch.stack(list(kinds.values())).sum(0).eq(1).all()
    seen = space.seen_mask[report.targets]
    shares = [f"{100 * float(mask[seen].double().mean()):.2f}" for mask in kinds.values()]
    assert ["SAC", "seen", *shares] in shown.rows
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
    backbone = load_run(tiny_run()).method.backbone
    shown = pictures.colours(images, mean=backbone.mean, std=backbone.std)
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
    written = Page((run / "report.html").read_text("utf-8"))
    assert "Nothing was trained." in written.words
    methods = {row[0] for row in written.rows if len(row) == 8}
    assert methods == {"method", "Zero-shot CLIP", "chance"}  # no baseline beside itself
    assert {path.name for path in run.iterdir()} >= {"config.json", "report.html"}


def test_a_baseline_on_other_data_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = load_run(tiny_run("zero-shot")).config
    for changed, message in (
        ({"split_seed": 1}, "(scenes, CompositionSpace("),
        ({"eval_images_per_pair": 2}, "with 96 images but must be on the 48 images of"),
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
        (["RUN", "--examples", "-1"], "examples is -1 but must be at least 0"),
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


def test_labels_of_a_plot_are_escaped_and_no_formulas() -> None:
    labels = ("<b>\"&'</b>", "$x$", "_hidden", "two\nlines")
    series = [Series(label, [0, 1], [0, 1]) for label in labels]
    svg = str(line_plot("name", series, x_label="", y_label=""))
    shown = [words.strip() for words in Page(svg).words if words.strip()]
    assert "<b>" not in svg
    assert {*labels[:3], "two\\nlines"} <= set(shown)


def test_series_of_one_label_share_their_colour_and_their_legend() -> None:
    series = [Series(label, [0, 1], [0, 1]) for label in ("a", "b", "a")]
    svg = str(line_plot("name", series, x_label="", y_label=""))
    lines = re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1\.6", svg)
    assert lines[:3] == [COLOURS[0], COLOURS[1], COLOURS[0]]
    assert [w.strip() for w in Page(svg).words].count("a") == 1


def test_a_template_that_asks_for_what_is_not_there_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'report' is undefined"):
        page("report.html", title="x")


def test_class_names_are_escaped_on_the_page(report: RunReport) -> None:
    def strange(names: tuple[str, ...]) -> list[str]:
        return [f'<i>"{name}&' for name in names]

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
            field: {f'<i>"{name}&': value for name, value in getattr(method.result, field).items()}
            for field in ("attribute_recall", "object_recall")
        }
        methods.append(replace(method, label="<i>SAC&", result=replace(method.result, **recall)))
    text = render(replace(report, data=Renamed(), methods=methods, run_dir=Path("<i>run&")))
    assert "<i>" not in text
    assert Page(text).words.count("<i>data&") == 1
    for name in ("&lt;i&gt;&#34;blue&amp;", "&lt;i&gt;SAC&amp;", "&lt;i&gt;run&amp;"):
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
