"""CLIP's architecture against torch's attention and OpenAI's own code, and its loading."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from czsl_sac.backbones import CLIPBackbone, CLIPConfig, load_backbone
from czsl_sac.backbones.clip import infer_config
from czsl_sac.backbones.openai import OpenAITokenizer, import_clip, load_openai
from czsl_sac.modules.transformer import Attention, QuickGELU, ResidualAttentionBlock, Transformer
from czsl_sac.text.tower import TextTower

# One rounding of float32 in features of size about 1.
ROUNDING = {"rtol": 1e-5, "atol": 2e-6}
WORDS = SimpleNamespace(sot=18, eot=19)
SMALL = CLIPConfig(
    embed_dim=16,
    image_size=32,
    patch_size=8,
    vision_width=24,
    vision_layers=2,
    vision_heads=2,
    context_length=8,
    vocab_size=20,
    text_width=12,
    text_layers=2,
    text_heads=2,
)


def saved_elements(function) -> int:
    """Numbers that autograd keeps for the backward pass of function()."""
    count = 0

    def pack(tensor):
        nonlocal count
        count += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return count


@pytest.fixture(scope="module")
def openai_model() -> nn.Module:
    """OpenAI's own CLIP, small, float32, every weight random (their norms start at one)."""
    clip = import_clip()
    torch.manual_seed(0)
    model = clip.model.CLIP(
        embed_dim=48,
        image_resolution=48,
        vision_layers=3,
        vision_width=64,
        vision_patch_size=16,
        context_length=77,
        vocab_size=49408,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=2,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def openai_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    texts = ["a photo of a wet cat", "rusty", "a photo of the very old caramelised traffic_light"]
    return images, import_clip().tokenize(texts).long()


def assert_same_features(backbone: CLIPBackbone, model: nn.Module) -> None:
    images, ids = openai_inputs()
    with torch.no_grad():
        assert_close(backbone.encode_image(images)[:, 0], model.encode_image(images), **ROUNDING)
        assert_close(backbone.encode_text(ids), model.encode_text(ids), **ROUNDING)
    assert backbone.temperature == pytest.approx(1 / float(model.logit_scale.exp()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    heads=st.integers(1, 3),
    causal=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_attention_equals_torch(dtype, batch, length, heads, causal):
    width = 4 * heads
    reference = nn.MultiheadAttention(width, heads, batch_first=True, dtype=dtype)
    nn.init.normal_(reference.in_proj_bias)
    nn.init.normal_(reference.out_proj.bias)
    ours = Attention(width, heads).to(dtype)
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(batch, length, width, dtype=dtype, requires_grad=True)
    mask = torch.full((length, length), float("-inf"), dtype=dtype).triu(1) if causal else None
    expected = reference(x, x, x, need_weights=False, attn_mask=mask)[0]
    actual = ours(x, is_causal=causal)
    assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [x, *reference.parameters()], cotangent)
    named = dict(ours.named_parameters())
    parameters = [named[name] for name, _ in reference.named_parameters()]
    for gradient, want in zip(
        torch.autograd.grad(actual, [x, *parameters], cotangent), wanted, strict=True
    ):
        assert_close(gradient, want, rtol=1e-4, atol=1e-5)


def test_activations():
    x = torch.linspace(-4, 4, 9)
    assert_close(QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)))
    assert isinstance(ResidualAttentionBlock(8, 2, activation="gelu").mlp.gelu, nn.GELU)
    with pytest.raises(ValueError, match=r"activation must be one of .*'relu'"):
        ResidualAttentionBlock(8, 2, activation="relu")
    with pytest.raises(ValueError, match="num_heads must divide width, got num_heads=3"):
        Attention(8, 3)


def test_gradient_checkpointing_changes_memory_alone():
    tower = Transformer(16, 4, 2).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    parameters = [x, *tower.parameters()]

    def run():
        return tower(x, is_causal=True).square().sum()

    plain = torch.autograd.grad(run(), parameters)
    kept = saved_elements(run)
    tower.gradient_checkpointing = True
    for gradient, want in zip(torch.autograd.grad(run(), parameters), plain, strict=True):
        assert torch.equal(gradient, want)
    assert saved_elements(run) < kept / 5


