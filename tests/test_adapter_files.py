"""Files of adapters, merged weights in OpenAI's own model, and frozen weights in half precision."""

import re

import pytest
import torch
from plain_parts import random_backbone, randomize
from safetensors.torch import save_file
from torch.testing import assert_close

from czsl_sac import (
    CLIPBackbone,
    apply_adaptformer,
    apply_lora,
    load_adapter,
    load_backbone,
    save_adapter,
    store_frozen,
)
from czsl_sac.clip.checksum import weights_checksum
from czsl_sac.clip.sources.openai import import_clip
from czsl_sac.files import load_tensors, read_metadata, save_tensors
from czsl_sac.training.build import build_backbone
from czsl_sac.training.config import BackboneConfig

ALL = ("q", "k", "v", "o", "mlp")


def small_backbone(seed: int = 0) -> CLIPBackbone:
    torch.manual_seed(seed)
    return random_backbone(widths=(16, 8)).float()


def adapted(seed: int = 0) -> CLIPBackbone:
    """LoRA of two kinds, one in the text tower, and adapters on one block; all away from zero."""
    backbone = small_backbone(seed)
    apply_lora(backbone.visual, rank=3, alpha=2.0, targets=ALL, layers=[1])
    apply_lora(backbone.text, rank=2, targets=["q", "v"], scaling="alpha/sqrt(r)")
    apply_adaptformer(backbone.visual, bottleneck=5, scale=0.7, layers=[0])
    randomize(backbone)
    return backbone.eval()


def features(backbone: CLIPBackbone) -> list[torch.Tensor]:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ids = backbone.tokenizer(["red car", "a photo of unheard things"])
        return [backbone.encode_image(images), backbone.encode_text(ids)]


def test_an_adapter_comes_back_on_a_plain_backbone(tmp_path):
    backbone, path = adapted(), tmp_path / "new" / "adapter.safetensors"
    save_adapter(path, backbone)
    plain = small_backbone()
    before = features(plain)
    assert load_adapter(str(path), plain) is plain
    for mine, theirs, old in zip(features(plain), features(backbone), before, strict=True):
        assert torch.equal(mine, theirs)
        assert not torch.allclose(mine, old)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # The adapter alone, and what it was made for.
    names = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert load_tensors(path).keys() == names
    metadata = read_metadata(path)
    assert metadata["base"] == "clip"
    assert metadata["base_checksum"] == small_backbone().base_checksum
    assert '"rank": 3, "alpha": 2.0, "scaling": "alpha/r"' in metadata["settings"]
    # Once more, onto adapters of the same settings.
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    load_adapter(path, plain)
    for mine, theirs in zip(features(plain), features(backbone), strict=True):
        assert torch.equal(mine, theirs)
    assert plain.state_dict().keys() == backbone.state_dict().keys()


def test_an_adapter_on_another_base_is_refused_or_warned_of(tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapted())
    other = small_backbone(seed=1)
    keys = list(other.state_dict())
    with pytest.raises(ValueError, match=r"belongs to the weights of 'clip' with checksum \w{12}"):
        load_adapter(path, other)
    assert list(other.state_dict()) == keys
    with pytest.warns(UserWarning, match="results will differ"):
        load_adapter(path, other, other_base="warn")
    with (
        pytest.warns(UserWarning, match="belongs to"),
        pytest.raises(ValueError, match=r"it adapts visual.transformer.resblocks.1"),
    ):
        load_adapter(path, load_backbone_of_one_block(), other_base="warn")
    wider = random_backbone(widths=(24, 8)).float()
    with (
        pytest.warns(UserWarning, match="belongs to"),
        pytest.raises(
            ValueError, match=r"does not fit: .* is .* there but must be .*: load the base"
        ),
    ):
        load_adapter(path, wider, other_base="warn")


def load_backbone_of_one_block() -> CLIPBackbone:
    backbone = small_backbone()
    del backbone.visual.transformer.resblocks[1]
    return backbone


