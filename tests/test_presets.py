"""Configurations: the paper's values, checks with readable messages, and the JSON round trip."""

import ast
import dataclasses
import inspect
import itertools
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from czsl_sac.training.presets import (
    PRESETS,
    SETTINGS,
    BackboneConfig,
    DataConfig,
    MethodName,
    ModelConfig,
    OptimConfig,
    PresetName,
    TrainConfig,
    preset_for,
)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # K, α, β, γ, N, epochs, learning rate, batch size, prompt dropout
        ("ut-zappos", (3, 0.5, 0.3, 0.5, 16, 15, 2e-4, 64, 0.3)),
        ("mit-states", (3, 0.9, 0.7, 0.4, 24, 10, 5e-5, 64, 0.3)),
        ("cgqa", (1, 0.5, 0.7, 0.1, 16, 15, 5e-4, 16, 0.0)),
    ],
)
def test_presets_carry_the_settings_of_the_supplement(name: str, values: tuple[float, ...]) -> None:
    config = PRESETS[name]
    model, optim = config.model, config.optim
    assert values == (
        *(model.num_blocks, model.alpha, model.beta, model.gamma, model.capacity),
        *(optim.epochs, optim.lr, optim.batch_size, model.prompt_dropout),
    )
    assert config.backbone.backbone == "ViT-L/14"
    assert model.retrieval_temperature == 0.1
    assert (optim.lr_step, optim.lr_gamma, optim.weight_decay) == (5, 0.5, 1e-5)
    assert (model.method, model.alignment, model.tokens, model.bank) == (
        *("sac", "patch_max", "all", "dynamic"),
    )


@pytest.mark.parametrize(
    ("method", "name", "values"),
    [
        # learning rate, batch size, epochs, StepLR, prompt dropout, primitives' weight
        ("troika", "mit-states", (1e-4, 64, 10, 5, 0.3, None)),
        ("troika", "ut-zappos", (5e-4, 128, 15, 5, 0.3, None)),
        ("troika", "cgqa", (3.125e-6, 16, 15, 5, 0.0, 0.1)),
        ("dfsp", "mit-states", (1e-4, 256, 20, 3, 0.3, None)),
        ("dfsp", "ut-zappos", (5e-4, 256, 20, 3, 0.3, None)),
        ("dfsp", "cgqa", (5e-5, 256, 20, 3, 0.3, None)),
        ("csp", "mit-states", (5e-5, 128, 20, 20, 0.3, None)),
        ("csp", "ut-zappos", (5e-4, 128, 20, 20, 0.2, None)),
    ],
)
def test_other_methods_come_as_published(
    method: MethodName, name: PresetName, values: tuple[float | None, ...]
) -> None:
    config = preset_for(name, method)
    model, optim = config.model, config.optim
    assert values == (
        *(optim.lr, optim.batch_size, optim.epochs, optim.lr_step),
        *(model.prompt_dropout, model.primitive_loss_weight),
    )
    assert (model.method, model.alignment) == (method, "cls")
    assert config.backbone.backbone == "ViT-L/14"
    assert config.backbone.train_backbone == ("adaptformer" if method == "troika" else "none")
    assert (optim.weight_decay, optim.lr_gamma) == (1e-5, 0.5)
    assert config.data == PRESETS[name].data


def test_what_troika_and_dfsp_set_of_their_own() -> None:
    published = {name: preset_for(name, "troika") for name in ("ut-zappos", "mit-states", "cgqa")}
    layers = [(c.method.traction_layers, c.method.traction_dropout) for c in published.values()]
    assert layers == [(2, 0.0), (3, 0.1), (2, 0.0)]
    assert [c.optim.eval_batch_size for c in published.values()] == [64, 32, 4]
    fusions = [preset_for(name, "dfsp").method.fusion for name in published]
    assert fusions == ["img2txt", "txt2img", "txt2img"]


def test_a_method_sets_options_that_exist_and_no_more() -> None:
    fields = {
        field.name
        for group in (BackboneConfig, ModelConfig, OptimConfig)
        for field in dataclasses.fields(group)
    }
    assert {"sac", *SETTINGS} == set(get_args(MethodName))
    for method, name in itertools.product(get_args(MethodName), get_args(PresetName)):
        config, settings = preset_for(name, method), SETTINGS.get(method, {}).get(name, {})
        assert settings.keys() <= fields
        values = {**vars(config.backbone), **vars(config.model), **vars(config.optim)}
        assert settings.items() <= values.items()
        assert config.method.method == method
    assert preset_for("cgqa") == PRESETS["cgqa"]


