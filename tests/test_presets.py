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
from plain_parts import SPACES, random_backbone

from czsl_sac.methods.options import MethodOptions, PromptOptions
from czsl_sac.methods.registry import method_class, method_names, method_options
from czsl_sac.methods.sac.options import SACOptions
from czsl_sac.methods.troika.options import TroikaOptions
from czsl_sac.space import CompositionSpace
from czsl_sac.training.config import BackboneConfig, DataConfig, OptimConfig, TrainConfig
from czsl_sac.training.presets import DATA_SETS, PresetName, preset_for
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run_folder import RunFolder

METHODS = method_names()
SPACE = CompositionSpace.closed_world([("red", "car"), ("blue", "cat")])


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
    config = preset_for(name)
    model, optim = config.method, config.optim
    assert isinstance(model, SACOptions)
    assert values == (
        *(model.num_blocks, model.alpha, model.beta, model.gamma, model.capacity),
        *(optim.epochs, optim.lr, optim.batch_size, model.prompt_dropout),
    )
    assert config.backbone.backbone == "ViT-L/14"
    assert model.retrieval_temperature == 0.1
    assert (optim.lr_step, optim.lr_gamma, optim.weight_decay) == (5, 0.5, 1e-5)
    assert (model.name, model.alignment, model.token_choice, model.bank) == (
        *("sac", "patch_max", "all", "dynamic"),
    )


@pytest.mark.parametrize(
    ("method", "name", "values"),
    [
        # learning rate, batch size, epochs, StepLR, prompt dropout, primitives' weight
        ("troika", "mit-states", (1e-4, 64, 10, 5, 0.3, 1.0)),
        ("troika", "ut-zappos", (5e-4, 128, 15, 5, 0.3, 1.0)),
        ("troika", "cgqa", (3.125e-6, 16, 15, 5, 0.0, 0.1)),
        ("dfsp", "mit-states", (1e-4, 256, 20, 3, 0.3, 0.01)),
        ("dfsp", "ut-zappos", (5e-4, 256, 20, 3, 0.3, 0.01)),
        ("dfsp", "cgqa", (5e-5, 256, 20, 3, 0.3, 0.01)),
        ("csp", "mit-states", (5e-5, 128, 20, 20, 0.3, None)),
        ("csp", "ut-zappos", (5e-4, 128, 20, 20, 0.2, None)),
    ],
)
def test_other_methods_come_as_published(
    method: str, name: PresetName, values: tuple[float | None, ...]
) -> None:
    config = preset_for(name, method)
    model, optim = config.method, config.optim
    assert values == (
        *(optim.lr, optim.batch_size, optim.epochs, optim.lr_step),
        *(model.prompt_dropout, getattr(model, "primitive_loss_weight", None)),
    )
    assert (model.name, model.alignment) == (method, "cls")
    assert config.backbone.backbone == "ViT-L/14"
    assert config.backbone.train_backbone == ("adaptformer" if method == "troika" else "none")
    assert (optim.weight_decay, optim.lr_gamma) == (1e-5, 0.5)
    assert config.data == DATA_SETS[name].data


def test_what_troika_and_dfsp_set_of_their_own() -> None:
    published = {name: preset_for(name, "troika") for name in ("ut-zappos", "mit-states", "cgqa")}
    layers = [(c.method.traction_layers, c.method.traction_dropout) for c in published.values()]
    assert layers == [(2, 0.0), (3, 0.1), (2, 0.0)]
    assert [c.optim.eval_batch_size for c in published.values()] == [64, 32, 4]
    fusions = [preset_for(name, "dfsp").method.fusion for name in published]
    assert fusions == ["img2txt", "txt2img", "txt2img"]


def test_a_method_sets_options_that_exist_and_no_more() -> None:
    assert {"coop", "csp", "dfsp", "sac", "troika", "zero-shot"} <= set(METHODS)
    for method, name in itertools.product(METHODS, get_args(PresetName)):
        options, preset = method_options(method), DATA_SETS[name]
        assert options.settings.keys() <= DATA_SETS.keys()
        settings = options.settings.get(name, {})
        config = preset_for(name, method)
        values = {**vars(config.backbone), **vars(config.method), **vars(config.optim)}
        assert settings.items() <= values.items()
        kept = {**vars(preset.backbone), **vars(options()), **vars(preset.optim)}
        assert values == {**kept, **settings}
        assert type(config.method) is options
        assert config.method.name == method
    assert preset_for("cgqa") == preset_for("cgqa", "sac")


def test_preset_names_are_data_set_names() -> None:
    assert tuple(DATA_SETS) == get_args(PresetName)
    assert [preset.data.dataset for preset in DATA_SETS.values()] == list(DATA_SETS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DATA_SETS)
def test_presets_survive_json(name: str, method: str) -> None:
    config = preset_for(name, method)
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
        method=SACOptions(condenser_lr=condenser_lr),
        optim=OptimConfig(lr=lr),
        seed=seed,
    )
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.write_record(RunRecord(config, SPACE, "tiny", "0" * 64, {}))
    assert folder.read_record().config == config


def test_options_left_out_of_the_json_keep_their_default() -> None:
    values = {"method": {"method": "sac", "alpha": 0}}
    assert TrainConfig.from_dict(values) == TrainConfig(method=SACOptions(alpha=0))
    troika = {"method": {"method": "troika"}}
    assert TrainConfig.from_dict(troika) == TrainConfig(method=TroikaOptions())


