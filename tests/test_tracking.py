"""`--track tensorboard`: what its file holds, read back; a run is the same with it and without."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_runs import Killed, contents, kill_after, stop_the_clock, toy_config, write_table

from czsl_sac.cli import main
from czsl_sac.training import tracking
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder

pytest.importorskip("tensorboard")

PICTURES = ["val/curve", "val/examples"]


def events(run: Path):  # type: ignore[no-untyped-def]
    """What TensorBoard itself reads in the folder of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return found.Reload()


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """Values by name and step; a step that is there twice is a fault."""
    read, found = events(run), {}
    for name in read.Tags()["scalars"]:
        points = [(event.step, event.value) for event in read.Scalars(name)]
        assert len(points) == len({step for step, _ in points}), name
        found[name] = dict(points)
    return found


def test_the_file_holds_the_records_the_curve_and_examples(tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = train(toy_config(write_table(tmp_path / "data")), run, track=["tensorboard"])
    found = scalars(run)
    for name in ("seen", "unseen", "hm", "auc", "attribute", "object"):
        figures = {step + 1: record["val"][name] for step, record in enumerate(summary.records)}
        assert found[f"val/{name}"] == pytest.approx(figures)
    for name in summary.records[0]["losses"]:
        losses = {step + 1: record["losses"][name] for step, record in enumerate(summary.records)}
        assert found[f"loss/{name}"] == pytest.approx(losses)
    assert found["learning_rate/0"] == pytest.approx({1: 1e-2, 2: 5e-3})
    assert summary.test is not None
    assert found["test/auc"] == pytest.approx({2: summary.test.auc})
    read = events(run)
    assert read.Tags()["images"] == PICTURES
    for name in PICTURES:
        assert [event.step for event in read.Images(name)] == [1, 2]
    text = read.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text.strip("`\n")) == summary.config.options()


def test_a_run_is_the_same_with_it_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_the_clock(monkeypatch)
    config = toy_config(write_table(tmp_path / "data"))
    train(config, tmp_path / "plain")
    train(config, tmp_path / "tracked", track=["tensorboard"])
    plain, tracked = contents(tmp_path / "plain"), contents(tmp_path / "tracked")
    assert tracked.items() >= plain.items()
    more = {name.partition("/")[0] for name in tracked.keys() - plain.keys()}
    assert more == {"tensorboard", "tracking.json"}


def test_the_pictures_show_curve_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a cache of features, too, from which no image could be shown."""
    kept = []
    monkeypatch.setattr(
        tracking,
        "_pixels",
        lambda figure, draw=tracking._pixels: kept.append(figure) or draw(figure),
    )
    config = toy_config(
        write_table(tmp_path / "data"),
        "csp",
        train_backbone="none",
        feature_cache=tmp_path / "features",
    )
    summary = train(config, tmp_path / "run", track=["tensorboard"])
    curve, examples = kept[:2]
    line = curve.axes[0].lines[0]
    assert len(line.get_xdata()) > 2
    area = np.trapezoid(line.get_xdata() / 100, line.get_ydata() / 100)
    assert abs(area) == pytest.approx(summary.records[0]["val"]["auc"], abs=1e-6)
    assert len(examples.axes) == 8
    shown = examples.axes[0].images[0].get_array()
    file = sorted((tmp_path / "data").glob("*.png"), key=lambda path: int(path.stem))[12]
    photograph = np.asarray(Image.open(file).convert("RGB")) / 255
    assert np.abs(shown.mean((0, 1)) - photograph.mean((0, 1))).max() < 0.1
    truths = [axes.get_title().partition("\n")[0] for axes in examples.axes]
    assert truths == sorted(truths, key=["blue car", "red car", "old cat"].index)


@pytest.mark.parametrize("writes", [2, 4, 5, 8])
def test_a_killed_run_sends_each_epoch_once(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = tmp_path / "run", toy_config(write_table(tmp_path / "data"))
    kill_after(monkeypatch, writes)
    with pytest.raises(Killed):
        train(config, run, track=["tensorboard"])
    monkeypatch.undo()
    said = run / "tracking.json"
    if said.is_file():  # as if it had ended between the sending and the remark that it was sent
        values = json.loads(said.read_text())
        values["sent"]["tensorboard"] -= 1
        said.write_text(json.dumps(values))
    resume = RunFolder(run).holds_run
    summary = train(config, run, resume=resume, track=["tensorboard"])
    figures = {step + 1: record["val"]["auc"] for step, record in enumerate(summary.records)}
    assert scalars(run)["val/auc"] == pytest.approx(figures)
    assert json.loads((run / "tracking.json").read_text())["sent"] == {"tensorboard": 2}


def test_a_run_that_was_not_tracked_can_be_sent_later(tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = train(toy_config(write_table(tmp_path / "data")), run)
    before = contents(run)
    for _ in range(2):
        assert main(["train", "--resume", "--run-dir", str(run), "--track", "tensorboard"]) == 0
        found = scalars(run)
        assert found["val/auc"] == pytest.approx(
            {step + 1: record["val"]["auc"] for step, record in enumerate(summary.records)}
        )
    assert contents(run).items() >= before.items()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aim", "track is aim, which is not installed: pip install aim"),
        ("comet_ml", "track is comet_ml, which is not installed: pip install comet-ml"),
        ("tensorbord", "invalid choice 'tensorbord'"),
    ],
)
def test_a_tracker_that_is_not_there_is_one_sentence(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "--run-dir", str(run), "--track", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not run.exists()
