"""TOMCAT's stream against its equations written out, image by image, and what it promises."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from plain_parts import SPACES, batch, random_backbone, unit
from torch import Tensor
from torch.testing import assert_close

from czsl_sac.methods.tomcat import predictor as module
from czsl_sac.methods.tomcat.method import TOMCAT
from czsl_sac.methods.tomcat.options import TOMCATOptions
from czsl_sac.methods.tomcat.predictor import TOMCATPredictor

OPTIONS = TOMCATOptions(
    queue_size=2,
    alpha=0.7,
    beta=1.5,
    theta=2.0,
    collaboration_weight=0.6,
    test_lr=0.05,
    test_eps=1e-2,
)


def make(alignment: str = "cls", **changes) -> TOMCAT:
    torch.manual_seed(0)
    model = TOMCAT(random_backbone(), SPACES["usual"], OPTIONS, alignment=alignment, **changes)
    return model.double().eval()


def images(model: TOMCAT, count: int = 9) -> Tensor:
    torch.manual_seed(1)
    return batch(model.backbone, model.space, count)[0]


def stream(model: TOMCAT, pixels: Tensor, feature: str) -> list[Tensor]:
    """The scores of a stream by Eq. 2 to 9 and AdamW's rule, one number after the other."""
    o, scale = OPTIONS, 5.0
    cls = type(model.aligner).__name__ == "ClassTokenAligner"
    with torch.no_grad():
        text = model.prompts.compositions(model.space.pair_indices)
        encoded = model.backbone.encode_image(pixels)
    text = [unit(t) for t in text]
    size = len(text)
    learned = torch.zeros(2, size, len(text[0]), dtype=torch.float64, requires_grad=True)
    first, second = torch.zeros_like(learned.data), torch.zeros_like(learned.data)
    queues: list[list[tuple[float, Tensor]]] = [[] for _ in text]
    scores = []
    for step, tokens in enumerate(encoded, start=1):
        looks = [unit(token) for token in (tokens[:1] if cls else tokens)]
        seen = looks if feature == "aligned" else looks[:1]

        def moved(prototype: Tensor, residual: Tensor, views: list[Tensor]) -> Tensor:
            cosine = max(float(view @ unit(prototype)) for view in views)
            new = prototype + residual / (1 + math.exp(o.theta * cosine))
            return new / (new * new).sum().sqrt()

        new_text = [moved(t, learned[0, c], looks) for c, t in enumerate(text)]
        logits = [scale * torch.stack([v @ t for v in looks]).max() for t in new_text]
        p = torch.stack(logits).detach().softmax(0)
        label = int(p.argmax())
        best = max(seen, key=lambda v: float(v @ new_text[label].detach()))
        queues[label].append((-float((p * p.log()).sum()), best))
        queues[label] = sorted(queues[label], key=lambda entry: entry[0])[: o.queue_size]
        held = [c for c, queue in enumerate(queues) if queue]
        visual = {}
        for c in held:
            mean = sum(v for _, v in queues[c]) / len(queues[c])
            visual[c] = moved(mean, learned[1, c], seen)
            cosine = torch.stack([v @ visual[c] for v in seen]).max()
            logits[c] = logits[c] + o.alpha * torch.exp(-o.beta * (1 - cosine))
        p = torch.stack(logits).softmax(0)
        loss = -(p * p.log()).sum()
        for c in held:
            across = torch.stack([scale * (visual[c] @ new_text[d]) for d in held])
            down = torch.stack([scale * (visual[d] @ new_text[c]) for d in held])
            own = held.index(c)
            for row in (across, down):
                nll = row.exp().sum().log() - row[own]
                loss = loss + o.collaboration_weight * nll / (2 * len(held))
        (gradient,) = torch.autograd.grad(loss, [learned])
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size_of_step = (second / (1 - 0.999**step)).sqrt() + o.test_eps
        with torch.no_grad():
            learned *= 1 - o.test_lr * o.test_weight_decay
            learned -= o.test_lr * (first / (1 - 0.9**step)) / size_of_step
        scores.append(torch.stack(logits).detach())
    return scores


