"""CLIP's weights as others keep them: wrapped, prefixed, live inside wrappers, damaged."""

import json
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from czsl_sac.clip import CLIPBackbone, from_open_clip, from_transformers, load_backbone
from czsl_sac.clip.checkpoints import plain_weights
from czsl_sac.clip.sources.openai import import_clip
from czsl_sac.clip.sources.tiny import TINY_WEIGHTS, tiny_clip

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def small_clip(heads: int = 1) -> nn.Module:
    """OpenAI's own class, small, with every weight away from its start."""
    torch.manual_seed(0)
    model = import_clip().model.CLIP(24, 32, 2, 64, 16, 77, 49408, 64, heads, 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_clip()


def assert_same(backbone: CLIPBackbone, model: nn.Module) -> None:
    ids = backbone.tokenizer(["a wet cat"])
    with torch.no_grad():
        assert_close(backbone.encode_image(IMAGES)[:, 0], model.encode_image(IMAGES))
        assert_close(backbone.encode_text(ids), model.encode_text(ids))


def prefixed(weights: dict, *prefixes: str) -> dict:
    return {"".join(prefixes) + key: value for key, value in weights.items()}


FORMS: dict[str, Callable[[dict], dict]] = {
    "state_dict": lambda w: {"epoch": 3, "state_dict": w, "optimizer": {"state": {}}},
    "model_state_dict": lambda w: {"model_state_dict": w, "loss": 0.5},
    "model": lambda w: {"model": w, "scaler": None},
    "DataParallel": lambda w: prefixed(w, "module."),
    "compiled": lambda w: prefixed(w, "_orig_mod."),
    "both": lambda w: {"state_dict": prefixed(w, "module.", "_orig_mod.")},
    "both, the other way": lambda w: prefixed(w, "_orig_mod.", "module."),
    "vision compiled alone": lambda w: {k.replace("visual.", "visual._orig_mod."): w[k] for k in w},
    "nested": lambda w: {"model": {"state_dict": w}},
    "half precision": lambda w: {"state_dict": {k: v.half().float() for k, v in w.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_fine_tuned_checkpoints_are_unwrapped(form, model, tmp_path):
    torch.save(FORMS[form](model.state_dict()), tmp_path / "tuned.pt")
    backbone = load_backbone(tmp_path / "tuned.pt", activation="quick_gelu")
    assert backbone.name == "tuned"
    if form == "half precision":
        assert not torch.equal(backbone.visual.proj, model.visual.proj)
        return
    assert_same(backbone, model)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
    "both, the other way": lambda model: nn.DataParallel(torch.compile(model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_live_models_are_unwrapped(wrapper):
    four = small_clip(heads=4)  # which its weights do not show
    assert_same(load_backbone(WRAPPERS[wrapper](four)), four)
    vision = {"image_size": 32, "patch_size": 16, "layers": 2, "width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "layers": 1, "width": 64, "heads": 1}
    theirs = open_clip.CLIP(24, vision, text).eval()
    assert_same(from_open_clip(WRAPPERS[wrapper](theirs), open_clip.SimpleTokenizer()), theirs)


def test_a_compiled_tower_inside_a_live_model(model):
    again = small_clip()
    again.visual = torch.compile(again.visual)
    assert_same(load_backbone(again), model)


def test_a_live_model_of_transformers_is_unwrapped():
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 1}
    config = transformers.CLIPConfig(
        text_config=sizes, vision_config={**sizes, "image_size": 32, "patch_size": 16}
    )
    model = transformers.CLIPModel(config).eval()
    words = Namespace(encode=list, bos_token_id=49406, eos_token_id=49407)
    backbone = from_transformers(nn.DataParallel(model), words)
    assert torch.equal(
        backbone.visual.class_embedding, model.vision_model.embeddings.class_embedding
    )


def test_weights_that_do_not_say_their_activation_are_warned_of(model, tmp_path):
    path = tmp_path / "tuned.pt"
    torch.save(model.state_dict(), path)
    with pytest.warns(UserWarning, match=r"tuned.pt does not say whether .* QuickGELU .* or GELU"):
        assert_same(load_backbone(path), model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = load_backbone(path, activation="gelu")
        torch.save({**model.state_dict(), "vocab_size": torch.tensor(49408)}, path)  # OpenAI's
        assert_same(load_backbone(path), model)
    assert other.config.activation == "gelu"
    gelu = small_clip()
    for name, part in list(gelu.named_modules()):
        if name.endswith("mlp"):
            part.gelu = nn.GELU()
    assert_same(other, gelu)
    with pytest.raises(
        ValueError, match="activation is 'relu' but must be one of quick_gelu, gelu"
    ):
        load_backbone(path, activation="relu")
    with pytest.raises(
        ValueError, match=r"'quick_gelu' but must be 'gelu', which tiny was trained"
    ):
        load_backbone("tiny", activation="quick_gelu")


@pytest.fixture
def small_architecture(tmp_path, monkeypatch):
    """Two architectures of open_clip, the plain one and its quickgelu variant."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 2, "width": 64},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "layers": 1,
            "width": 64,
            "heads": 1,
        },
    }
    folder = tmp_path / "architectures"
    folder.mkdir()
    (folder / "Small.json").write_text(json.dumps(config))
    (folder / "Small-quickgelu.json").write_text(json.dumps({**config, "quick_gelu": True}))
    before = dict(open_clip.factory._MODEL_CONFIGS), list(open_clip.factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIGS, open_clip.factory._MODEL_CONFIG_PATHS = before


def test_a_path_of_open_clip_does_not_say_its_activation(small_architecture, model, tmp_path):
    path = tmp_path / "epoch_3.pt"
    torch.save({"epoch": 3, "state_dict": prefixed(model.state_dict(), "module.")}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the name says it, or the caller
        assert_same(load_backbone(f"open_clip:Small-quickgelu/{path}"), model)
        assert_same(load_backbone(f"open_clip:Small/{path}", activation="quick_gelu"), model)
        gelu = load_backbone(f"open_clip:Small-quickgelu/{path}", activation="gelu")
    assert gelu.config.activation == "gelu"
    with pytest.warns(UserWarning, match=r"epoch_3.pt does not say .* GELU \(that of Small, which"):
        assert load_backbone(f"open_clip:Small/{path}").config.activation == "gelu"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"epoch_3.pt is damaged"):
        load_backbone(f"open_clip:Small/{path}", activation="gelu")
    torch.save({"visual.proj": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"epoch_3.pt: state_dict is without .* save the whole"):
        load_backbone(f"open_clip:Small/{path}", activation="gelu")


def test_a_tag_of_open_clip_says_its_activation(monkeypatch):
    """Since version 3 open_clip builds ViT-B-32/openai with GELU, of which it only warns."""
    asked = []

    def create(architecture, pretrained, *, force_quick_gelu):  # the real one downloads 600 MB
        asked.append(force_quick_gelu)
        raise RuntimeError("stop here")

    monkeypatch.setattr(open_clip, "create_model", create)
    for name in ("ViT-B-32/openai", "ViT-B-32/laion2b_s34b_b79k"):
        with pytest.raises(ValueError, match=f"open_clip could not make '{name}'"):
            load_backbone(f"open_clip:{name}")
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ViT-L/14@336", "ViT-L/14@336px"),
        ("ViT-B-32", "ViT-B/32"),
        ("vit-l/14", "ViT-L/14"),
        ("tinny", "tiny"),
        ("transformer:openai/x", "transformers:NAME"),
    ],
)
def test_near_misses_get_a_suggestion(name, near):
    with pytest.raises(ValueError, match=rf"backbone is '{name}' but .*: did you mean {near}\?"):
        load_backbone(name)


def damages(whole: bytes) -> dict[str, bytes]:
    cuts = {f"cut to {share} %": whole[: len(whole) * share // 100] for share in (1, 30, 60, 99)}
    return {
        "empty": b"",
        "one byte": whole[:1],
        **cuts,
        "without its end": whole[:-1],
        "zeros": bytes(len(whole)),
        "text": b"<!DOCTYPE html><html>not found</html>",
        "JSON": b'{"weights": [1, 2, 3]}',
        "noise": bytes(range(256)) * 40,
        "shifted": b"x" + whole,
    }


def assert_refused(load: Callable[[], object], path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        load()
    text = str(refused.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 500, text


def test_damaged_weights_are_one_sentence_that_names_the_file(model, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    for damaged in damages(path.read_bytes()).values():
        path.write_bytes(damaged)
        assert_refused(lambda: load_backbone(path, activation="gelu"), path)
    weights = model.state_dict()
    for foreign in (
        [1, 2],
        torch.zeros(3),
        {"state_dict": None},
        {"epoch": 3},
        {},
        {"args": Namespace(lr=1), "state_dict": weights},  # code, which is not run
        {"vision_model.embeddings.class_embedding": torch.zeros(1)},
        {**weights, "visual.proj": torch.zeros(3, 3)},
        {**weights, "visual.conv1.weight": torch.zeros(3)},
        {**weights, "token_embedding.weight": torch.zeros(3)},
        {key: value for key, value in weights.items() if "resblocks.0" not in key},
    ):
        torch.save(foreign, path)
        assert_refused(lambda: load_backbone(path, activation="gelu"), path)
    with pytest.raises(ValueError, match="checkpoint holds 'epoch', which is no tensor"):
        plain_weights({"epoch": 3})


def test_damaged_tiny_weights(tmp_path):
    path = tmp_path / "tiny.safetensors"
    for damaged in damages(TINY_WEIGHTS.read_bytes()).values():
        path.write_bytes(damaged)
        assert_refused(lambda: tiny_clip(path), path)
    state = {key: value.clone() for key, value in tiny_clip().state_dict().items()}
    save_file({**state, "visual.proj": torch.zeros(2)}, path)
    assert_refused(lambda: tiny_clip(path), path)
    save_file({"a": torch.zeros(1)}, path)
    assert_refused(lambda: tiny_clip(path), path)
