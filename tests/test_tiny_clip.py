"""The built-in tiny CLIP: its tokenizer, its weights, and the script that made them."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from czsl_sac.clip import load_backbone
from czsl_sac.clip.sources.tiny import TINY_WEIGHTS, WordTokenizer, tiny_clip
from czsl_sac.data import Scenes

_PATH = Path(__file__).parents[1] / "benchmarks" / "pretrain_tiny_clip.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pretrain_tiny_clip", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("tiny")


# ---- tokenizer


def test_known_words_have_ids_of_their_own():
    tokenizer = WordTokenizer()
    words = ["a photo of", *Scenes().space.attributes, *Scenes().space.objects]
    ids = [i for text in words for i in tokenizer.encode(text)]
    assert len(set(ids)) == 3 + 24
    assert min(ids) >= 1
    assert max(ids) <= 32  # below the buckets
    assert tokenizer.encode("a photo of Red  CAR") == tokenizer.encode("A photo-of red_car.")


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(whitelist_categories=["Ll", "Nd"]), min_size=1, max_size=12))
def test_other_words_go_to_the_bucket_of_their_checksum(word):
    word = word.lower()
    tokenizer = WordTokenizer(("red",), buckets=7)
    expected = 1 if word == "red" else 2 + crc32(word.encode()) % 7
    assert tokenizer.encode(word) == [expected]
    assert tokenizer.vocab_size == 1 + 1 + 7 + 2


def test_texts_become_rows():
    tokenizer = WordTokenizer(("red", "car"), buckets=3, context_length=5)
    assert (tokenizer.sot, tokenizer.eot, tokenizer.vocab_size) == (6, 7, 8)
    rows = tokenizer(["red car", "", "car, car; car"])
    assert rows.dtype == torch.int64
    assert rows.tolist() == [[6, 1, 2, 7, 0], [6, 7, 0, 0, 0], [6, 2, 2, 2, 7]]
    with pytest.raises(ValueError, match=r"one of 6 tokens, .* at most 5: shorten 'red red red"):
        tokenizer(["red", "red red red red"])
    with pytest.raises(TypeError, match="texts is the string 'red' but must be several"):
        tokenizer("red")


# ---- the shipped weights


def test_shapes_and_temperature(tiny):
    assert (tiny.name, tiny.embed_dim, tiny.image_size) == ("tiny", 128, 64)
    assert not tiny.training
    assert all(p.dtype == torch.float32 for p in tiny.parameters())
    assert sum(p.numel() for p in tiny.parameters()) == 1_177_505
    assert tiny.encode_image(torch.zeros(3, 3, 64, 64)).shape == (3, 65, 128)
    features = tiny.encode_text(tiny.tokenizer(["a photo of red car", "a photo of glossy mango"]))
    assert features.shape == (2, 128)
    assert features.isfinite().all()
    assert 1 / 30.1 < tiny.temperature < 1 / 5


def test_it_fits_the_scenes(tiny):
    scenes = Scenes()
    assert (scenes.mean, scenes.std, scenes.image_size) == (tiny.mean, tiny.std, tiny.image_size)


def test_file_is_small_half_precision_and_says_how_it_was_made():
    assert TINY_WEIGHTS.stat().st_size < 10_000_000
    with safe_open(TINY_WEIGHTS, "pt") as file:
        made = file.metadata()
        assert made["step"] == made["steps"]  # a finished run, no checkpoint of one
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_zero_shot_accuracy(tiny, script):
    # on all of validation: 67.6, 55.6, 53.1 and 33.1 %
    accuracies = script.zero_shot(tiny, Scenes(eval_images_per_pair=6), "val")
    assert accuracies["attribute"] > 60
    assert accuracies["object"] > 48
    assert accuracies["seen pair"] > 44
    assert accuracies["unseen pair"] > 23


def test_loading_draws_no_random_number_and_random_weights_do():
    state = torch.get_rng_state()
    tiny_clip()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(0)
    one = tiny_clip(None).visual.proj
    assert not torch.equal(one, tiny_clip(None).visual.proj)
    torch.manual_seed(0)
    assert torch.equal(one, tiny_clip(None).visual.proj)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.safetensors"):
        tiny_clip(tmp_path / "none.safetensors")


# ---- the script


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 4))
def test_contrast_equals_a_loop(script, seed, batch, captions):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(captions, (batch,), generator=generator).unique(return_inverse=True)[1]
    images = F.normalize(torch.randn(batch, 5, generator=generator).double(), dim=1)
    texts = torch.randn(int(labels.max()) + 1, 5, generator=generator).double()
    texts = F.normalize(texts, dim=1)
    logits = 7 * images @ texts.T
    of_images = -sum(logits[i].softmax(0)[labels[i]].log() for i in range(batch)) / batch
    of_texts = 0.0
    for p in range(texts.shape[0]):
        mine = [i for i in range(batch) if labels[i] == p]
        of_texts -= sum(logits[:, p].softmax(0)[i].log() for i in mine) / len(mine)
    expected = (of_images + of_texts / texts.shape[0]) / 2
    torch.testing.assert_close(script.contrast(images, texts, labels, torch.tensor(7.0)), expected)


def test_an_interrupted_run_ends_in_the_same_weights(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "report", lambda *_: "")

    def options(name):
        out = tmp_path / f"{name}.safetensors"
        state = out.with_name(f"{name}.state")
        return SimpleNamespace(
            steps=4, batch=4, lr=1e-3, seed=0, out=out, state=state, save_every=2, threads=1
        )

    whole = script.pretrain(options("whole")).state_dict()
    broken = options("broken")
    loss = script.pretraining_loss

    def interrupted(model, scenes, step, batch):
        if step == 3:
            raise KeyboardInterrupt
        return loss(model, scenes, step, batch)

    monkeypatch.setattr(script, "pretraining_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.pretrain(broken)
    monkeypatch.setattr(script, "pretraining_loss", loss)
    resumed = script.pretrain(broken).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    saved = tiny_clip(broken.out).state_dict()
    assert all(torch.equal(saved[name], whole[name].half().float()) for name in whole)
    broken.lr = 1e-2
    with pytest.raises(SystemExit, match="remove it or give another --state"):
        script.pretrain(broken)
