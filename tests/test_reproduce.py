"""`czsl-sac reproduce`: plans that fit the methods, runs trained once, tables as the paper's."""

import json
import re
import shlex
from pathlib import Path

import pytest

from czsl_sac.cli import main
from czsl_sac.cli.train import parse
from czsl_sac.experiments import paper, runner
from czsl_sac.experiments.plan import STUDIES, Row, Study
from czsl_sac.experiments.runner import measure, missing, planned
from czsl_sac.experiments.setting import Setting, configuration, run_dir
from czsl_sac.experiments.tables import frame, markdown
from czsl_sac.methods.registry import method_options
from czsl_sac.training.presets import preset_for

DATA_SETS = ("scenes", "ut-zappos", "mit-states", "cgqa")
SMALL = {"images_per_pair": 1, "eval_images_per_pair": 1, "epochs": 1}


def setting(out: Path, **options: object) -> Setting:
    return Setting("scenes", 1, out, options={**SMALL, **options})


@pytest.mark.parametrize("dataset", DATA_SETS)
@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_row_is_a_configuration(study: Study, dataset: str, tmp_path: Path) -> None:
    root = None if dataset == "scenes" else tmp_path
    rows = study.rows(dataset)
    assert len({row.label for row in rows}) == len(rows) > 1
    for row in rows:
        config = configuration(row, Setting(dataset, 1, tmp_path, root), seed=3)
        assert (config.seed, config.method.name) == (3, row.method)
        assert row.inference.keys() <= method_options(row.method).inference
        for option, value in row.training.items():
            groups = {**vars(config.backbone), **vars(config.method), **vars(config.optim)}
            assert groups[option] == value


def test_rows_that_are_trained_alike_share_a_run(tmp_path: Path) -> None:
    own = Setting("mit-states", 2, tmp_path, tmp_path)
    table4 = planned([STUDIES["tab4"]], own)
    assert len(table4) == 2 * 5 + 1  # of 7 rows three differ in the bank alone; CLIP has no seed
    assert planned([STUDIES["tab11"]], own).keys() < table4.keys()
    assert planned([STUDIES["fig9"], STUDIES["fig10"]], own).keys() < table4.keys()
    both = planned([STUDIES["tab4"], STUDIES["tab5"]], own)
    assert len(both) == 2 * (5 + 3) + 1  # the maximum of Tab. 5 is L_base of Tab. 4


def test_the_rows_of_the_ablation_are_the_options_that_the_manual_names(tmp_path: Path) -> None:
    manual = (Path(__file__).parent.parent / "docs/index.md").read_text("utf-8")
    section = manual.partition("(Tab. 4) as options")[2]
    named = dict(re.findall(r"^\| ([^|]+?) \| (?:`([^`]*)`)?[^|]*\|$", section, re.MULTILINE))
    rows = {row.label: row for row in STUDIES["tab4"].rows("scenes")}
    assert len(rows) == 8
    for label in paper.TAB4:
        config = configuration(rows[label], Setting("scenes", 1, tmp_path), 0)
        wanted = parse(["--preset", "scenes", *named[label].split()])
        assert wanted is not None
        assert config.with_options(**rows[label].inference) == wanted.configuration
    own = configuration(rows["SAC on the class token"], Setting("scenes", 1, tmp_path), 0)
    assert own == preset_for("scenes").with_options(alignment="cls")


def test_the_papers_figures_stand_beside_their_rows() -> None:
    rows = {row.label: row for row in STUDIES["tab4"].rows("ut-zappos")}
    assert rows["+ Dynamically Update"].published["ut-zappos"] == (73.3, 76.8, 62.0, 50.0)
    sac = next(row for row in STUDIES["tab8"].rows("cgqa") if row.method == "sac")
    assert sac.published["cgqa"] == (45.8, 39.5, 34.8, 16.2)
    assert paper.TAB4["+ Dynamically Update"]["cgqa"] == sac.published["cgqa"]
    assert "mit-states" not in paper.TAB6["w SA"]


