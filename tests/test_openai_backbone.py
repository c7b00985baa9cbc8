"""OpenAI's CLIP: one set of weights in their code and in ours, however it is loaded."""

import hashlib
import subprocess
import sys
import zipfile
from copy import deepcopy
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from czsl_sac.clip import CLIPBackbone, CLIPConfig, load_backbone
from czsl_sac.clip.config import infer_config
from czsl_sac.clip.sources.openai import OpenAITokenizer, import_clip, load_openai

# One rounding of float32 in features of size about 1.
ROUNDING = {"rtol": 1e-5, "atol": 2e-6}


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
    assert backbone.temperature == pytest.approx(1 / model.logit_scale.exp().item())


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
    model = deepcopy(openai_model)
    for name, size in sizes.items():
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(size))
    path = tmp_path_factory.mktemp("clip") / "ViT-small.pt"
    torch.jit.trace(model, (images, ids), check_trace=False).save(path)
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_loads_torchscript_archive(openai_model, archive):
    assert "input_resolution" in torch.jit.load(archive).state_dict()
    backbone = load_backbone(archive)
    assert backbone.name == "ViT-small"
    assert_same_features(backbone, openai_model)
    assert_same_features(load_backbone(torch.jit.load(archive)), openai_model)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
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
    images, _ = openai_inputs()
    # clip's loader goes through half precision, in which OpenAI's archives are anyway.
    assert_close(
        backbone.encode_image(images)[:, 0], openai_model.encode_image(images), rtol=0, atol=2e-2
    )
    monkeypatch.setitem(clip.clip._MODELS, "ViT-gone", (tmp_path / "no" / "ViT-gone.pt").as_uri())
    with pytest.raises(
        ConnectionError, match=r"could not download the weights of ViT-gone .* path"
    ):
        load_backbone("ViT-gone")
    other = tmp_path / ("0" * 64) / "ViT-other.pt"  # not the checksum of what lies there
    other.parent.mkdir()
    other.write_bytes(b"cut short")
    monkeypatch.setitem(clip.clip._MODELS, "ViT-other", other.as_uri())
    with pytest.raises(ConnectionError, match=r"weights of ViT-other \(.*SHA256 checksum"):
        load_backbone("ViT-other")


def test_loads_saved_state_dict(openai_model, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(openai_model.state_dict(), path)
    assert_same_features(load_backbone(str(path), activation="quick_gelu"), openai_model)


def test_loading_errors(openai_model, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"backbone is 'ViT-L14' but must be one of ViT-B/32.*tiny.*: did you mean ViT-L/14",
    ):
        load_backbone("ViT-L14")
    for missing in ("no/such.pt", tmp_path / "ViT-L14"):
        with pytest.raises(FileNotFoundError, match=r"there is no file .* to read CLIP's weights"):
            load_backbone(missing)
    with pytest.raises(
        ValueError, match=r"backbone is 'RN50', a ResNet CLIP, .*: take one of ViT-B/32"
    ):
        load_backbone("RN50")
    resnet = import_clip().model.CLIP(64, 32, (1, 1, 1, 1), 8, None, 8, 20, 64, 1, 1)
    with pytest.raises(ValueError, match="state_dict is a ResNet CLIP's"):
        load_openai(resnet)
    with pytest.raises(
        ValueError, match=r"state_dict is without 'visual.conv1.weight' but must be that of an"
    ):
        load_openai(nn.Linear(2, 2))
    weights = openai_model.state_dict()
    del weights["visual.ln_post.bias"]
    with pytest.raises(ValueError, match=r"is without \['visual.ln_post.bias'\] and has \['text.x"):
        CLIPBackbone.from_openai_state_dict({**weights, "x": torch.zeros(1)}, OpenAITokenizer())
    text = tmp_path / "text.pt"
    text.write_text("not weights")
    with pytest.raises(ValueError, match=r"text.pt is damaged or of another kind but must be"):
        load_backbone(text)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("a", "b")
    with pytest.raises(ValueError, match=r"zip.pt is damaged or of another kind but must be"):
        load_backbone(tmp_path / "zip.pt")


def test_tokenizer_equals_clips():
    tokenizer = OpenAITokenizer()
    texts = ["a photo of a Faux.Fur boot", "traffic_light", "naïve café 3", ""]
    ids = tokenizer(texts)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, import_clip().tokenize(texts).long())
    assert (ids.max(dim=1).values == tokenizer.eot).all()
    assert tokenizer.encode("wet cat") == tokenizer(["wet cat"])[0, 1:3].tolist()
    assert OpenAITokenizer(context_length=9)(["wet"]).shape == (1, 9)
    with pytest.raises(ValueError, match=r"one of 80 tokens, .* at most 77: shorten 'cat cat"):
        tokenizer(["wet", "cat " * 78])
    with pytest.raises(TypeError, match="texts is the string 'wet cat' but must be several"):
        tokenizer("wet cat")


COMPATIBILITY = """
import sys
import czsl_sac.clip, czsl_sac.clip
from czsl_sac.clip.sources.openai import import_clip
assert not {"clip", "torchvision"} & sys.modules.keys()

sys.modules["pkg_resources"] = None  # importing it fails, as with setuptools >= 82
try:
    import clip
except ImportError:
    pass
else:
    raise SystemExit("this clip needs no stand-in")
del sys.modules["pkg_resources"]
clip = import_clip()
assert clip.tokenize(["a cat"]).shape == (1, 77) and "ViT-L/14" in clip.available_models()
assert "pkg_resources" not in sys.modules
assert import_clip() is clip

for name in [name for name in sys.modules if name.split(".")[0] == "clip"]:
    del sys.modules[name]
sys.modules["pkg_resources"] = held = object()
assert import_clip() is not clip
assert sys.modules["pkg_resources"] is held
"""


def test_clip_imports_without_pkg_resources():
    subprocess.run([sys.executable, "-c", COMPATIBILITY], check=True)


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
