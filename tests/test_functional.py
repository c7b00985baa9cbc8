"""The paper's equations against float64 loops, and their gradients against differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from czsl_sac.functional import (
    PathProbabilities,
    alignment_loss,
    base_loss,
    blend_similarities,
    class_token_similarity,
    combine_primitives,
    composition_probabilities,
    condense_tokens,
    condenser_loss,
    distillation_loss,
    feature_similarity,
    fuse_predictions,
    patch_max_reference,
    token_similarities,
    total_loss,
    weighted_similarity,
)
from czsl_sac.functional.probabilities import check_probabilities

sizes = st.integers(1, 5)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def row(text: Tensor, image: int) -> Tensor:
    """The texts that an image meets, shared or its own."""
    return text if text.dim() == 2 else text[image]


@settings(max_examples=40, deadline=None)
@given(b=sizes, t=sizes, c=sizes, d=sizes, per_image=st.booleans(), seed=st.integers(0, 99))
def test_similarities_equal_a_loop(
    b: int, t: int, c: int, d: int, per_image: bool, seed: int
) -> None:
    tokens = random(b, t, d, seed=seed)
    text = random(b, c, d, seed=seed + 1) if per_image else random(c, d, seed=seed + 1)
    weights = random(b, t, seed=seed + 2).softmax(dim=-1)
    all_pairs = token_similarities(tokens, text)
    values, indices = patch_max_reference(tokens, text)
    weighted = weighted_similarity(tokens, text, weights)
    first = class_token_similarity(tokens, text)
    for i in range(b):
        for k in range(c):
            dots = [
                sum(float(tokens[i, token, j] * row(text, i)[k, j]) for j in range(d))
                for token in range(t)
            ]
            assert all_pairs[i, :, k].tolist() == pytest.approx(dots)
            assert float(values[i, k]) == pytest.approx(max(dots))
            assert dots[int(indices[i, k])] == pytest.approx(max(dots))
            assert float(first[i, k]) == pytest.approx(dots[0])
            expected = sum(w * s for w, s in zip(weights[i].tolist(), dots, strict=True))
            assert float(weighted[i, k]) == pytest.approx(expected)


def test_a_tie_goes_to_the_lowest_token() -> None:
    tokens = torch.tensor([[[1.0], [2.0], [2.0]]])
    _, indices = patch_max_reference(tokens, torch.tensor([[1.0], [-1.0], [0.0]]))
    assert indices.tolist() == [[1, 0, 0]]


def test_low_precision_inputs_give_float32_values() -> None:
    values, indices = patch_max_reference(
        torch.ones(1, 2, 4).bfloat16(), torch.ones(3, 4).bfloat16()
    )
    assert values.dtype == torch.float32
    assert indices.dtype == torch.int64


def test_probabilities_and_cross_entropy_equal_a_loop() -> None:
    similarities, targets, tau = random(3, 4), torch.tensor([1, 0, 3]), 0.07
    probabilities = composition_probabilities(similarities, tau)
    losses = []
    for i in range(3):
        exponentials = [math.exp(s / tau) for s in similarities[i].tolist()]
        expected = [e / sum(exponentials) for e in exponentials]
        assert probabilities[i].tolist() == pytest.approx(expected)
        losses.append(-math.log(expected[int(targets[i])]))
    assert float(alignment_loss(similarities, targets, temperature=tau)) == pytest.approx(
        sum(losses) / 3
    )


def test_distillation_is_the_divergence_from_student_to_teacher() -> None:
    student, teacher = random(2, 3), random(2, 3, seed=1)
    p, q = student.softmax(dim=-1).tolist(), teacher.softmax(dim=-1).tolist()
    expected = sum(p[i][k] * math.log(p[i][k] / q[i][k]) for i in range(2) for k in range(3)) / 2
    assert float(distillation_loss(student, teacher)) == pytest.approx(expected)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = random(2, 3).requires_grad_(), random(2, 3, seed=1).requires_grad_()
    distillation_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_the_loss_sums_follow_the_paper() -> None:
    one, two, three = (torch.tensor(float(x)) for x in (1, 2, 3))
    assert float(base_loss(one, two, three)) == 6.0
    assert float(condenser_loss(two, three, 0.25)) == 0.75 * 2 + 0.25 * 3
    assert float(total_loss(one, three)) == 4.0


def test_fusion_equals_a_loop() -> None:
    pairs = torch.tensor([[0, 0], [1, 0], [1, 2], [0, 1]])
    sa, vac = (
        PathProbabilities(*(random(2, n, seed=s + n).softmax(dim=-1) for n in (4, 2, 3)))
        for s in (0, 10)
    )
    bank = random(2, 4, seed=20).softmax(dim=-1)
    scores = fuse_predictions(sa, vac, bank, pairs=pairs, beta=0.3, gamma=0.5)
    ready = fuse_predictions(
        combine_primitives(sa, pairs), combine_primitives(vac, pairs), bank, beta=0.3, gamma=0.5
    )
    assert torch.equal(scores, ready)
    without = fuse_predictions(sa, vac, pairs=pairs, beta=0.3, gamma=0.5)
    for i in range(2):
        for k, (a, o) in enumerate(pairs.tolist()):
            p_sa, p_vac = (
                float(p.composition[i, k] + p.attribute[i, a] * p.object[i, o]) for p in (sa, vac)
            )
            assert float(scores[i, k]) == pytest.approx(
                0.3 * p_sa + 0.7 * (p_vac + 0.5 * float(bank[i, k]))
            )
            assert float(without[i, k]) == pytest.approx(0.3 * p_sa + 0.7 * p_vac)


def test_condensation_equals_torch_attention() -> None:
    dim, heads = 6, 3
    reference = torch.nn.MultiheadAttention(dim, heads, bias=False, batch_first=True).double()
    query, tokens = random(2, dim), random(2, 5, dim, seed=1)
    w_q, w_k, w_v = reference.in_proj_weight.chunk(3)
    gathered, attention = condense_tokens(query @ w_q.T, tokens @ w_k.T, tokens @ w_v.T, heads)
    expected, expected_attention = reference(
        query.unsqueeze(1), tokens, tokens, average_attn_weights=False
    )
    torch.testing.assert_close(reference.out_proj(gathered), expected.squeeze(1))
    torch.testing.assert_close(attention, expected_attention.squeeze(2))


def test_gradients() -> None:
    tokens, shared = random(2, 3, 4).requires_grad_(), random(5, 4, seed=1).requires_grad_()
    own, weights = random(2, 5, 4, seed=2).requires_grad_(), random(2, 3, seed=3).requires_grad_()
    features, similarities = (
        random(2, 4, seed=4).requires_grad_(),
        random(2, 5, seed=5).requires_grad_(),
    )
    targets, other = torch.tensor([4, 0]), random(2, 5, seed=6)
    check = torch.autograd.gradcheck
    for text in (shared, own):
        assert check(lambda v, t: patch_max_reference(v, t)[0], (tokens, text))
        assert check(weighted_similarity, (tokens, text, weights))
        assert check(class_token_similarity, (tokens, text))
        assert check(feature_similarity, (features, text))
    assert check(lambda s: composition_probabilities(s, 0.5), similarities)
    assert check(lambda s: alignment_loss(s, targets, temperature=0.5), similarities)
    assert check(lambda s: distillation_loss(s, other), similarities)
    assert check(lambda s: blend_similarities(s, other, 0.25), similarities)
    assert check(
        lambda s: fuse_predictions(s, other, other, beta=0.5, gamma=0.1, partial=True), similarities
    )
    assert check(
        lambda q, v: condense_tokens(q, v, v, 2), (random(2, 4, seed=7).requires_grad_(), tokens)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: token_similarities(torch.ones(2, 3), torch.ones(1, 3)),
            r"tokens has shape \[2, 3\] but must be \[B, T, D\]",
        ),
        (
            lambda: token_similarities(torch.ones(2, 0, 3), torch.ones(1, 3)),
            "must hold a token to reduce over",
        ),
        (
            lambda: token_similarities(torch.ones(2, 1, 3), torch.ones(3)),
            r"text has shape \[3\] but must be",
        ),
        (
            lambda: token_similarities(torch.ones(2, 1, 3), torch.ones(1, 4)),
            "text has D = 4 but must have 3 as tokens",
        ),
        (
            lambda: token_similarities(torch.ones(2, 1, 3), torch.ones(3, 1, 3)),
            "text is given for 3 images but must be for 2",
        ),
        (
            lambda: weighted_similarity(torch.ones(2, 1, 3), torch.ones(1, 3), torch.ones(2, 2)),
            r"weights has shape \[2, 2\] but must be \[2, 1\]",
        ),
        (
            lambda: blend_similarities(torch.ones(1), torch.ones(1), 1.5),
            "class_weight is 1.5 but must be at most 1",
        ),
        (
            lambda: condenser_loss(torch.ones(1), torch.ones(1), -0.1),
            "alpha is -0.1 but must be at least 0",
        ),
        (
            lambda: distillation_loss(torch.ones(1, 2), torch.ones(1, 3)),
            r"alignment_logits has shape \[1, 3\] but must be \[1, 2\]",
        ),
        (
            lambda: condense_tokens(*[torch.ones(1, 1, 4)] * 3, num_heads=3),
            "num_heads is 3 but must divide D = 4",
        ),
        (
            lambda: fuse_predictions(torch.ones(1, 2), torch.ones(1, 2), beta=2.0, gamma=0.0),
            "beta is 2.0 but must be at most 1",
        ),
        (
            lambda: fuse_predictions(torch.ones(1, 2), torch.ones(1, 2), beta=1.0, gamma=-1.0),
            "gamma is -1.0 but must be at least 0",
        ),
        (
            lambda: fuse_predictions(torch.ones(1, 2), torch.ones(1, 3), beta=1.0, gamma=0.0),
            r"vac has shape \[1, 3\] but must be \[1, 2\] as sa",
        ),
        (
            lambda: fuse_predictions(
                torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 3), beta=1.0, gamma=0.0
            ),
            r"bank has shape \[1, 3\] but must be \[1, 2\] as the paths",
        ),
        (
            lambda: fuse_predictions(
                PathProbabilities(torch.ones(1, 2), torch.ones(1, 1), torch.ones(1, 2)),
                torch.ones(1, 2),
                beta=1.0,
                gamma=0.0,
            ),
            r"pairs is None but must be \[C, 2\], as sa is given",
        ),
        (
            lambda: combine_primitives(
                PathProbabilities(torch.ones(1, 2), torch.ones(1, 1), torch.ones(1, 2)),
                torch.zeros(3, 2, dtype=torch.int64),
            ),
            r"pairs has shape \[3, 2\] but must be \[2, 2\]",
        ),
    ],
)
def test_errors_name_the_argument(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    "broken",
    [[[1.0, 0.0], [3.0, -2.0]], [[1.0, 0.0], [float("nan"), 1.0]], [[1.0, 0.0], [0.0, 0.0]]],
    ids=["logits", "NaN", "zeros"],
)
def test_fusion_refuses_what_is_no_probability(broken: list[list[float]]) -> None:
    good, bad = torch.full((2, 2), 0.5), torch.tensor(broken)
    path = PathProbabilities(good, good, torch.ones(2, 1))
    options = {"pairs": torch.tensor([[0, 0], [1, 0]]), "beta": 0.5, "gamma": 0.1}
    assert fuse_predictions(path, path, good, **options).shape == (2, 2)
    for name, arguments in {
        "sa": (bad, path),
        "vac": (path, bad),
        "bank": (path, path, bad),
        "sa.composition": (path._replace(composition=bad), path),
        "vac.attribute": (path, path._replace(attribute=bad)),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} has in row 1 entries from .* but must hold"):
            fuse_predictions(*arguments, **options)


def test_fusion_takes_sums_to_two_of_paths_alone() -> None:
    half = torch.full((2, 2), 0.5)
    options = {"beta": 0.5, "gamma": 0.1}
    assert fuse_predictions(2 * half, half, half, **options)[0].tolist() == pytest.approx(
        [0.775] * 2
    )
    with pytest.raises(ValueError, match=r"sa has in row 0 .* the sum 3 .* 1 to 2 in sum"):
        fuse_predictions(3 * half, half, half, **options)
    with pytest.raises(ValueError, match=r"bank has in row 0 .* the sum 2 .* and 1 in sum"):
        fuse_predictions(half, half, 2 * half, **options)
    some = half[:, :1]  # columns of more compositions
    with pytest.raises(ValueError, match=r"the sum 0\.5"):
        fuse_predictions(some, some, some, **options)
    assert fuse_predictions(some, some, some, partial=True, **options).shape == (2, 1)


def test_half_precision_still_sums_to_one() -> None:
    flat = torch.full((1, 100_000), 1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        check_probabilities("bank", flat.to(dtype))
