"""What is printed beside the figures: the gap, the world, ties of the legacy protocol."""

from dataclasses import replace

import pytest
from evaluation_cases import evaluate, make_case
from tiny_runs import options_of

from czsl_sac.cli.tables import result_table
from czsl_sac.training.config import TrainConfig

CONFIG = TrainConfig(method=options_of("csp"))


def notes(result, config=CONFIG) -> list[str]:
    heading, table, *lines = result_table(result, config, "test split").split("\n\n")
    assert heading == f"test split, {result.world} world, in percent:"
    assert table.strip() == result.table()
    return lines[0].splitlines() if lines else []


def test_probabilities_under_the_legacy_protocol_come_with_a_note() -> None:
    case = make_case(4, scale=1e-6, samples=200)
    legacy, exact = evaluate(*case, protocol="legacy"), evaluate(*case)
    lost, ties = notes(legacy)
    assert f"decides {100 * legacy.bias_lost:.1f} % of the images wrongly" in lost
    assert f"label ties with a rival in {100 * legacy.ties:.1f} % of the images" in ties
    assert notes(exact) == []
    assert notes(evaluate(*make_case(4, samples=200), protocol="legacy")) == []


def test_a_small_split_comes_with_a_note() -> None:
    result = evaluate(*make_case(4, samples=60))
    assert notes(result) == [
        f"{result.seen_samples} images are of seen compositions: one moves S by "
        f"{100 / result.seen_samples:.1f} points, so test at least 50.",
        f"{result.unseen_samples} images are of unseen compositions: one moves U by "
        f"{100 / result.unseen_samples:.1f} points, so test at least 50.",
    ]


def test_a_gap_is_named_by_its_image_feature() -> None:
    gap = {"relative_modality_gap": 0.25, "modality_gap_l2": 0.5}
    result = replace(
        evaluate(*make_case(4, samples=200)), modality_gap={"class_token": gap, "mine": gap}
    )
    assert notes(result) == [
        "Modality gap, class token: relative 0.2500, L2 0.5000.",
        "Modality gap, mine: relative 0.2500, L2 0.5000.",
    ]


@pytest.mark.parametrize(
    ("threshold", "line"),
    [
        (0.4069, "Feasible at 0.4069 or more, seen ones included: 2,989 compositions."),
        (None, "All 2,989 compositions count as feasible."),
    ],
)
def test_the_open_world_names_threshold_and_candidates(threshold: float | None, line: str) -> None:
    result = replace(
        evaluate(*make_case(4, samples=200)), world="open", threshold=threshold, candidates=2_989
    )
    assert notes(result) == [line]


def test_a_bank_that_learns_from_test_images_is_named() -> None:
    (note,) = notes(evaluate(*make_case(4, samples=200)), TrainConfig())
    assert note.endswith("a transductive result.")
