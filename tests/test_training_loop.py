"""The loop on a toy data set: resuming, choosing the best epoch, what a run folder holds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from czsl_sac import SAC
from czsl_sac.blocks import VisualCondenser
from czsl_sac.clip import CLIPBackbone, CLIPConfig, apply_lora
from czsl_sac.clip.sources.tiny import WordTokenizer
from czsl_sac.files import load_tensors, write_atomically
from czsl_sac.space import CompositionSpace
from czsl_sac.training import loop
from czsl_sac.training.checkpoint import Checkpoint
from czsl_sac.training.config import OptimConfig, TrainConfig
from czsl_sac.training.loop import fit
from czsl_sac.training.run_folder import BEST, LAST, METRICS, RunFolder
from czsl_sac.training.scoring import evaluate_method, split_candidates
from czsl_sac.training.session import Session


class Toy:
    """Images of noise around one picture a composition, drawn once."""

    name = "toy"
    space = CompositionSpace.closed_world(
        train=[("red", "car"), ("blue", "cat"), ("red", "cat")],
        val=[("blue", "car"), ("red", "car")],
        test=[("green", "cat"), ("red", "cat")],
    )
    pairs = {  # noqa: RUF012
        "train": space.seen,
        "val": (("blue", "car"), ("red", "car")),
        "test": (("green", "cat"), ("red", "cat")),
    }

    def split(self, name: str, *, augment: bool = False) -> Dataset:
        generator = torch.Generator().manual_seed(len(name))
        targets = self.space.indices(self.pairs[name]).repeat(4)
        pictures = torch.randn(
            len(self.space), 3, 16, 16, generator=torch.Generator().manual_seed(0)
        )
        noise = torch.randn(len(targets), 3, 16, 16, generator=generator)
        return TensorDataset(pictures[targets] + noise, targets)

    def candidates(self, name: str) -> Tensor:
        return self.space.mask(self.pairs[name]) | self.space.seen_mask


def make_method(schedule: str, *, dropout: float = 0.3, **options: object) -> SAC:
    torch.manual_seed(0)
    words = WordTokenizer(("a", "photo", "of", "red", "blue"), buckets=9, context_length=8)
    config = CLIPConfig(8, 16, 8, 16, 1, 2, 8, words.vocab_size, 8, 1, 2)
    backbone = CLIPBackbone(config, words).requires_grad_(False)
    apply_lora(backbone.visual, rank=2)
    space = Toy.space
    return SAC(
        backbone,
        space,
        prompt_dropout=dropout,
        num_blocks=1,
        num_heads=2,
        condenser_dropout=dropout / 3,
        temperature=0.1,
        schedule=schedule,  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


def config(**optim: object) -> TrainConfig:
    options = {"epochs": 3, "batch_size": 4, "lr": 1e-2, "eval_batch_size": 3, "lr_step": 1}
    return TrainConfig(optim=OptimConfig(**{**options, **optim}))  # type: ignore[arg-type]


def run(method: SAC, settings: TrainConfig, path: Path, resume: bool = False) -> list[dict]:
    folder, session = RunFolder(path), Session.of(settings)
    checkpoint = folder.load_checkpoint() if resume else None
    return fit(method, Toy(), settings, folder, session, checkpoint=checkpoint).records


def last(path: Path) -> Checkpoint:
    checkpoint = RunFolder(path).load_checkpoint()
    assert checkpoint is not None
    return checkpoint


def without_times(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


@pytest.mark.parametrize("schedule", ["joint", "staged"])
@pytest.mark.parametrize("killed_after", [1, 3, 4])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, killed_after: int
) -> None:
    whole = make_method(schedule)
    records = run(whole, config(), tmp_path / "whole")
    assert len(records) == (3 if schedule == "joint" else 6)

    class Killed(BaseException):
        pass

    epochs = 0

    def killed(*arguments: object, **options: object) -> object:
        nonlocal epochs
        epochs += 1
        if epochs > killed_after:
            raise Killed
        return evaluate_method(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "evaluate_method", killed)
    if killed_after < len(records):
        with pytest.raises(Killed):
            run(make_method(schedule), config(), tmp_path / "part")
    else:
        run(make_method(schedule), config(), tmp_path / "part")
    monkeypatch.undo()
    resumed = make_method(schedule)
    again = run(resumed, config(), tmp_path / "part", resume=True)
    assert without_times(again) == without_times(records)
    for name, value in whole.trained_state().items():
        assert torch.equal(value, resumed.trained_state()[name]), name


def test_the_method_is_left_with_the_best_epoch(tmp_path: Path) -> None:
    method = make_method("joint")
    records = run(method, config(epochs=6, lr=0.3, lr_step=9), tmp_path)
    aucs = [record["val"]["auc"] for record in records]
    assert aucs[-1] < max(aucs)  # or the last epoch would do as well
    result = evaluate_method(method, Toy(), "val", Session(batch_size=8), stage="joint")
    assert result.auc == pytest.approx(max(aucs))
    best = load_tensors(tmp_path / BEST)
    assert all(torch.equal(best[name], value) for name, value in method.trained_state().items())
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == records


def test_training_lowers_the_loss_and_steps_the_rate(tmp_path: Path) -> None:
    records = run(make_method("joint"), config(epochs=4), tmp_path)
    totals = [record["losses"]["total"] for record in records]
    assert totals[-1] < totals[0]
    assert last(tmp_path).trainer["scheduler"]["_last_lr"] == pytest.approx([1e-2 * 0.5**4] * 2)


def test_the_condenser_has_a_rate_of_its_own(tmp_path: Path) -> None:
    run(make_method("joint", condenser_lr=0.5), config(epochs=1), tmp_path)
    groups = last(tmp_path).trainer["optimizer"]["param_groups"]
    rates = [group["initial_lr"] for group in groups]
    assert rates == [1e-2, 0.5]


def test_staged_epochs(tmp_path: Path) -> None:
    records = run(make_method("staged", condenser_epochs=1), config(), tmp_path)
    assert [record["stage"] for record in records] == ["align"] * 3 + ["condense"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    method = make_method("joint")
    with torch.no_grad():
        method.condenser.query.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the total loss is nan after epoch 1 of stage joint"):
        run(method, config(), tmp_path)


def test_resuming_with_other_options_is_refused(tmp_path: Path) -> None:
    run(make_method("joint"), config(epochs=1), tmp_path)
    other = make_method("joint")
    other.condenser = VisualCondenser(8, num_blocks=2, num_heads=2)
    with pytest.raises(ValueError, match=r"checkpoint lacks tensor 'condenser.blocks.1"):
        run(other, config(epochs=1), tmp_path, resume=True)


def test_split_candidates_keep_the_split_and_the_seen() -> None:
    space, position = split_candidates(Toy(), "val")
    assert space.pairs == (("blue", "car"), ("blue", "cat"), ("red", "car"), ("red", "cat"))
    assert space.seen == Toy.space.seen
    for column, pair in enumerate(Toy.space.pairs):
        expected = space.pairs.index(pair) if pair in space.pairs else -1
        assert int(position[column]) == expected


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fails)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no last checkpoint in .*: no epoch has"):
        folder.weights("last")
    for content in (b"nonsense", b""):
        for name in (LAST, BEST):
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"last.pt: the file is damaged but must be a che"):
            folder.load_checkpoint()
        with pytest.raises(ValueError, match=r"best.safetensors is damaged but must be a safeten"):
            load_tensors(tmp_path / BEST)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*other.safetensors"):
        load_tensors(tmp_path / "other.safetensors")


def test_seed_decides_the_order(tmp_path: Path) -> None:
    first = run(make_method("joint"), config(), tmp_path / "a")
    same = run(make_method("joint"), config(), tmp_path / "b")
    other = run(make_method("joint"), replace(config(), seed=1), tmp_path / "c")
    assert without_times(first) == without_times(same)
    assert first[0]["losses"] != other[0]["losses"]
