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
from czsl_sac.training.build import build_method
from czsl_sac.training.config import TrainConfig

SPACE = SPACES["usual"]
WORLD = SPACE.open_world()
METHODS = [*(name for name in method_names() if name != "dfsp"), "txt2img", "img2txt"]


def make(name: str, alignment: str) -> CZSLMethod:
    torch.manual_seed(1)
    backbone = random_backbone().float()
    if name == "troika":
        apply_adaptformer(backbone.visual, bottleneck=3)
    own = {
        "txt2img": {"method": "dfsp", "fusion": name},
        "img2txt": {"method": "dfsp", "fusion": name, "chunk_size": 2},
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
