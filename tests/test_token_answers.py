"""What tokens answer to: equal to a loop, and known answers on tokens made for them."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.lab.measures import Views, measure_clip, measure_tokens
from czsl_sac import CompositionSpace
from czsl_sac.clip.sources.tiny import tiny_clip
from czsl_sac.data import Scenes
from czsl_sac.evaluation import CZSLEvaluator, TokenMeter, relative_modality_gap


@pytest.fixture(scope="module")
def views():
    return Views.draw(Scenes(eval_images_per_pair=2), "val")


def random_case(images=40):
    generator = torch.Generator().manual_seed(0)
    space = CompositionSpace.closed_world(
        train=[("old", "car"), ("wet", "cat"), ("old", "dog")], test=[("wet", "car")]
    )
    text = torch.randn(4, 6, generator=generator)
    targets = torch.arange(images) % 4
    tokens = torch.randn(images, 5, 6, generator=generator) + text[targets, None]
    masks = torch.rand(images, 8, 8, generator=generator) < 0.4
    return space, text, tokens, targets, masks


def test_equals_a_loop_in_any_batches():
    space, text, tokens, targets, masks = random_case()
    meter = TokenMeter(text, space)
    for batch in (slice(0, 7), slice(7, 40)):
        meter.update(tokens[batch], targets[batch], masks[batch])
    answers = meter.compute()
    similarity = F.normalize(tokens, dim=-1) @ F.normalize(text, dim=-1).T
    for kind, scores in (
        ("class_token", similarity[:, 0]),
        ("tokens", similarity.amax(1)),
        ("patches", similarity[:, 1:].amax(1)),
    ):
        evaluator = CZSLEvaluator(space)
        evaluator.update(scores, targets)
        assert answers.auc[kind] == pytest.approx(evaluator.compute().auc)
    wins, hits, shares, winners = 0, 0, [], []
    for image, target in enumerate(targets.tolist()):
        winner = int(similarity[image, :, target].argmax())
        wins += winner > 0
        best = int(similarity[image, 1:, target].argmax())
        winners.append(tokens[image, 1 + best])
        cover = masks[image].view(2, 4, 2, 4).float().mean((1, 3)).flatten()
        hits += bool(cover[best] > 0.25)
        shares.append(float((cover > 0.25).float().mean()))
    assert answers.patch_wins == wins / 40
    assert answers.pointing.accuracy == pytest.approx(hits / 40)
    assert answers.pointing.chance == pytest.approx(sum(shares) / 40)
    assert answers.images == 40
    gap = relative_modality_gap(torch.stack(winners), text, targets)
    assert answers.modality_gap["patches"] == pytest.approx(gap)
    gap = relative_modality_gap(tokens[:, 0], text, targets)
    assert answers.modality_gap["class_token"] == pytest.approx(gap)


def test_without_masks_there_is_no_pointing():
    space, text, tokens, targets, _ = random_case()
    meter = TokenMeter(text, space)
    meter.update(tokens, targets)
    assert meter.compute().pointing is None


def test_what_does_not_fit_is_refused():
    space, text, tokens, targets, _ = random_case()
    with pytest.raises(ValueError, match=r"text has shape \[3, 6\] but must be \[4, D\]"):
        TokenMeter(text[:3], space)
    with pytest.raises(ValueError, match=r"tokens has shape \[40, 1, 6\] but must be \[B, T, D\]"):
        TokenMeter(text, space).update(tokens[:, :1], targets)


def test_tokens_that_know_their_place_point_at_every_object(views):
    # the patch with the most of an object carries the object's text; the class token nothing
    data = views.data
    text = torch.eye(len(data.space), len(data.space) + 1)
    shown = torch.cat([views.masks[:, None], views.small.masks], 1).float()
    cover = F.adaptive_avg_pool2d(shown, 8).flatten(2)  # [N, 1 + K, 64]
    compositions = torch.cat([views.targets[:, None], views.small.compositions], 1)
    tokens = torch.zeros(len(compositions), 65, text.shape[1])
    tokens[..., -1] = 1.0  # what carries nothing has a direction that is no text's
    for image, row in enumerate(compositions.tolist()):
        for thing, composition in reversed(list(enumerate(row))):
            if composition >= 0:
                tokens[image, 1 + int(cover[image, thing].argmax())] = text[composition]
    rows = iter(tokens.split(50))
    measured = measure_tokens(lambda images: next(rows), text, views, batch_size=50)
    assert measured["point"] == 1.0
    assert measured["small"] > 0.95
    assert measured["point_chance"] < 0.2
    assert measured["small_chance"] < 0.1
    assert measured["wins"] == 1.0


def test_patches_of_todays_clip_do_not_answer(views):
    # docs/laboratory.md: what the criterion for a better one starts from
    measured = measure_clip(tiny_clip(), views)
    assert measured["auc_class_token"] > 0.2
    assert measured["auc_patches"] < 0.1
    assert measured["point"] < 2 * measured["point_chance"]
    assert measured["small"] < measured["small_chance"]
