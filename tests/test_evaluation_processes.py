"""Two processes evaluate as one does: closed and open world, dynamic bank, last batch filled up."""

from pathlib import Path

import pytest
import torch
from test_open_world import Pictures, make
from two_processes import run_in_two_processes

from czsl_sac.evaluation import CZSLResult
from czsl_sac.training.open_world import OpenWorld, evaluate_open_world
from czsl_sac.training.scoring import evaluate_method
from czsl_sac.training.session import Session


def results() -> list[CZSLResult]:
    """What is compared; 18 test and 24 validation images in batches of 4 and 10."""
    method, data, four = make("sac"), Pictures(), Session(batch_size=4)
    method.fill_memory([data.split("val").tensors[0][:8]])
    return [
        evaluate_method(method, data, "test", four),
        evaluate_method(method, data, "test", Session(batch_size=10), protocol="legacy"),
        evaluate_open_world(method, data, "test", four, OpenWorld()),
    ]


def process(rank: int, folder: Path) -> None:
    """What each of two processes does."""
    torch.save([vars(result) for result in results()], folder / f"{rank}.pt")


def test_two_processes_evaluate_as_one_does(tmp_path: Path) -> None:
    run_in_two_processes(process, tmp_path)
    expected = [result.to_dict(details=True) for result in results()]
    for rank in range(2):
        saved = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for values, other in zip(saved, expected, strict=True):
            one = CZSLResult(**values).to_dict(details=True)
            gaps, other_gaps = one.pop("modality_gap"), dict(other["modality_gap"])
            for name, gap in other_gaps.items():
                for measure, value in gap.items():
                    assert abs(gaps[name][measure] - value) < 1e-6
            assert one.pop("patch_shares") == pytest.approx(other["patch_shares"], abs=1e-6)
            numbers = {k: torch.tensor(v) for k, v in one.pop("curve").items() if k != "bias"}
            for name, points in numbers.items():
                torch.testing.assert_close(points, torch.tensor(other["curve"][name]))
            bias = one.pop("bias")
            assert bias == other["bias"] or abs(bias - other["bias"]) < 1e-5
            left_out = ("modality_gap", "patch_shares", "curve", "bias")
            assert one == {k: v for k, v in other.items() if k not in left_out}