def of_sac(**options: object) -> dict[str, Any]:
    return {"method": {"method": "sac", **options}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methodd": {}}, r"configuration has no option 'methodd': did you mean method\?"),
        ({"optim": {"learning": 1}}, "optim has no option 'learning': known are epochs, batch_siz"),
        (of_sac(aligment="cls"), r"'aligment': did you mean alignment\?"),
        (of_sac(alignment="max"), "alignment is 'max' but must be one of patch_max, cls: give an"),
        ({"optim": {"lr": "1e-3"}}, "lr is '1e-3' but must be a number: give another value"),
        ({"optim": {"epochs": 1.5}}, "epochs is 1.5 but must be an integer"),
        (of_sac(condense=1), "condense is 1 but must be true or false"),
        ({"backbone": {"lora_targets": ["q", "x"]}}, "must be a tuple of one of q, k, v, o"),
        ({"optim": 3}, "optim is of type int but must be a dictionary of options"),
        ({"method": 3}, "method is without a name but must say which method its options are of"),
        ({"method": {"beta": 0.5}}, "method is without a name but must say which method"),
        ({"method": {"method": "cps"}}, r"method is 'cps' but must be one of .*did you mean csp\?"),
        ({"method": {"method": "csp", "beta": 0.5}}, "method csp has no option 'beta'"),
        ([], "configuration is of type list but must be a dictionary of options"),
    ],
)
def test_a_wrong_dictionary_says_what_is_wrong(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize(
    ("group", "option", "value", "message"),
    [
        (SACOptions, "alpha", 1.1, "alpha is 1.1 but must be at most 1: lower it"),
        (
            SACOptions,
            "beta",
            float("nan"),
            "beta is nan but must be at least 0 and at most 1: ",
        ),
        (SACOptions, "temperature", 0.0, "temperature is 0.0 but must be above 0: raise it"),
        (SACOptions, "prompt_dropout", 1.0, "prompt_dropout is 1.0 but must be below 1: lower it"),
        (SACOptions, "num_heads", 0, "num_heads is 0 but must be at least 1: raise it"),
        (SACOptions, "condense", False, 'bank is "dynamic" but condense is off'),
        (MethodOptions, "class_weight", 1.5, "class_weight is 1.5 but must be at most 1: lower"),
        (PromptOptions, "prompt_dropout", -0.1, "prompt_dropout is -0.1 but must be at least 0"),
        (TroikaOptions, "traction_layers", 0, "traction_layers is 0 but must be at least 1"),
        (OptimConfig, "lr", 0.0, "lr is 0.0 but must be above 0: raise it"),
        (OptimConfig, "epochs", 0, "epochs is 0 but must be at least 1: raise it"),
        (OptimConfig, "epochs", True, "epochs is True but must be an integer"),
        (DataConfig, "clutter", -0.1, "clutter is -0.1 but must be at least 0: raise it"),
        (BackboneConfig, "lora_targets", (), "lora_targets is empty"),
        (TrainConfig, "seed", -1, "seed is -1 but must be at least 0: raise it"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    group: type, option: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        group(**{option: value})


def test_a_folder_without_configuration_and_a_broken_one_are_told_apart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no run in .*has no config.json; czsl-"):
        folder.read_record()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged but must be JSON"):
        folder.read_record()


def test_every_option_is_documented_and_named_once() -> None:
    groups = (DataConfig, BackboneConfig, OptimConfig)
    methods = [method_options(method) for method in METHODS]
    for method in methods:  # they are flat on the command line
        names = [f.name for group in (*groups, method) for f in dataclasses.fields(group)]
        own = {"seed", "preset", "method", "run_dir", "resume"}
        assert len({*names, *own}) == len(names) + len(own)
    for group in (*groups, MethodOptions, PromptOptions, *methods):
        body = ast.parse(inspect.getsource(group)).body[0].body  # type: ignore[attr-defined]
        for field, doc in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                assert isinstance(doc, ast.Expr), f"{ast.unparse(field)} has no docstring"


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_a_method_is_read(method: str) -> None:
    """When the method is built: an option that changes nothing is worse than none."""
    options, read = method_options(method)(), set()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            value = getattr(options, name)
            read.add(name)
            return value

    implementation = method_class(options)
    implementation.build(Watched(), random_backbone().float(), SPACES["usual"])
    names = {field.name for field in dataclasses.fields(options)}
    assert read <= set(dir(options))
    # A method keeps its options and reads some when it runs, as do those that it derives from.
    own = Path(inspect.getfile(implementation)).parent.glob("*.py")
    bases = [
        Path(inspect.getfile(part))
        for part in implementation.__mro__
        if part.__module__.startswith("czsl_sac.")
    ]
    code = "".join(path.read_text("utf-8") for path in {*own, *bases})
    assert not [name for name in names - read if f"options.{name}" not in code]


@pytest.mark.parametrize("options", [DataConfig, BackboneConfig, OptimConfig])
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
    owner = rf"\b(?:config|{group})"  # what the code calls a group of options
    unread = [
        field.name
        for field in dataclasses.fields(options)
        if not any(re.search(rf"{owner}\.{field.name}\b", text) for text in readers)
    ]
    assert not unread
