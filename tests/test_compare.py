"""`czsl-sac compare`: runs side by side, seeds as one row, on a page that needs no other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import Page, check_self_contained
from scipy import stats
from tiny_runs import copy_of, tiny_config, tiny_run

from czsl_sac.cli import main
from czsl_sac.report.comparison import Comparison, Interval, compare_runs
from czsl_sac.report.comparison_page import render
from czsl_sac.run import load_run, train


@pytest.fixture(scope="module")
def csp() -> Path:
    return tiny_run("csp")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, csp: Path) -> list[Path]:
    """CSP from two seeds."""
    other = tmp_path_factory.mktemp("seeds") / "seed-1"
    train(replace(tiny_config("csp"), seed=1), other)
    return [csp, other]


@pytest.fixture(scope="module")
def comparison(seeds: list[Path]) -> Comparison:
    return compare_runs([tiny_run(), *seeds], examples=1)


def test_runs_that_differ_in_the_seed_alone_are_one_row(
    comparison: Comparison, seeds: list[Path]
) -> None:
    assert [(row.label, row.seeds) for row in comparison.rows] == [("SAC", [0]), ("CSP", [0, 1])]
    assert comparison.rows[1].run_dirs == seeds
    assert comparison.options["method.method"] == ["sac", "csp"]
    assert "seed" not in comparison.options


def test_the_figures_are_those_of_evaluate_with_the_interval_of_the_t_test(
    comparison: Comparison, seeds: list[Path]
) -> None:
    auc = [load_run(run).evaluate().auc for run in seeds]
    mean, half = comparison.rows[1].figure("auc", "exact")
    low, high = stats.ttest_1samp(auc, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    row = Page(render(comparison, "exact")).rows[2]
    assert row[:2] == ["CSP", "0, 1"]
    assert row[5] == f"{100 * np.mean(auc):.2f} ± {100 * half:.2f}"
    legacy = Page(render(comparison, "legacy")).rows[1]
    assert legacy[:3] == [
        "SAC",
        "0",
        f"{100 * load_run(tiny_run()).evaluate(protocol='legacy').seen:.2f}",
    ]


def test_differences_are_paired_by_seed(comparison: Comparison, seeds: list[Path]) -> None:
    sac, csp = comparison.rows
    gain = csp.ahead(sac, "hm", "exact")
    assert gain == (
        pytest.approx(load_run(seeds[0]).evaluate().hm - load_run(tiny_run()).evaluate().hm),
        None,
    )
    assert replace(csp, seeds=[4, 5]).ahead(sac, "hm", "exact") is None
    many = Interval.of([1.0, 2.0, 4.0])
    low, high = stats.ttest_rel([2.0, 4.0, 7.0], [1.0, 2.0, 3.0]).confidence_interval(0.95)
    assert (many.mean - many.half, many.mean + many.half) == pytest.approx((low, high))


def test_images_count_by_the_share_of_runs_that_are_right(comparison: Comparison) -> None:
    sac, csp = comparison.rows
    right = [s.predicted == comparison.targets for s in csp.scored]
    assert torch.equal(csp.right, (right[0].double() + right[1].double()) / 2)
    rows = Page(render(comparison, "exact")).rows
    seen = comparison.data.space.seen_mask[comparison.targets]
    (row,) = (row for row in rows if row[:2] == ["CSP", "unseen"])
    shares = [float(value) for value in row[3:7]]
    assert int(row[2]) == int((~seen).sum())
    assert sum(shares) == pytest.approx(100, abs=0.03)
    mine = sac.right[~seen]
    assert shares[0] + shares[1] == pytest.approx(100 * float(mine.mean()), abs=0.02)
    low, high = stats.ttest_rel(csp.right[~seen], mine).confidence_interval(0.95)
    assert row[7] == f"{50 * (high + low):+.2f} ± {50 * (high - low):.2f}"


def test_what_the_figures_hide_is_said_of_the_row_that_hides_it(comparison: Comparison) -> None:
    sac, csp = comparison.rows
    result = replace(sac.scored[0].result, patch_shares={"patch_wins": 0.02})
    dense = replace(sac, scored=[replace(sac.scored[0], result=result)])
    page = Page(render(replace(comparison, rows=[dense, csp]), "exact"))
    assert ["SAC", "2.00", ""] in page.rows
    verdicts = [words for words in page.words if "it is not sparse on these images" in words]
    assert len(verdicts) == 1
    assert verdicts[0].startswith("SAC: So this method")
    small = csp.scored[0].result.notes()
    assert small
    assert all(page.words.count(sentence) == 1 for sentence in small)  # true of both


def test_examples_are_those_on_which_the_rows_differ(comparison: Comparison) -> None:
    sac, csp = comparison.rows
    assert [group.title for group in comparison.groups] == [
        "SAC right, CSP wrong",
        "CSP right, SAC wrong",
    ]
    right, its = sac.predicted == comparison.targets, csp.predicted == comparison.targets
    assert comparison.groups[0].images == int((right & ~its).sum())
    for group, winner in zip(comparison.groups, (0, 1), strict=True):
        for example in group.examples:
            assert example.predicted[winner] == example.truth != example.predicted[1 - winner]


def test_rows_of_one_method_are_told_apart_by_their_options(csp: Path) -> None:
    rows = compare_runs([csp, tiny_run("csp", alignment="patch_max")]).rows
    assert [row.label for row in rows] == [
        "CSP (alignment cls)",
        "CSP (alignment patch_max)",
    ]


def test_the_command_prints_the_figures_and_writes_the_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, seeds: list[Path]
) -> None:
    output = tmp_path / "new" / "page.html"
    capsys.readouterr()
    assert main(["compare", *map(str, seeds), "--output", str(output), "--examples", "1"]) == 0
    printed = capsys.readouterr().out
    auc = 100 * np.mean([load_run(run).evaluate().auc for run in seeds])
    assert f"{auc:.2f} ±" in printed
    assert printed.endswith(f"\n{output}\n")
    text = output.read_text("utf-8")
    check_self_contained(text)
    assert "The runs differ in the seed alone." in Page(text).words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "runs is 1 run but must be at least two: name the others"),
        (["RUN", "RUN"], "twice but must be different runs: leave one out"),
        (["RUN", "COPY"], "have the same options and the same seed (0) but must differ"),
        (["RUN", "nowhere"], "there is no run in nowhere"),
        (["RUN", "OTHER"], "(scenes, CompositionSpace("),
        (["RUN", "COPY", "--output", "."], "output is the folder . but must be a file"),
        (["RUN", "COPY", "--examples", "-1"], "examples is -1 but must be at least 0"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    csp: Path,
    arguments: list[str],
    message: str,
) -> None:
    copy = copy_of(csp, tmp_path / "copy")
    config = load_run(csp).config
    other = tmp_path / "other"
    if "OTHER" in arguments:
        train(replace(config, data=replace(config.data, split_seed=1)), other)
    known = {"RUN": csp, "COPY": copy, "OTHER": other}
    capsys.readouterr()
    assert main(["compare", *(str(known.get(part, part)) for part in arguments)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
