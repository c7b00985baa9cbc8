"""Bytes counted on shapes alone are those of real tensors, and every way computes one step."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from benchmarks import train_step, train_step_gpu
from benchmarks.count_memory import FakeFloats, TensorBytes, peak_of_step
from czsl_sac.clip import CLIPConfig

SMALL = CLIPConfig(64, 16, 8, 16, 2, 2, 77, 400, 64, 2, 2)
CASE = train_step.Case(5, 7, 20, 3, 1)
PLAIN = [setting for setting in train_step_gpu.SETTINGS if not setting.compiled]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(train_step, "VIT_L_14", SMALL)
    train_step.random_clip.cache_clear()
    yield
    train_step.random_clip.cache_clear()


def test_storages_are_counted_once_and_until_they_are_freed():
    counted = TensorBytes()
    with counted:
        x = torch.empty(100)
        view = x.view(10, 10).mT
        y = x + 1
        del y
        assert (counted.current, counted.peak) == (400, 800)
        del x
        assert counted.current == 400
        del view
    assert (counted.current, counted.peak) == (0, 800)


def test_a_step_of_known_size():
    """Weight, gradient and two moments of 400 bytes, the input, the loss and its gradient.

    The output is freed before the weight's gradient is made, and its own gradient is one number
    seen ten times.
    """
    layer, x = nn.Linear(10, 10, bias=False), torch.ones(1, 10)
    assert peak_of_step(layer, lambda: layer(x).sum(), [x]) == 4 * 400 + 40 + 4 + 4


@pytest.mark.parametrize("label", train_step.WAYS)
def test_shapes_alone_count_as_real_tensors_do(small, label):
    peaks = []
    for fake in (False, True):
        mode = FakeFloats()
        model = train_step.build(CASE, train_step.WAYS[label].frozen)
        train_step.write_as(model, train_step.WAYS[label])
        if fake:
            mode.fake_module(model)
        with mode if fake else nullcontext():
            data = [torch.ones(3, 3, 16, 16), torch.arange(3)]
            peaks.append(peak_of_step(model, partial(train_step.loss, model, *data), data))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01)


def test_every_way_computes_the_same_step(small):
    model = train_step.build(CASE)
    images, targets = torch.randn(3, 3, 16, 16), torch.arange(3)
    outcomes = []
    for way in train_step.WAYS.values():
        train_step.write_as(model, way)
        model.zero_grad()
        value = train_step.loss(model, images, targets)
        value.backward()
        gradients = {
            name.replace("prompts.prompts.", "prompts."): p.grad.clone()
            for name, p in model.named_parameters()
            if p.grad is not None
        }
        outcomes.append((value, gradients))
    for value, gradients in outcomes[1:]:
        assert_close(value, outcomes[0][0])
        assert gradients.keys() == outcomes[0][1].keys()
        for name, gradient in gradients.items():
            assert_close(gradient, outcomes[0][1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("setting", PLAIN, ids=lambda s: s.name)
def test_a_whole_step_learns_in_every_setting(small, monkeypatch, setting):
    monkeypatch.setitem(train_step.CASES, "mit-states", CASE)
    options = train_step_gpu.Options(device="cpu", rounds=1)
    row = train_step_gpu.measure("mit-states", setting, options)
    assert row["setting"] == setting.name
    assert float(row["step_ms"]) > 0
    assert row["peak_gib"] == ""  # of a GPU alone
    model = train_step.build(CASE, setting.frozen)
    step = train_step_gpu.prepare(model, setting, CASE.batch, "cpu")
    before = {name: p.clone() for name, p in model.named_parameters()}
    step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("setting", PLAIN, ids=lambda s: s.name)
def test_mixed_precision_is_counted_as_on_real_tensors(small, monkeypatch, setting):
    monkeypatch.setitem(train_step.CASES, "mit-states", CASE)
    options = train_step_gpu.Options(device="cpu", count=True, batch=3)
    counted = []

    def keep(*arguments: object) -> int:
        counted.append(peak_of_step(*arguments))
        return counted[-1]

    monkeypatch.setattr(train_step_gpu, "peak_of_step", keep)
    row = train_step_gpu.count("mit-states", setting, options)
    assert (row["setting"], row["batch"]) == (setting.name, 3)
    assert float(row["counted_gib"]) == pytest.approx(counted[0] / 2**30, abs=0.01)
    model = train_step.build(CASE, setting.frozen)
    train_step_gpu.write(model, setting)
    data = [torch.ones(3, 3, 16, 16), torch.arange(3)]

    def step() -> torch.Tensor:
        with train_step_gpu.products_in(setting.precision, "cpu"):
            return train_step.loss(model, *data)

    assert counted[0] == pytest.approx(peak_of_step(model, step, data), rel=0.01)


def test_counting_needs_no_gpu(small, monkeypatch, tmp_path):
    monkeypatch.setitem(train_step.CASES, "mit-states", CASE)
    name, path = "ours, bf16, chunk 256", tmp_path / "rows.csv"
    train_step_gpu.main(["--count", "--case", "mit-states", "--only", name, "--csv", str(path)])
    header, row = path.read_text().splitlines()
    assert header.startswith("case,setting,compositions,batch,frozen_mib,trained_mib,counted_gib,")
    assert row.startswith(f'mit-states,"{name}",20,3,')