@pytest.mark.parametrize(
    ("alignment", "feature"),
    [("cls", "aligned"), ("patch_max", "aligned"), ("patch_max", "class_token")],
)
def test_a_stream_equals_the_equations(alignment: str, feature: str) -> None:
    model = make(alignment, queue_feature=feature)
    pixels = images(model)
    predictor = model.predictor(model.space)
    expected = torch.stack(stream(model, pixels, feature))
    assert_close(predictor(pixels), expected, rtol=1e-6, atol=1e-7)
    assert len(predictor.queue.classes) < len(pixels)  # one was too uncertain to be kept
    # The same images, now that something is known.
    assert not torch.allclose(predictor(pixels), expected, atol=1e-2)
    predictor.restart()
    assert_close(predictor(pixels), expected, rtol=1e-6, atol=1e-7)


def test_the_cut_into_batches_does_not_matter_and_the_order_does() -> None:
    model = make("patch_max")
    pixels = images(model)
    whole = model.predictor(model.space)(pixels)
    parts = model.predictor(model.space)
    with torch.inference_mode():  # which a caller may be in
        assert_close(torch.cat([parts(part) for part in pixels.split(4)]), whole)
    turned = model.predictor(model.space)(pixels.flip(0)).flip(0)
    assert not torch.allclose(turned, whole, atol=1e-3)


def test_processes_learn_from_all_images_and_score_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make()
    pixels = images(model, 5)
    whole = model.predictor(model.space)(pixels)
    tokens = model.encode(pixels)
    for rank, (own, rows) in enumerate([(tokens[:3], [0, 1, 2]), (tokens[[3, 4, 0]], [3, 4, 4])]):
        monkeypatch.setattr(module.distributed, "get_rank", lambda rank=rank: rank)
        predictor = model.predictor(model.space)
        predictor.gather = lambda _: tokens
        assert_close(torch.cat(list(predictor.score_chunks(own)), dim=1), whole[rows])


def test_only_the_residuals_learn() -> None:
    model = make("patch_max", reduction="linear")  # a head that has weights
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predictor = model.predictor(model.space)
    predictor(images(model))
    assert predictor.text_residual.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    held = predictor.queue.classes.unique()
    idle = torch.ones(len(model.space)).bool()
    idle[held] = False
    assert predictor.visual_residual[held].abs().sum(1).gt(0).all()
    assert predictor.visual_residual[idle].eq(0).all()


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
def test_in_training_and_without_learning_the_base_model_predicts(alignment: str) -> None:
    model, plain = make(alignment), make(alignment, learn_at_test=False)
    pixels = images(model)
    with torch.no_grad():
        text = model.prompts.compositions(model.space.pair_indices)
        expected = model.aligner(model.encode(pixels), text)
    assert_close(model.predictor(model.space, "train")(pixels), expected)
    assert_close(plain.predictor(plain.space)(pixels), expected)
    assert not torch.allclose(model.predictor(model.space)(pixels), expected, atol=1e-3)


def test_open_world_and_heat_maps() -> None:
    model = make("patch_max")
    world = model.space.open_world()
    predictor = model.predictor(world)
    assert isinstance(predictor, TOMCATPredictor)
    pixels = images(model)
    assert predictor(pixels).shape == (9, 9)
    columns = torch.arange(9)
    tokens, text = predictor.compared(predictor.encode(pixels), columns)
    # What is compared with an image that comes next is what its score is made of.
    predictor.options = replace(predictor.options, alpha=0.0)
    scores = predictor(pixels[:1])
    best = (F.normalize(tokens[0], dim=-1) @ text[0]).max() * 5
    assert_close(scores[0, 0], best)


def test_options_say_what_is_transductive_and_what_is_idle() -> None:
    options = TOMCATOptions()
    assert options.is_transductive
    assert not TOMCATOptions(learn_at_test=False).is_transductive
    assert options.on_new_images(adapt=False) == {"learn_at_test": False}
    assert "queue_feature" in options.unread()
    assert set(TOMCATOptions(alpha=0.0).unread()) >= {"beta"}
    assert "theta" in TOMCATOptions(learn_at_test=False, alignment="patch_max").unread()
    with pytest.raises(ValueError, match="test_lr is 0 "):
        TOMCATOptions(test_lr=0)