def text_tower(**options) -> TextTower:
    return TextTower(
        16, context_length=12, vocab_size=20, width=8, layers=2, heads=2, **options
    ).double()


def test_text_tower_ignores_what_follows_the_end():
    tower = text_tower()
    ids = torch.tensor([[18, 3, 4, 19], [18, 5, 19, 0]])
    padded = torch.zeros(2, 12, dtype=torch.int64)
    padded[:, :4] = ids
    eot = torch.tensor([3, 2])
    full = tower.encode_embeddings(tower.embed(padded), eot)
    assert_close(tower.encode_embeddings(tower.embed(ids), eot), full, rtol=0, atol=1e-14)
    assert_close(tower(padded), full, rtol=0, atol=1e-14)
    padded[:, 5:] = 7  # would be wrong as an end-of-text rule, but is not read
    assert_close(tower(padded, eot), full, rtol=0, atol=1e-14)
    assert tower(padded[:0]).shape == (0, 16)


def test_text_tower_chunks_are_exact_and_bounded():
    whole, chunked = text_tower(), text_tower(chunk_size=3)
    chunked.load_state_dict(whole.state_dict())
    embeddings = torch.randn(11, 6, 8, dtype=torch.float64, requires_grad=True)
    eot = torch.randint(0, 6, (11,))
    cotangent = torch.randn(11, 16, dtype=torch.float64)
    expected, actual = (t.encode_embeddings(embeddings, eot) for t in (whole, chunked))
    assert_close(actual, expected)
    wanted = torch.autograd.grad(
        expected, [embeddings, *whole.parameters()][:-1], cotangent, allow_unused=True
    )
    got = torch.autograd.grad(
        actual, [embeddings, *chunked.parameters()][:-1], cotangent, allow_unused=True
    )
    for gradient, want in zip(got, wanted, strict=True):
        assert_close(gradient, want)
    with torch.no_grad():
        assert_close(chunked.encode_embeddings(embeddings, eot), expected)

    frozen = chunked.requires_grad_(False)
    kept = saved_elements(lambda: frozen.encode_embeddings(embeddings, eot))
    assert kept <= embeddings.numel() + eot.numel()  # the chunks' inputs and nothing else
    frozen.chunk_size = 11
    assert saved_elements(lambda: frozen.encode_embeddings(embeddings, eot)) > 20 * kept