def test_preset_names_are_data_set_names() -> None:
    assert tuple(PRESETS) == get_args(PresetName)
    assert [config.data.dataset for config in PRESETS.values()] == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = PRESETS[name]
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@settings(max_examples=50, deadline=None)
@given(
    root=st.none() | st.sampled_from([Path("a/b"), Path("/data/mit states"), Path()]),
    layers=st.none() | st.lists(st.integers(0, 23), max_size=4).map(tuple),
    lr=st.floats(1e-9, 10, allow_nan=False),
    condenser_lr=st.none() | st.floats(1e-9, 1),
    seed=st.integers(0, 2**31),
)
def test_any_configuration_survives_a_file(
    tmp_path_factory: pytest.TempPathFactory,
    root: Path | None,
    layers: tuple[int, ...] | None,
    lr: float,
    condenser_lr: float | None,
    seed: int,
) -> None:
    config = TrainConfig(
        data=DataConfig(data_root=root),
        backbone=BackboneConfig(lora_layers=layers),
        optim=OptimConfig(lr=lr, condenser_lr=condenser_lr),
        seed=seed,
    )
    path = tmp_path_factory.mktemp("run") / "config.json"
    config.save(path)
    assert TrainConfig.load(path) == config


def test_options_left_out_of_the_json_keep_their_default() -> None:
    assert TrainConfig.from_dict({"model": {"alpha": 0}}) == TrainConfig(
        method=ModelConfig(alpha=0)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modell": {}}, r"configuration has no option 'modell': did you mean model\?"),
        ({"optim": {"learning": 1}}, "optim has no option 'learning': known are schedule, epochs,"),
        ({"model": {"aligment": "cls"}}, r"'aligment': did you mean alignment\?"),
        ({"model": {"alignment": "max"}}, "alignment must be one of patch_max, cls, got 'max'"),
        ({"optim": {"lr": "1e-3"}}, "lr must be a number, got '1e-3'"),
        ({"optim": {"epochs": 1.5}}, "epochs must be an integer, got 1.5"),
        ({"model": {"condense": 1}}, "condense must be true or false, got 1"),
        ({"backbone": {"lora_targets": ["q", "x"]}}, "must be a tuple of one of q, k, v, o"),
        ({"model": 3}, "model must be a dictionary of options, got int"),
        ([], "configuration must be a dictionary of options, got list"),
    ],
)
def test_a_wrong_dictionary_says_what_is_wrong(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize(
    ("group", "option", "value", "message"),
    [
        (ModelConfig, "alpha", 1.1, "alpha must be at most 1, got 1.1"),
        (ModelConfig, "beta", float("nan"), "beta must be at least 0 and at most 1, got nan"),
        (ModelConfig, "temperature", 0.0, "temperature must be above 0, got 0.0"),
        (ModelConfig, "prompt_dropout", 1.0, "prompt_dropout must be below 1, got 1.0"),
        (ModelConfig, "num_heads", 0, "num_heads must be at least 1, got 0"),
        (ModelConfig, "condense", False, 'bank is "dynamic" but condense is off'),
        (OptimConfig, "lr", 0.0, "lr must be above 0, got 0.0"),
        (OptimConfig, "epochs", 0, "epochs must be at least 1, got 0"),
        (OptimConfig, "epochs", True, "epochs must be an integer, got True"),
        (DataConfig, "clutter", -0.1, "clutter must be at least 0, got -0.1"),
        (BackboneConfig, "lora_targets", (), "lora_targets is empty"),
        (TrainConfig, "seed", -1, "seed must be at least 0, got -1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    group: type, option: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        group(**{option: value})


def test_a_folder_without_configuration_and_a_broken_one_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError, match="not one that czsl-sac train made"):
        TrainConfig.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="does not hold a configuration"):
        TrainConfig.load(path)


def test_every_option_is_documented_and_named_once() -> None:
    groups = (DataConfig, BackboneConfig, ModelConfig, OptimConfig)
    names = [field.name for group in groups for field in dataclasses.fields(group)]
    assert len({*names, "seed"}) == len(names) + 1  # they are flat on the command line
    for group in groups:
        body = ast.parse(inspect.getsource(group)).body[0].body  # type: ignore[attr-defined]
        for field, doc in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(doc, ast.Expr), f"{ast.unparse(field)} has no docstring"


@pytest.mark.parametrize("options", [DataConfig, BackboneConfig, ModelConfig, OptimConfig])
def test_every_option_is_read(options: type) -> None:
    """By the parts of a run: an option that changes nothing is worse than none."""
    package = Path(inspect.getfile(TrainConfig)).parents[1]
    readers = [
        path.read_text("utf-8")
        for folder in ("training", "cli")
        for path in (package / folder).glob("*.py")
        if path.name not in ("config.py", "presets.py")
    ]
    group = options.__name__.removesuffix("Config").lower()
    owner = rf"\b(?:config|{group}|optim)"  # what the code calls a group of options
    unread = [
        field.name
        for field in dataclasses.fields(options)
        if not any(re.search(rf"{owner}\.{field.name}\b", text) for text in readers)
    ]
    assert not unread
