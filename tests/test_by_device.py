"""What a GPU gets and a CPU does not, as the functions that choose it say, and where it arrives."""

from copy import deepcopy

import pytest
import torch
from test_training_loop import Toy, config, make_method
from torch.optim import Adam

from czsl_sac.training.batches import Batches
from czsl_sac.training.by_device import adam_options, copies_overlap, loader_options
from czsl_sac.training.loop import _StageTrainer
from czsl_sac.training.session import Session

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_batches_are_pinned_for_a_gpu_and_readers_stay() -> None:
    for device in (CPU, GPU):
        on_gpu = device is GPU
        assert copies_overlap(device) is on_gpu
        for workers in (0, 3):
            expected = {
                "num_workers": workers,
                "pin_memory": on_gpu,
                "persistent_workers": workers > 0,
            }
            assert loader_options(device, workers) == expected
            loader = Batches([1, 2, 3], 2, device, num_workers=workers)._loader
            assert {name: getattr(loader, name) for name in expected} == expected
    assert Batches([1, 2, 3], 2, GPU, num_workers=1)._loader.prefetch_factor == 2


def test_adam_is_fused_on_a_gpu_alone() -> None:
    assert adam_options(CPU, "bf16") == adam_options(GPU, "fp16") == {"fused": None}
    for precision in ("no", "tf32", "bf16"):
        assert adam_options(GPU, precision) == {"fused": True}


def test_the_loops_adam_is_that_of_its_device_also_for_a_run_that_began_elsewhere() -> None:
    settings = config()
    session = Session.of(settings)
    assert session.accelerator.dataloader_config.non_blocking is False

    def trainer() -> _StageTrainer:
        method = make_method("joint", dropout=0.0)
        return _StageTrainer(method, Toy(), settings, "joint", 0, session)  # type: ignore[arg-type]

    first = trainer()
    assert [group["fused"] for group in first.optimizer.param_groups] == [None, None]
    first.train_epoch(0)
    state = deepcopy(first.state())
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True  # as a GPU's checkpoint has it
    second = trainer()
    second.method.load_trained_state(first.method.trained_state())
    second.load_state(state)
    assert [group["fused"] for group in second.optimizer.param_groups] == [None, None]
    assert second.train_epoch(1) == first.train_epoch(1)


def test_the_fused_step_is_the_step() -> None:
    """torch has it on a CPU too: to rounding, one does what the other does."""
    outcomes = []
    for fused in (None, True):
        weight = torch.linspace(-1, 1, 7).requires_grad_()
        optimizer = Adam([weight], lr=1e-2, weight_decay=1e-3, fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            weight.pow(3).sum().backward()
            optimizer.step()
        outcomes.append(weight.detach())
    assert outcomes[0].tolist() == pytest.approx(outcomes[1].tolist(), rel=1e-6)