def test_text_tower_errors():
    tower = text_tower()
    with pytest.raises(ValueError, match=r"13 tokens a prompt, the tower takes at most 12"):
        tower.encode_embeddings(torch.zeros(2, 13, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"embeddings must have shape \[P, n, 8\]"):
        tower.encode_embeddings(torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="eot must hold one position for each of the 2 prompts"):
        tower.encode_embeddings(torch.zeros(2, 3, 8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        text_tower(chunk_size=0)


def test_config_is_checked():
    assert CLIPConfig(**asdict(SMALL)) == SMALL
    assert SMALL.num_patches == 16
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size"):
        replace(SMALL, image_size=30)
    with pytest.raises(ValueError, match="patch_size must be a power of two with stem='conv'"):
        replace(SMALL, stem="conv", image_size=36, patch_size=12)
    with pytest.raises(ValueError, match="stem must be 'patch' or 'conv'"):
        replace(SMALL, stem="resnet")


@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_conv_stem_makes_the_patch_grid(patch_size):
    config = replace(SMALL, stem="conv", patch_size=patch_size, vision_width=32)
    visual = CLIPBackbone(config, WORDS).visual
    grid = 32 // patch_size
    assert visual.conv1(torch.zeros(1, 3, 32, 32)).shape == (1, 32, grid, grid)
    assert visual(torch.zeros(1, 3, 32, 32)).shape == (1, config.num_patches + 1, 16)
    convolutions = [m for m in visual.conv1 if isinstance(m, nn.Conv2d)]
    assert [c.stride for c in convolutions] == [(2, 2)] * (patch_size.bit_length() - 1)


def test_initialisation_is_clips():
    torch.manual_seed(0)
    backbone = CLIPBackbone(replace(SMALL, vision_width=96, text_width=64), WORDS)
    for tower, width in ((backbone.visual, 96), (backbone.text, 64)):
        block = tower.transformer.resblocks[1]
        assert block.attn.in_proj_weight.std().item() == pytest.approx(width**-0.5, rel=0.05)
        assert block.mlp.c_fc.weight.std().item() == pytest.approx((2 * width) ** -0.5, rel=0.05)
        for weight in (block.attn.out_proj.weight, block.mlp.c_proj.weight):
            assert weight.std().item() == pytest.approx((4 * width) ** -0.5, rel=0.05)
    assert backbone.text.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert backbone.temperature == pytest.approx(0.07)


def test_backbone_errors():
    backbone = CLIPBackbone(SMALL, WORDS)
    with pytest.raises(ValueError, match=r"images must have shape \[B, 3, 32, 32\], got \[2, 3, 6"):
        backbone.encode_image(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"end-of-text token 19 in every row, missing in row 1"):
        backbone.encode_text(torch.tensor([[18, 3, 19], [18, 4, 5]]))


def test_end_of_text_is_the_tokenizers():
    """The end-of-text id need not be the largest, as it is with OpenAI."""
    backbone = CLIPBackbone(SMALL, SimpleNamespace(sot=0, eot=1))
    ids = torch.tensor([[0, 7, 9, 1, 0, 0]])
    expected = backbone.text(ids, torch.tensor([3]))
    assert torch.equal(backbone.encode_text(ids), expected)


def test_freezing_and_state_dict_round_trip():
    backbone = CLIPBackbone(SMALL, WORDS).requires_grad_(False)
    assert not backbone.encode_image(torch.zeros(1, 3, 32, 32)).requires_grad
    other = CLIPBackbone(SMALL, WORDS)
    other.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(other.encode_image(x), backbone.encode_image(x))


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_compiles_and_runs_in_bfloat16(stem):
    backbone = CLIPBackbone(replace(SMALL, stem=stem), WORDS)
    images, ids = torch.randn(2, 3, 32, 32), torch.tensor([[18, 3, 19, 0], [18, 4, 5, 19]])
    expected, features = backbone.encode_image(images), backbone.encode_text(ids)
    compiled = torch.compile(backbone.encode_image, fullgraph=True, backend="aot_eager")
    assert_close(compiled(images), expected)
    compiled = torch.compile(backbone.encode_text, fullgraph=True, backend="aot_eager")
    assert_close(compiled(ids), features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, texts = backbone.encode_image(images), backbone.encode_text(ids)
        tokens.float().square().sum().backward()
    assert_close(tokens.float(), expected, rtol=0, atol=0.1)
    assert_close(texts.float(), features, rtol=0, atol=0.1)
    half = backbone.bfloat16()
    assert_close(half.encode_image(images).float(), expected, rtol=0, atol=0.15)


def test_model_equals_openai(openai_model):
    backbone = load_backbone(openai_model)
    assert_same_features(backbone, openai_model)
    assert backbone.name == "clip"
    assert not backbone.training
    assert all(p.dtype == torch.float32 for p in backbone.parameters())
    # All tokens: OpenAI's own states before it picks the class token, through its norm and proj.
    states = []
    hook = openai_model.visual.transformer.register_forward_hook(
        lambda module, inputs, output: states.append(output.permute(1, 0, 2))
    )
    images, _ = openai_inputs()
    openai_model.encode_image(images)
    hook.remove()
    visual = openai_model.visual
    assert_close(backbone.encode_image(images), visual.ln_post(states[0]) @ visual.proj, **ROUNDING)


def test_model_weights_are_copied_with_the_models_heads(openai_model):
    clip = import_clip()
    model = clip.model.CLIP(48, 48, 2, 64, 16, 77, 49408, 64, 4, 2).eval()  # 16 channels a head
    backbone = load_backbone(model)
    assert (backbone.config.vision_heads, backbone.config.text_heads) == (1, 4)
    assert_same_features(backbone, model)
    before = backbone.visual.proj.clone()
    with torch.no_grad():
        model.visual.proj.zero_()
    assert torch.equal(backbone.visual.proj, before)


def test_half_precision_weights_become_float32(openai_model):
    half = {name: weight.half() for name, weight in openai_model.state_dict().items()}
    backbone = CLIPBackbone.from_openai_state_dict(half, OpenAITokenizer())
    rounded = import_clip().model.CLIP(48, 48, 3, 64, 16, 77, 49408, 64, 1, 2).eval()
    rounded.load_state_dict({name: weight.float() for name, weight in half.items()})
    assert_same_features(backbone, rounded)


def test_openai_state_dict_goes_back(openai_model):
    state_dict = load_backbone(openai_model).openai_state_dict()
    assert state_dict.keys() == openai_model.state_dict().keys()
    for name, weight in openai_model.state_dict().items():
        assert torch.equal(state_dict[name], weight)
    assert infer_config(state_dict) == CLIPConfig(48, 48, 16, 64, 3, 1, 77, 49408, 64, 2, 1)


@pytest.fixture(scope="module")
def archive(openai_model, tmp_path_factory):
    """A TorchScript archive as OpenAI publishes them, with the three numbers beside the weights."""
    images, ids = openai_inputs()
    sizes = {"input_resolution": 48, "context_length": 77, "vocab_size": 49408}
    vars(openai_model).pop("context_length"), vars(openai_model).pop("vocab_size")
    for name, size in sizes.items():
        openai_model.register_buffer(name, torch.tensor(size))
    path = tmp_path_factory.mktemp("clip") / "ViT-small.pt"
    torch.jit.trace(openai_model, (images, ids), check_trace=False).save(path)
    for name in sizes:
        delattr(openai_model, name)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_loads_torchscript_archive(openai_model, archive):
    assert "input_resolution" in torch.jit.load(archive).state_dict()
    backbone = load_backbone(archive)
    assert backbone.name == "ViT-small"
    assert_same_features(backbone, openai_model)
    assert_same_features(load_backbone(torch.jit.load(archive)), openai_model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_loads_by_name_with_clips_own_download(openai_model, archive, tmp_path, monkeypatch):
    clip = import_clip()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    published = tmp_path / digest / "ViT-small.pt"
    published.parent.mkdir()
    published.write_bytes(archive.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(clip.clip._MODELS, "ViT-small", published.as_uri())
    backbone = load_backbone("ViT-small", device="cpu")
    assert backbone.name == "ViT-small"
    assert (tmp_path / ".cache" / "clip" / "ViT-small.pt").is_file()
    images, ids = openai_inputs()
    # clip's loader goes through half precision, in which OpenAI's archives are anyway.
    assert_close(
        backbone.encode_image(images)[:, 0], openai_model.encode_image(images), rtol=0, atol=2e-2
    )
    monkeypatch.setitem(clip.clip._MODELS, "ViT-gone", (tmp_path / "no" / "ViT-gone.pt").as_uri())
    with pytest.raises(
        ConnectionError, match=r"could not download the weights of ViT-gone .* path"
    ):
        load_backbone("ViT-gone")


def test_loads_saved_state_dict(openai_model, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(openai_model.state_dict(), path)
    assert_same_features(load_backbone(str(path)), openai_model)


def test_loading_errors(openai_model, tmp_path):
    with pytest.raises(ValueError, match=r"unknown backbone 'ViT-L14': give one of ViT-B/32.*tiny"):
        load_backbone("ViT-L14")
    for missing in ("no/such.pt", tmp_path / "ViT-L14"):
        with pytest.raises(FileNotFoundError, match="there is no file .* to read CLIP's weights"):
            load_backbone(missing)
    with pytest.raises(ValueError, match=r"'RN50' is a ResNet CLIP, .*: take one of ViT-B/32"):
        load_backbone("RN50")
    resnet = import_clip().model.CLIP(64, 32, (1, 1, 1, 1), 8, None, 8, 20, 64, 1, 1)
    with pytest.raises(ValueError, match="state_dict holds a ResNet CLIP"):
        load_openai(resnet)
    with pytest.raises(ValueError, match=r"not hold the weights of an OpenAI CLIP: 'visual.conv1"):
        load_openai(nn.Linear(2, 2))
    weights = openai_model.state_dict()
    del weights["visual.ln_post.bias"]
    with pytest.raises(
        ValueError, match=r"missing \['visual.ln_post.bias'\], unexpected \['text.x"
    ):
        CLIPBackbone.from_openai_state_dict({**weights, "x": torch.zeros(1)}, OpenAITokenizer())
    text = tmp_path / "text.pt"
    text.write_text("not weights")
    with pytest.raises(ValueError, match="neither an archive of OpenAI's CLIP nor a state dict"):
        load_backbone(text)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("a", "b")
    with pytest.raises(ValueError, match="neither an archive of OpenAI's CLIP nor a state dict"):
        load_backbone(tmp_path / "zip.pt")
    torch.save({"state_dict": weights}, tmp_path / "nested.pt")
    with pytest.raises(ValueError, match="must hold a state dict, names to tensors"):
        load_backbone(tmp_path / "nested.pt")


def test_tokenizer_equals_clips():
    tokenizer = OpenAITokenizer()
    texts = ["a photo of a Faux.Fur boot", "traffic_light", "naïve café 3", ""]
    ids = tokenizer(texts)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, import_clip().tokenize(texts).long())
    assert (ids.max(dim=1).values == tokenizer.eot).all()
    assert tokenizer.encode("wet cat") == ids.new_tensor(tokenizer(["wet cat"]))[0, 1:3].tolist()
    assert OpenAITokenizer(context_length=9)(["wet"]).shape == (1, 9)
    with pytest.raises(ValueError, match=r"one of 80 tokens, .* at most 77: shorten 'cat cat"):
        tokenizer(["wet", "cat " * 78])
    with pytest.raises(TypeError, match="texts must be a sequence of strings, got the string"):
        tokenizer("wet cat")


COMPATIBILITY = """
import sys
sys.modules["pkg_resources"] = None  # as if setuptools >= 82: importing it fails
try:
    import clip
except ImportError:
    pass
else:
    raise SystemExit("this clip needs no stand-in")
{prepare}
import czsl_sac.backbones, czsl_sac.text
assert "clip" not in sys.modules and "torchvision" not in sys.modules
from czsl_sac.backbones.openai import import_clip
clip = import_clip()
assert clip.tokenize(["a cat"]).shape == (1, 77) and "ViT-L/14" in clip.available_models()
assert import_clip() is clip
assert {expected}
"""


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("del sys.modules['pkg_resources']", "'pkg_resources' not in sys.modules"),
        ("sys.modules['pkg_resources'] = held = object()", "sys.modules['pkg_resources'] is held"),
    ],
    ids=["absent", "present"],
)
def test_clip_imports_without_pkg_resources(prepare, expected):
    script = COMPATIBILITY.format(prepare=prepare, expected=expected)
    subprocess.run([sys.executable, "-c", script], check=True)


def test_another_package_named_clip_is_named(monkeypatch):
    other = ModuleType("clip")
    other.__file__ = "/somewhere/clip.py"
    monkeypatch.setitem(sys.modules, "clip", other)
    with pytest.raises(ImportError, match=r"/somewhere/clip.py is not OpenAI's: pip install opena"):
        import_clip()
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(ImportError, match="needs the package 'clip', which is not installed"):
        import_clip()


@pytest.mark.slow
def test_full_size_equals_openai():
    """ViT-L/14 as published, random weights: 430 million numbers, twice."""
    torch.manual_seed(0)
    model = import_clip().model.CLIP(768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12).eval()
    backbone = load_backbone(model)
    images, (_, ids) = torch.randn(2, 3, 224, 224), openai_inputs()
    with torch.no_grad():
        tokens, texts = backbone.encode_image(images), backbone.encode_text(ids)
        assert tokens.shape == (2, 257, 768)
        assert_close(tokens[:, 0], model.encode_image(images), rtol=1e-5, atol=1e-5)
        assert_close(texts, model.encode_text(ids), rtol=1e-5, atol=1e-5)