def test_a_study_is_measured_once_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, own = STUDIES["fig9"], setting(tmp_path)
    train = runner.train

    def killed(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_measurement", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(study, own)
    assert not missing(planned([study], own))  # trained before it was killed

    trained = []

    def counted(config: object, path: Path, **options: object) -> object:
        summary = train(config, path, **options)
        trained.append(summary.trained)
        return summary

    monkeypatch.setattr(runner, "train", counted)
    measured = measure(study, own)
    assert trained == [False]  # one run serves all rows, and was finished already
    folders = {m.run_dir for m in measured}
    assert folders == {run_dir(configuration(measured[0].row, own, 0), own)}
    kept = {path: path.read_bytes() for path in folders.pop().rglob("*.json")}
    how = [json.loads(content).get("measured") for content in kept.values()]
    assert {"inference": {"beta": 0.3}, "world": "closed"} in how
    monkeypatch.setattr(runner.TrainedRun, "load", killed)
    monkeypatch.setattr(runner, "train", killed)
    again = measure(study, own)
    assert [m.result.auc for m in again] == [m.result.auc for m in measured]
    assert all(path.read_bytes() == content for path, content in kept.items())

    how = [
        json.loads(content)["measured"] for path, content in kept.items() if "results" in path.parts
    ]
    assert {"inference": {"beta": 0.3}, "world": "closed"} in how

    table = frame(study, measured, own)
    assert table["row"].tolist() == [f"β={b:g}" for b in (0, 0.1, 0.3, 0.5, 0.7, 0.9)]
    assert len(set(table["auc"])) > 1  # β changes the prediction
    page = markdown(study, measured, own)
    assert f"| {100 * measured[0].result.auc:.1f} " in page
    assert "not measured here" in page
    assert (
        "Made by `czsl-sac reproduce fig9 --dataset scenes --seeds 1 --images-per-pair 1 " in page
    )


def test_a_row_measured_in_a_process_of_its_own_is_the_same(tmp_path: Path) -> None:
    rows = [Row("Zero-shot CLIP", "zero-shot")]
    study = Study("table", "Of rows that are made in place", lambda data_set: rows)  # as tab2's
    (own,), (here,) = (
        measure(study, setting(tmp_path / str(processes)), processes=processes)
        for processes in (2, 1)
    )
    assert own.result == here.result


def test_studies_stand_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--quick", "--out", str(tmp_path)]
    assert main(["reproduce", "fig9", "fig10", *small]) == 0
    assert f"All on one page: {tmp_path}/some-scenes-quick.md" in capsys.readouterr().out
    page = (tmp_path / "some-scenes-quick.md").read_text("utf-8")
    assert page.startswith("# Every table and figure on scenes\n\n## fig9: Weight β")
    for study in ("fig9", "fig10"):
        own = (tmp_path / f"{study}-scenes-quick.md").read_text("utf-8")
        table = own[own.index("| ") : own.index("\nMade by")]
        assert table in page
        for ending in ("png", "csv"):
            assert (tmp_path / f"{study}-scenes-quick.{ending}").is_file()
            assert f"]({study}-scenes-quick.{ending})" in page
    assert "czsl-sac train" not in page


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "tab4", "--dry-run", "--seeds", "2", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    first, *commands = told.splitlines()
    assert first.startswith("1 table or figure from 11 runs, 11 of them to be trained: about ")
    parsed = [parse(shlex.split(line)[2:]) for line in commands]
    runs = planned([STUDIES["tab4"]], Setting("scenes", 2, tmp_path))
    assert {one.run_dir: one.configuration for one in parsed if one} == runs
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tab44"], "what is 'tab44' but must be one of tab1, "),
        ([], "what is empty but must name tables and figures: give all, or some of tab1, "),
        (["tab4", "--seeds", "0"], "seeds is 0 but must be at least 1: raise it."),
        (["tab4", "--dataset", "cgqa"], "data_root is missing but dataset is 'cgqa'"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *arguments]) == 2
    assert message in capsys.readouterr().err
