"""`--compile`: the same losses to rounding, the same names, and one sentence where it cannot be."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training_loop import Toy, config, last, make_method, run
from tiny_runs import tiny_config
from torch.testing import assert_close

from czsl_sac import load_run
from czsl_sac.training.compiling import check_compiler, compile_parts
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.presets import preset_for
from czsl_sac.training.run import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def compiler():
    try:
        check_compiler(CPU)
    except ValueError as error:
        pytest.skip(str(error))


def test_losses_gradients_and_names_are_those_of_the_method():
    plain, fast = make_method("joint"), make_method("joint")
    fast.backbone.visual.transformer.gradient_checkpointing = True
    names = list(fast.state_dict())
    compile_parts(fast)
    frames = torch._dynamo.utils.counters
    frames.clear()
    images, targets = Toy().split("train").tensors
    for count in (len(targets), 7):  # the sizes of two batches, and one graph
        outcomes = []
        for method in (plain, fast):
            torch.manual_seed(0)
            method.zero_grad()
            losses = method(images[:count].clone(), targets[:count], "joint")
            losses["total"].backward()
            outcomes.append((losses, {n: p.grad for n, p in method.named_parameters()}))
        assert_close(*(losses for losses, _ in outcomes), rtol=1e-5, atol=1e-5)
        assert_close(*(gradients for _, gradients in outcomes), rtol=1e-3, atol=1e-5)
    assert sum(frames["graph_break"].values()) == 0
    assert frames["stats"]["unique_graphs"] == 2  # the tower and the aligner
    assert list(fast.state_dict()) == names == list(plain.state_dict())
    assert fast.trained_state().keys() == plain.trained_state().keys()


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_not_compiled(tmp_path: Path) -> None:
    """The checkpoint of a compiled run is a plain one: either goes on with the other's."""

    def compiled():
        method = make_method("joint", dropout=0.0)
        compile_parts(method)
        return method

    expected = run(make_method("joint", dropout=0.0), config(), tmp_path / "plain")
    run(compiled(), config(epochs=1), tmp_path / "run")
    run(make_method("joint", dropout=0.0), config(epochs=2), tmp_path / "run", resume=True)
    found = run(compiled(), config(), tmp_path / "run", resume=True)
    assert [r["losses"] for r in found] == [pytest.approx(r["losses"], rel=1e-4) for r in expected]
    names = last(tmp_path / "run").weights.keys()
    assert names == last(tmp_path / "plain").weights.keys()


def test_the_option_is_part_of_the_record_and_not_of_the_figures() -> None:
    settings = preset_for("scenes").with_options(compile=True)
    assert TrainConfig.from_dict(settings.to_dict()) == settings
    assert not preset_for("scenes").optim.compile
    assert "compile" not in settings.unread()
    unread = preset_for("scenes", "dfsp").unread()
    assert unread["compile"] == "DFSP reads inner states of the vision tower"


def test_without_a_compiler_nothing_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "czsl_sac", "train", "--compile", "--run-dir", "run"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "CXX": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "compile is True but must be False where torch.compile fails on cpu" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run(tmp_path: Path) -> None:
    settings = tiny_config()
    compiled = replace(settings, optim=replace(settings.optim, compile=True))
    plain, fast = train(settings, tmp_path / "plain"), train(compiled, tmp_path / "fast")
    assert fast.records[0]["losses"] == pytest.approx(plain.records[0]["losses"], rel=1e-4)
    assert fast.test.auc == pytest.approx(plain.test.auc, abs=2e-3)
    record = json.loads((tmp_path / "fast" / "config.json").read_text())
    assert record["config"]["optim"]["compile"] is True
    assert load_run(tmp_path / "fast").evaluate().auc == pytest.approx(fast.test.auc, abs=2e-3)
    more = replace(compiled, optim=replace(compiled.optim, epochs=2, compile=False))
    assert len(train(more, tmp_path / "fast", resume=True).records) == 2
