"""What evaluation asks of every predictor: chunks, another stream, features for the gap."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from plain_parts import SPACES, batch, random_backbone, randomize
from tiny_runs import options_of

from czsl_sac.blocks import PatchMaxAligner
from czsl_sac.clip import apply_adaptformer
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.predictor import Predictor
from czsl_sac.methods.registry import method_names
from czsl_sac.methods.three_branches import ThreeBranches
from czsl_sac.training.build import build_method
from czsl_sac.training.config import TrainConfig

SPACE = SPACES["usual"]
WORLD = SPACE.open_world()
METHODS = [name for name in method_names() if name != "dfsp"]
METHODS += ["txt2img", "img2txt", "plain troika"]


def make(name: str, alignment: str) -> CZSLMethod:
    torch.manual_seed(1)
    backbone = random_backbone().float()
    if "troika" in name:
        apply_adaptformer(backbone.visual, bottleneck=3)
    own = {
        "txt2img": {"method": "dfsp", "fusion": name},
        "img2txt": {"method": "dfsp", "fusion": name, "chunk_size": 2},
        "plain troika": {"method": "troika", "text_side": "plain", "disentangle": "none"},
    }
    options = options_of(alignment=alignment, **own.get(name, {"method": name}))
    if hasattr(options, "chunk_size"):
        options = replace(options, chunk_size=2)
    method = build_method(TrainConfig(method=options), backbone, SPACE)
    randomize(method)
    return method.eval()


def pictures(method: CZSLMethod, size: int = 3) -> torch.Tensor:
    return batch(method.backbone, SPACE, size)[0].float()


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("name", METHODS)
def test_chunks_of_the_open_world_make_up_the_whole(name: str, alignment: str) -> None:
    method = make(name, alignment)
    whole, chunked = method.predictor(WORLD), method.predictor(WORLD)
    chunked.chunk_size = 4
    for _ in range(2):  # SAC's bank has changed by the second
        images = pictures(method)
        parts = list(chunked.score_chunks(chunked.encode(images)))
        if name != "tomcat":  # which learns from an image before it looks at the next: one chunk
            assert [part.shape for part in parts] == [(3, 4), (3, 4), (3, 1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole(images))


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("name", METHODS)
def test_gap_features_meet_the_text_of_their_own_composition(name: str, alignment: str) -> None:
    method = make(name, alignment)
    predictor = method.predictor(WORLD)
    images, targets = pictures(method, 5), torch.tensor([0, 8, 3, 3, 5])
    encoded = predictor.encode(images)
    features, text = predictor.gap_features(encoded, targets), predictor.gap_text
    assert text.shape == (9, 12)
    names = {"class_token"} | ({"aligned"} if alignment == "patch_max" else set())
    assert features.keys() == names | ({"condensed"} if name == "sac" else set())
    tokens = encoded if isinstance(encoded, torch.Tensor) else encoded.tokens
    unit = F.normalize(tokens, dim=-1)
    torch.testing.assert_close(features["class_token"], unit[:, 0])
    if alignment == "patch_max":
        similarities = unit @ F.normalize(text[targets], dim=-1).unsqueeze(-1)
        winners = similarities.squeeze(-1).argmax(1)
        torch.testing.assert_close(features["aligned"], unit[torch.arange(5), winners])


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "zero-shot"])
def test_every_trained_parameter_gets_a_gradient(name: str, alignment: str) -> None:
    method = make(name, alignment)
    targets = SPACE.seen_mask.nonzero().flatten()
    method(pictures(method, len(targets)), targets, method.stages[0])["total"].backward()
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    idle = [n for n, p in trained.items() if p.grad is None or not bool(p.grad.any())]
    # A constant on all keys moves no softmax.
    assert [n for n in idle if not n.endswith("k_proj.bias")] == []


# These have tests of their own: CAILA and CAMS scale the logits, TOMCAT's texts go on learning.
SHOWN = [name for name in METHODS if name not in ("caila", "cams", "tomcat")]


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("name", SHOWN)
@torch.no_grad()
def test_what_is_shown_is_what_the_compositions_texts_meet(name: str, alignment: str) -> None:
    method = make(name, alignment)
    predictor, columns = method.predictor(SPACE), torch.tensor([0, 4, 2])
    images = pictures(method)
    encoded = predictor.encode(images)
    tokens, text = predictor.compared(encoded, columns)
    if isinstance(method, ThreeBranches):
        logits = method.branch_logits(encoded, predictor.texts)[0]
    elif name == "sac":
        logits = method.aligner(tokens, predictor.text.composition)
        probabilities = predictor.path_probabilities(encoded)[0].composition
        torch.testing.assert_close(logits.softmax(1), probabilities)
    else:
        logits = predictor(images)
    shown = method.aligner(tokens, text[:, None])[:, 0]
    torch.testing.assert_close(shown, logits[torch.arange(3), columns])


@pytest.mark.parametrize("reduction", ["max", "mean", "linear", "attention"])
@pytest.mark.parametrize("tokens", ["all", "patches"])
@pytest.mark.parametrize("class_weight", [0.0, 0.3])
def test_the_compared_feature_gives_the_similarity(
    reduction: str, tokens: str, class_weight: float
) -> None:
    aligner = PatchMaxAligner(
        reduction=reduction, token_choice=tokens, class_weight=class_weight, dim=8, num_heads=2
    ).double()
    images, text = torch.randn(6, 5, 8).double(), torch.randn(6, 8).double()
    feature = aligner.compared_feature(images, text)
    expected = aligner.similarity(images, text.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close((feature * F.normalize(text, dim=-1)).sum(-1), expected)


def test_half_precision_tokens_meet_float32_texts() -> None:
    aligner = PatchMaxAligner()
    tokens, text = torch.randn(2, 5, 8).bfloat16(), torch.randn(2, 8)
    expected = aligner.compared_feature(tokens.float(), text)
    assert torch.equal(aligner.compared_feature(tokens, text), expected)


def test_a_restarted_predictor_is_as_new() -> None:
    method = make("sac", "patch_max")
    method.fill_memory([pictures(method, 6)])
    used, images = method.predictor(WORLD), pictures(method)
    first = used(images)
    assert not torch.allclose(used(images), first)  # the bank has taken the images in
    used.restart()
    assert torch.equal(used(images), first)


def test_the_bank_takes_in_what_all_processes_saw() -> None:
    method = make("sac", "patch_max")
    whole, half = method.predictor(WORLD), method.predictor(WORLD)
    images, later = pictures(method, 4), pictures(method, 2)
    sent: list[torch.Tensor] = []

    def record(rows: torch.Tensor) -> torch.Tensor:
        sent.append(rows)
        return rows

    whole.gather = record
    scores = whole(images)
    half.gather = lambda rows: sent.pop(0)  # its own two images, and those of another process
    torch.testing.assert_close(half(images[:2]), scores[:2])
    assert not sent
    half.gather = whole.gather = lambda rows: rows
    torch.testing.assert_close(half(later), whole(later))


def test_a_predictor_that_only_scores_is_one_chunk_without_a_gap() -> None:
    class Constant(Predictor):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images.new_zeros(len(images), len(self.space))

    predictor = Constant(SPACE)
    encoded = predictor.encode(torch.zeros(2, 3, 4, 4))
    assert [part.shape for part in predictor.score_chunks(encoded)] == [(2, 6)]
    assert predictor.gap_text is None
    assert predictor.gap_features(encoded, torch.tensor([0, 1])) == {}
    predictor.restart()
