"""clip, open_clip and transformers: one set of random weights, three libraries, one answer."""

import json
from dataclasses import replace
from types import SimpleNamespace

import open_clip
import pytest
import torch
import transformers
from torch import nn
from torch.testing import assert_close

from czsl_sac.clip import CLIPBackbone, from_open_clip, from_transformers, load_backbone
from czsl_sac.clip.sources.openai import OpenAITokenizer, import_clip

# One rounding of float32 in features of size about 1.
ROUNDING = {"rtol": 1e-5, "atol": 2e-6}
VISION = {"image_size": 48, "patch_size": 16, "layers": 3, "width": 128}  # 64 channels a head
TEXT = {"context_length": 77, "vocab_size": 49408, "layers": 2, "width": 64, "heads": 1}
TEXTS = ["a photo of a wet cat", "rusty", "a photo of the very old caramelised traffic_light"]
IMAGES = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def shake(model: nn.Module) -> nn.Module:
    """Sets every weight away from its start, biases and norms too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def openai_model(**state_dict: torch.Tensor) -> nn.Module:
    model = import_clip().model.CLIP(48, 48, 3, 128, 16, 77, 49408, 64, 1, 2).eval()
    model.load_state_dict(state_dict)
    return model


def open_clip_model(*, quick_gelu: bool = False, custom: bool = False, **vision) -> nn.Module:
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return shake(kind(48, {**VISION, **vision}, TEXT, quick_gelu=quick_gelu))


def transformers_model(act: str = "quick_gelu", **changes) -> nn.Module:
    sizes = {"hidden_act": act, "intermediate_size": 256, "hidden_size": 64}
    text = {**sizes, "num_hidden_layers": 2, "num_attention_heads": 1, **changes.pop("text", {})}
    vision = {
        **sizes,
        **{"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3},
        **{"num_attention_heads": 2, "image_size": 48, "patch_size": 16},
        **changes.pop("vision", {}),
    }
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=48, **changes
    )
    torch.manual_seed(0)
    return shake(transformers.CLIPModel(config))


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory):
    """transformers' tokenizer on the vocabulary that comes with `clip`."""
    import_clip()
    from clip.simple_tokenizer import SimpleTokenizer

    bpe = SimpleTokenizer()
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps(bpe.encoder))
    merges = "\n".join(" ".join(pair) for pair in bpe.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    return transformers.CLIPTokenizer.from_pretrained(folder)


def images_for(model: nn.Module) -> torch.Tensor:
    return IMAGES.to(next(model.parameters()).dtype)


def features(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and text features as the library itself computes them, from ids as `clip` has them."""
    ids = OpenAITokenizer()(TEXTS)
    with torch.no_grad():
        if not hasattr(model, "get_image_features"):
            return model.encode_image(images_for(model)), model.encode_text(ids)
        # transformers < 5 gives tensors, later ones an output that holds them
        found = (model.get_image_features(images_for(model)), model.get_text_features(ids))
        return tuple(getattr(each, "pooler_output", each) for each in found)


def ours(backbone: CLIPBackbone) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        tokens = backbone.encode_image(images_for(backbone))
        assert tokens.shape == (3, 10, 48)
        return tokens[:, 0], backbone.encode_text(backbone.tokenizer(TEXTS))


def assert_same(backbone: CLIPBackbone, model: nn.Module) -> None:
    assert not backbone.training
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    for mine, theirs in zip(ours(backbone), features(model), strict=True):
        assert_close(mine, theirs, **ROUNDING)
    assert backbone.temperature == pytest.approx(1 / model.logit_scale.exp().item())


def test_one_set_of_weights_gives_one_answer_in_three_libraries(clip_tokenizer):
    theirs = transformers_model()
    backbone = from_transformers(theirs, clip_tokenizer)
    weights = backbone.openai_state_dict()
    second = open_clip_model(quick_gelu=True)
    second.load_state_dict(weights)
    models = {"clip": openai_model(**weights), "open_clip": second, "transformers": theirs}
    backbones = {
        "clip": load_backbone(models["clip"]),
        "open_clip": from_open_clip(second, open_clip.SimpleTokenizer()),
        "transformers": backbone,
    }
    for name, made in backbones.items():
        assert made.name == name
        assert made.config == backbone.config
        assert torch.equal(made.tokenizer(TEXTS), backbone.tokenizer(TEXTS))
        for model in models.values():
            assert_same(made, model)
        # The same weights through the same code: bit for bit.
        for mine, first in zip(ours(made), ours(backbone), strict=True):
            assert torch.equal(mine, first)


def test_in_float64_the_libraries_agree_to_the_last_digits(clip_tokenizer):
    """Not clip, whose norms know float32 alone."""
    theirs, second = transformers_model(), open_clip_model(quick_gelu=True)
    for backbone, model in (
        (from_transformers(theirs, clip_tokenizer), theirs),
        (from_open_clip(second, open_clip.SimpleTokenizer()), second),
    ):
        for mine, exact in zip(ours(backbone.double()), features(model.double()), strict=True):
            assert mine.dtype == torch.float64
            assert (mine - exact).abs().max() <= 1e-14 * exact.abs().max()


def test_what_enters_the_blocks_is_that_of_clip_bit_for_bit(clip_tokenizer):
    backbone = from_transformers(transformers_model(), clip_tokenizer)
    model = openai_model(**backbone.openai_state_dict())
    entered = []
    for tower in (backbone.visual, model.visual):
        tower.ln_pre.register_forward_hook(lambda *call: entered.append(call[-1]))
    ours(backbone), features(model)
    assert torch.equal(*entered)


@pytest.mark.parametrize("custom", [False, True])
def test_open_clip_with_gelu_other_heads_and_other_mlp(custom):
    model = open_clip_model(custom=custom, head_width=32, mlp_ratio=3.0)
    model.visual.preprocess_cfg = {"mean": (0.5, 0.4, 0.3), "std": [0.2, 0.2, 0.1]}
    backbone = from_open_clip(model, open_clip.SimpleTokenizer(), name="mine")
    assert (backbone.config.activation, backbone.config.vision_heads) == ("gelu", 4)
    assert backbone.config.vision_mlp_width == 384
    assert (backbone.mean, backbone.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert backbone.name == "mine"
    assert_same(backbone, model)
    model.visual.output_tokens = True  # changes what the model returns, not the backbone
    assert_close(ours(from_open_clip(model, open_clip.SimpleTokenizer())), ours(backbone))


def test_transformers_with_gelu_and_a_processor(clip_tokenizer):
    model = transformers_model("gelu", vision={"intermediate_size": 300})
    images = SimpleNamespace(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.2, 0.1])
    processor = SimpleNamespace(tokenizer=clip_tokenizer, image_processor=images)
    backbone = from_transformers(model, processor)
    assert (backbone.config.activation, backbone.config.vision_mlp_width) == ("gelu", 300)
    assert (backbone.mean, backbone.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert_same(backbone, model)


def test_old_configurations_of_transformers_say_that_texts_end_at_2(clip_tokenizer):
    model = transformers_model(text={"eos_token_id": 2})
    assert_same(from_transformers(model, clip_tokenizer), model)


def test_what_is_no_plain_clip_of_open_clip_is_refused():
    words = open_clip.SimpleTokenizer()
    for changes, message in (
        ({"layers": [1, 1, 1, 1]}, "its vision tower is a ModifiedResNet"),
        ({"pool_type": "avg"}, "its image feature is not that of the class token"),
        ({"attentional_pool": True}, "its image feature is not that of the class token"),
        ({"image_size": (48, 32)}, r"its images are not square but \(48, 32\) pixels"),
        ({"ls_init_value": 0.1}, r"and has \['visual.transformer.resblocks.0.ls_1.gamma'"),
        ({"no_ln_pre": True}, r"is without \['visual.ln_pre.bias', 'visual.ln_pre.weight'\]"),
        ({"norm_kwargs": {"eps": 1e-6}}, "its layer norms have eps=1e-06 instead of 1e-5"),
        ({"act_kwargs": {"approximate": "tanh"}}, r"its activations are GELU\(approximate='tanh'"),
    ):
        with pytest.raises(ValueError, match=message):
            from_open_clip(open_clip_model(**changes), words)
    model = open_clip_model()
    for changes, message in (
        ({"text_pool_type": "last"}, "its text feature is not that of the end-of-text token"),
        ({"attn_mask": None}, "its text tower is not causal"),
    ):
        for name, value in changes.items():
            setattr(model, name, value)
        with pytest.raises(ValueError, match=message):
            from_open_clip(model, words)
        model = open_clip_model()
    with pytest.raises(
        ValueError, match=r"joint space, but it is a Linear: take an open_clip.CLIP"
    ):
        from_open_clip(nn.Linear(1, 1), words)
    with pytest.raises(ValueError, match=r"tokenizer is a function but must be one of open_clip's"):
        from_open_clip(model, open_clip.tokenize)
    big = open_clip.SimpleTokenizer(additional_special_tokens=["<x>"])
    big.eot_token_id = 49408
    with pytest.raises(ValueError, match="has the id 49408 but must be within the 49408 ids"):
        from_open_clip(model, big)
    with pytest.raises(
        ValueError, match=r"a model of open_clip but must be one of clip: call .*from_open_clip\("
    ):
        load_backbone(model)
    with pytest.raises(
        ValueError,
        match=r"must name weights too: write open_clip:ViT-B-32/PRETRAINED, .*laion2b_s34b",
    ):
        load_backbone("open_clip:ViT-B-32")
    with pytest.raises(ValueError, match=r"open_clip is 'ViT-B-33' but must .* you mean ViT-B-32"):
        load_backbone("open_clip:ViT-B-33/openai")
    with pytest.raises(ValueError, match=r"weights of ViT-B-32 is 'opena1' .* you mean openai"):
        load_backbone("open_clip:ViT-B-32/opena1")


def test_what_is_no_clip_of_transformers_is_refused(clip_tokenizer):
    for changes, message in (
        ({"act": "relu"}, "hidden_act='relu' in its CLIPVisionConfig"),
        ({"text": {"hidden_act": "gelu"}}, "'quick_gelu' in the vision tower and 'gelu'"),
        ({"vision": {"layer_norm_eps": 1e-6}}, "layer_norm_eps=1e-06 in its CLIPVisionConfig"),
        ({"text": {"intermediate_size": 100}}, "intermediate_size 100 but must have .* = 256"),
        ({"text": {"eos_token_id": 5}}, "ends texts with the id 49407 but must end them with 5"),
        (
            {"text": {"vocab_size": 99, "eos_token_id": 2}},
            "the id 49407 but must be within the 99 ids",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            from_transformers(transformers_model(**changes), clip_tokenizer)
    model = transformers_model()
    with pytest.raises(
        ValueError, match=r"model is a CLIPVisionModel but must be a transformers.CLIPModel"
    ):
        from_transformers(model.vision_model, clip_tokenizer)
    with pytest.raises(ValueError, match=r"tokenizer is a object but must be the model's"):
        from_transformers(model, object())
    with pytest.raises(
        ValueError, match=r"a model of transformers but must .* call .*from_transformers\("
    ):
        load_backbone(model)
    assert transformers.CLIPModel is type(model)


def test_transformers_from_a_folder(clip_tokenizer, tmp_path):
    model = transformers_model()
    model.save_pretrained(tmp_path)
    images = transformers.CLIPImageProcessor(image_mean=[0.5, 0.4, 0.3])
    transformers.CLIPProcessor(images, clip_tokenizer).save_pretrained(tmp_path)
    backbone = load_backbone(f"transformers:{tmp_path}")
    assert backbone.mean == (0.5, 0.4, 0.3)
    assert_same(backbone, model)
    with pytest.raises(ConnectionError, match=r"transformers could not load .*/none"):
        load_backbone(f"transformers:{tmp_path}/none")


def test_the_extras_are_named_where_they_are_missing(monkeypatch):
    for name, make in (("open_clip", from_open_clip), ("transformers", from_transformers)):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        extra = name.replace("_", "-")
        with pytest.raises(ImportError, match=rf"needs the package '{name}'.*czsl-sac\[{extra}\]"):
            make(nn.Linear(1, 1), None)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [  # embed_dim, image, vision layers, width, patch; context, vocabulary, text width, heads
        ("ViT-B/32", (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)),
        ("ViT-B/16", (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)),
        ("ViT-L/14", (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12)),
        ("ViT-L/14@336px", (768, 336, 24, 1024, 14, 77, 49408, 768, 12, 12)),
    ],
)
def test_every_vision_transformer_of_clip_fits(name, sizes):
    """The published architectures, without memory for their weights."""
    assert name in import_clip().available_models()
    with torch.device("meta"):
        weights = import_clip().model.CLIP(*sizes).state_dict()
        backbone = CLIPBackbone.from_openai_state_dict(weights, OpenAITokenizer())
    assert backbone.config.vision_heads == sizes[3] // 64
    assert backbone.image_size == sizes[1]
    assert replace(backbone.config) == backbone.config
    assert {k: v.shape for k, v in backbone.openai_state_dict().items()} == {
        k: v.shape for k, v in weights.items()
    }


def test_the_list_of_published_vision_transformers_is_complete():
    published = [name for name in import_clip().available_models() if name.startswith("ViT")]
    assert sorted(published) == ["ViT-B/16", "ViT-B/32", "ViT-L/14", "ViT-L/14@336px"]
