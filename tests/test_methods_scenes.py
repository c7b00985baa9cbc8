"""Every method with every alignment on generated scenes: train, be stopped, resume, evaluate."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods_table import ALIGNMENTS, METHODS, Options, configuration
from czsl_sac.training import loop
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import METRICS
from czsl_sac.training.trained import TrainedRun


class StopError(Exception):
    pass


def config_of(name: str, alignment: str) -> TrainConfig:
    config = configuration(Options(epochs=2, images_per_pair=1), name, alignment, seed=1)
    return replace(config, data=replace(config.data, eval_images_per_pair=1))


def records(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / METRICS).read_text("utf-8").splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "alignment"), list(itertools.product(METHODS, ALIGNMENTS)))
def test_a_stopped_run_goes_on_to_the_same_end(
    name: str, alignment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole, parts = config_of(name, alignment), tmp_path / "whole", tmp_path / "parts"
    test = train(config, whole).test
    assert test.to_dict() == TrainedRun.load(whole).evaluate().to_dict()
    if METHODS[name][0] == "zero-shot":
        return

    train_epoch = loop._StageTrainer.train_epoch

    def stop_in_second_epoch(trainer: Any, epoch: int) -> dict[str, float]:
        if epoch == 1:
            raise StopError
        return train_epoch(trainer, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(loop._StageTrainer, "train_epoch", stop_in_second_epoch)
        with pytest.raises(StopError):
            train(config, parts)
    assert len(records(parts)) == 1
    assert train(config, parts, resume=True).test.to_dict() == test.to_dict()
    assert records(parts) == records(whole)
    assert TrainedRun.load(parts).evaluate().to_dict() == test.to_dict()