@pytest.mark.filterwarnings("ignore:.*results will differ")
def test_files_and_backbones_that_do_not_go_together(tmp_path):
    path = tmp_path / "adapter.safetensors"
    with pytest.raises(ValueError, match="backbone has neither LoRA nor adapters but must"):
        save_adapter(path, small_backbone())
    save_adapter(path, adapted())
    with pytest.raises(ValueError, match="has adapters of other settings than"):
        load_adapter(path, apply_lora(small_backbone()))
    with pytest.raises(FileNotFoundError, match="no file"):
        load_adapter(tmp_path / "none", small_backbone())
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="is no adapter that save_adapter wrote"):
        load_adapter(tmp_path / "other", small_backbone())
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="is damaged but must be a safetensors file"):
        load_adapter(tmp_path / "text", small_backbone())


def damages(whole: bytes) -> list[bytes]:
    cuts = [whole[: len(whole) * share // 100] for share in (0, 1, 30, 60, 99)]
    others = [b"x" + whole, bytes(len(whole)), b"<html>not found</html>", b'{"a": [1, 2]}']
    flipped = [
        whole[:-at] + bytes([whole[-at] ^ 1]) + whole[len(whole) - at + 1 :] for at in (1, 99)
    ]
    return [*cuts, whole[:-1], *others, whole[:1], *flipped]


WRONG_SETTINGS = (
    "",
    "[1, 2]",
    "{}",
    '{"lora": 3, "adaptformer": {}}',
    '{"lora": {"visual.proj": {}}, "adaptformer": {}}',
    '{"lora": {}, "adaptformer": {"visual": {"bottleneck": 5, "scale": 1, "dropout": 0}}}',
    '{"lora": {}, "adaptformer": {}}',  # fits no tensor of the file
    "[" * 100_000,
)


@pytest.mark.filterwarnings("error")
def test_damaged_files_are_one_sentence_and_change_nothing(tmp_path):
    path, backbone = tmp_path / "adapter.safetensors", small_backbone()
    save_adapter(path, adapted())
    whole, keys = path.read_bytes(), list(backbone.state_dict())
    metadata = read_metadata(path)
    tensors = {key: value.clone() for key, value in load_tensors(path).items()}  # off the file
    name = next(iter(tensors))

    def assert_refused() -> None:
        with pytest.raises(ValueError, match=re.escape(str(path))) as refused:
            load_adapter(path, backbone)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 600
        assert list(backbone.state_dict()) == keys

    for damaged in damages(whole):
        path.write_bytes(damaged)
        assert_refused()
    whole_settings = metadata["settings"]
    for old, new in (
        ('"rank": 3', '"rank": "3"'),
        ('"rank": 3', '"rank": 4'),
        ('"alpha"', '"beta"'),
    ):
        assert old in whole_settings
        save_file(tensors, path, {**metadata, "settings": whole_settings.replace(old, new)})
        assert_refused()
    for settings in WRONG_SETTINGS:
        save_file(tensors, path, {**metadata, "settings": settings})
        assert_refused()
    for key in ("czsl_sac", "settings", "base", "base_checksum"):
        save_file(tensors, path, {k: v for k, v in metadata.items() if k != key})
        assert_refused()
    for changed in ({name: torch.zeros(2)}, {"more": torch.zeros(1)}):
        save_tensors(path, {**tensors, **changed}, metadata)
        assert_refused()
    save_tensors(path, {k: v for k, v in tensors.items() if k != name}, metadata)
    assert_refused()
    path.write_bytes(whole)
    assert load_adapter(path, backbone) is backbone


def test_the_checksum_sees_weights_alone():
    backbone = small_backbone()
    plain = backbone.base_checksum
    assert plain == weights_checksum(backbone)
    assert adapted().base_checksum == plain
    assert small_backbone(seed=1).base_checksum != plain
    with torch.no_grad():
        backbone.logit_scale += 1e-6
    assert backbone.base_checksum != plain


def test_merged_weights_run_in_openais_own_model():
    """LoRA on everything, merged under plain CLIP keys; the adapted model stays as it is."""
    model = import_clip().model.CLIP(24, 32, 2, 64, 16, 20, 300, 64, 1, 2).eval()
    backbone = load_backbone(model).requires_grad_(False)
    apply_lora(backbone, rank=3, alpha=4.0, targets=ALL)
    randomize(backbone)
    keys = list(backbone.state_dict())
    twin = import_clip().model.CLIP(24, 32, 2, 64, 16, 20, 300, 64, 1, 2).eval()
    twin.load_state_dict(backbone.openai_state_dict())
    assert list(backbone.state_dict()) == keys
    images, ids = torch.randn(2, 3, 32, 32), torch.randint(300, (3, 20))
    with torch.no_grad():
        tokens, texts = backbone.encode_image(images), backbone.text(ids)
        assert_close(tokens[:, 0], twin.encode_image(images), rtol=1e-5, atol=1e-5)
        assert_close(texts, twin.encode_text(ids), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(tokens[:, 0], model.encode_image(images), rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_weights_compute_as_float32_rounded_once(dtype):
    """Features and gradients equal those of a float32 model whose matrices were rounded."""
    stored = store_frozen(small_backbone(), dtype)
    rounded = small_backbone()
    matrices = {n for n, p in stored.named_parameters() if p.dtype == dtype}
    assert len(matrices) == 2 * 2 * 4 + 1  # four a block, and the token table
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if name in matrices:
                parameter.copy_(parameter.to(dtype))
    for backbone in (stored, rounded):
        torch.manual_seed(5)
        apply_lora(backbone.visual, targets=ALL)
        randomize(backbone)
    rounded.load_state_dict(stored.state_dict())
    for mine, theirs in zip(features(stored), features(rounded), strict=True):
        assert mine.dtype == torch.float32
        assert_close(mine, theirs)
    results = []
    for backbone in (stored, rounded):
        parameters = [p for p in backbone.parameters() if p.requires_grad]
        for checkpointed in (False, True):
            backbone.visual.transformer.gradient_checkpointing = checkpointed
            loss = backbone.encode_image(torch.ones(2, 3, 8, 8)).square().sum()
            results.append(torch.autograd.grad(loss, parameters))
            assert {g.dtype for g in results[-1]} == {torch.float32}
    for other in results[1:]:
        for gradient, first in zip(other, results[0], strict=True):
            assert_close(gradient, first, rtol=1e-4, atol=1e-5)


def test_mixed_precision_takes_stored_weights_as_they_are():
    images = torch.randn(2, 3, 8, 8)
    exact = small_backbone().encode_image(images)
    outcomes = []
    for store in (False, True):
        backbone = small_backbone()
        if store:
            store_frozen(backbone, torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outcomes.append(backbone.encode_image(images))
    assert outcomes[0].dtype == torch.bfloat16
    assert torch.equal(*outcomes)  # autocast would have rounded the very same weights
    assert_close(outcomes[1].float(), exact, rtol=0, atol=0.1)


def test_adapters_know_their_base_before_it_was_rounded(tmp_path):
    backbone = apply_lora(store_frozen(small_backbone(), torch.bfloat16))
    save_adapter(tmp_path / "a", backbone)
    load_adapter(tmp_path / "a", small_backbone())
    assert weights_checksum(backbone) != backbone.base_checksum


def test_what_cannot_be_stored_is_refused():
    backbone = small_backbone()
    with pytest.raises(
        ValueError, match=r"dtype is torch.float64 but must be torch.float16 or torch.bfloat16"
    ):
        store_frozen(backbone, torch.float64)
    with torch.no_grad():
        backbone.visual.transformer.resblocks[0].mlp.c_fc.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"must hold a weight as large as 100000: take torch.bf"):
        store_frozen(backbone, torch.float16)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    with pytest.raises(
        ValueError, match="backbone has LoRA already but must be plain: call store_frozen"
    ):
        store_frozen(apply_lora(backbone), torch.bfloat16)


@pytest.mark.parametrize("part", ["lora", "adaptformer", "none", "full"])
def test_the_configuration_stores_what_is_frozen_alone(part):
    config = BackboneConfig(train_backbone=part, frozen_precision="bf16", checkpoint_vision=True)
    backbone = build_backbone(config)
    assert backbone.visual.transformer.gradient_checkpointing
    half = {n for n, p in backbone.named_parameters() if p.dtype == torch.bfloat16}
    assert any(name.startswith("text.") for name in half)
    assert any(name.startswith("visual.") for name in half) == (part != "full")
    trained = [p for p in backbone.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in trained)
    images = torch.randn(1, 3, 64, 64)
    tokens = backbone.encode_image(images)
    assert_close(tokens, load_backbone("tiny").encode_image(images), rtol=0, atol=0.1)
    if trained:
        tokens.sum().backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in trained)
