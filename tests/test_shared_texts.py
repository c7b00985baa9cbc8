"""Processes that share out the texts make the step, and the memory, of one that does all."""

from pathlib import Path

import pytest
import torch
from plain_parts import random_backbone
from test_training_loop import Toy, make_method
from tiny_runs import options_of
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from two_processes import run_in_processes

from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.registry import method_names
from czsl_sac.space import CompositionSpace
from czsl_sac.training.build import build_method
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.memory import fill_memory
from czsl_sac.training.session import Session

SEEN = [("red", "cat"), ("blue", "cat"), ("red", "car"), ("old", "dog"), ("blue", "dog")]
SPACE = CompositionSpace.closed_world(train=SEEN, test=[("old", "car")])
OPTIONS: dict[str, dict[str, object]] = {
    "sac": {"num_blocks": 1, "num_heads": 1, "schedule": "end_to_end", "bank": "off"},
    "csp": {},
    # BatchNorm's statistics are each process's own: the disentanglers have it.
    "troika": {"traction_layers": 1, "traction_dropout": 0.0, "disentangle": "none"},
    "dfsp": {},
}


def make(name: str) -> CZSLMethod:
    torch.manual_seed(1)
    options = options_of(name, **OPTIONS[name], prompt_dropout=0.0)
    method = build_method(TrainConfig(method=options), random_backbone(), SPACE).double()
    for part in method.modules():  # masks are drawn for a batch
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return method


def step(method: CZSLMethod, rank: int, count: int) -> dict[str, Tensor]:
    """Two steps of gradient descent on this process's share of 8 images."""
    method.backbone.text.chunk_size = 2
    session = Session()
    optimizer = torch.optim.SGD(method.parameter_groups(method.stages[0])[0].parameters, lr=0.1)
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = SPACE.indices([SEEN[number % 5] for number in range(8)])
    wrapped, optimizer = session.trainer(method, optimizer)
    own = slice(rank * 8 // count, (rank + 1) * 8 // count)
    with session.sharing_texts(method.backbone.text):
        for _ in range(2):
            loss = wrapped(images[own].double(), targets[own], method.stages[0])["total"]
            optimizer.zero_grad()
            session.accelerator.backward(loss)
            optimizer.step()
    return {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}


def process(rank: int, count: int, folder: Path) -> None:
    """What each process does: steps of every method, and a memory."""
    for name in OPTIONS:
        torch.save(step(make(name), rank, count), folder / f"{name}-{rank}.pt")
    torch.save(memory(), folder / f"memory-{rank}.pt")


def memory() -> list[tuple[Tensor, Tensor, Tensor]]:
    """What each composition remembers of the toy's images."""
    method, session = make_method("joint", dropout=0.0).eval(), Session(batch_size=5)
    with session.sharing_texts(method.backbone.text):
        fill_memory(method, lambda: Toy().split("train"), session)
    assert method.memory is not None
    return [method.memory.slots(c) for c in range(len(Toy.space.seen))]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_do_what_one_does(count: int, tmp_path: Path) -> None:
    assert len(SEEN) % count  # no even shares
    run_in_processes(count, process, count, tmp_path)
    for name in OPTIONS:
        expected = step(make(name), 0, 1)
        start = dict(make(name).named_parameters())
        moved = sum(not torch.equal(value, start[key]) for key, value in expected.items())
        assert moved
        for rank in range(count):
            found = torch.load(tmp_path / f"{name}-{rank}.pt")
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11, msg=key)
    for rank in range(count):
        for found, expected in zip(
            torch.load(tmp_path / f"memory-{rank}.pt"), memory(), strict=True
        ):
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def every_method(rank: int, folder: Path) -> None:
    """What each of two processes does: three steps of every method, by a graph that stays."""
    for name in method_names():
        torch.manual_seed(1)
        settings = TrainConfig(method=options_of(name))
        method = build_method(settings, random_backbone().float(), SPACE)
        images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
        targets = SPACE.indices([SEEN[number % 5] for number in range(8)])
        dataset, session = TensorDataset(images, targets), Session(batch_size=4)
        method.eval().prepare(session.batches(dataset, "preparing"))
        method.refresh(session.batches(dataset, "looking again"))
        for stage in method.stages:
            groups = [{"params": group.parameters} for group in method.parameter_groups(stage)]
            optimizer = torch.optim.SGD(groups, lr=1e-3)
            wrapped, optimizer = session.trainer(method, optimizer)
            method.train_stage(stage)
            with session.sharing_texts(method.backbone.text):
                for _ in range(3):
                    loss = wrapped(images, targets, stage)["total"]
                    optimizer.zero_grad()
                    session.accelerator.backward(loss)
                    optimizer.step()
                    method.after_step()
        torch.save(
            {n: p.detach() for n, p in method.named_parameters() if p.requires_grad},
            folder / f"{name}-{rank}.pt",
        )


def test_every_method_trains_alike_in_two_processes(tmp_path: Path) -> None:
    """Images differ, and so do the draws that go with them; the weights must not."""
    run_in_processes(2, every_method, tmp_path)
    for name in method_names():
        one, other = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(2))
        assert one.keys() == other.keys()
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=0, atol=0, msg=f"{name}: {key}")
