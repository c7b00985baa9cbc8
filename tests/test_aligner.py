"""Alignment heads: reductions against loops, winning tokens, options, module duties."""

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from czsl_sac import load_backbone
from czsl_sac.blocks import ClassTokenAligner, PatchMaxAligner, build_aligner
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.sac.options import SACOptions


def cosines(tokens: Tensor, text: Tensor) -> Tensor:
    """Cosine of every token with every text, one at a time, ``[B, T, C]``."""
    texts = text if text.dim() == 3 else text.expand(len(tokens), *text.shape)
    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([F.cosine_similarity(token, t, dim=0) for t in texts[i]])
                    for token in tokens[i]
                ]
            )
            for i in range(len(tokens))
        ]
    )


@settings(max_examples=30, deadline=None)
@given(
    b=st.integers(1, 3),
    t=st.integers(2, 5),
    c=st.integers(1, 4),
    per_image=st.booleans(),
    patches=st.booleans(),
    class_weight=st.sampled_from([0.0, 0.25, 1.0]),
    seed=st.integers(0, 99),
)
def test_maximum_equals_a_loop(
    b: int, t: int, c: int, per_image: bool, patches: bool, class_weight: float, seed: int
) -> None:
    torch.manual_seed(seed)
    tokens = torch.randn(b, t, 6, dtype=torch.float64)
    text = torch.randn(*((b, c, 6) if per_image else (c, 6)), dtype=torch.float64)
    aligner = PatchMaxAligner(
        0.05, token_choice="patches" if patches else "all", class_weight=class_weight
    )
    values, indices = aligner.similarity(tokens, text, return_indices=True)
    scores = cosines(tokens, text)
    allowed = scores[:, 1:] if patches else scores
    expected = (1 - class_weight) * allowed.amax(1) + class_weight * scores[:, 0]
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(indices, allowed.argmax(1) + int(patches))
    torch.testing.assert_close(aligner(tokens, text), expected / 0.05)


def test_mean_linear_and_attention_are_weighted_means() -> None:
    tokens, text = torch.randn(2, 5, 8), torch.randn(3, 8)
    scores = cosines(tokens, text)
    mean = PatchMaxAligner(reduction="mean").similarity(tokens, text)
    torch.testing.assert_close(mean, scores.mean(1))

    linear = PatchMaxAligner(reduction="linear", dim=8)
    unit = F.normalize(tokens, dim=-1)
    weights = linear.token_scores(unit).softmax(dim=1)
    torch.testing.assert_close(linear.similarity(tokens, text), (weights * scores).sum(1))

    attention = PatchMaxAligner(reduction="attention", dim=8, num_heads=2)
    keys = attention.token_scores.key_proj(unit).view(2, 5, 2, 4)
    heads = [
        torch.stack([keys[:, i, h] @ attention.token_scores.query[h] for i in range(5)], dim=1)
        for h in range(2)
    ]
    weights = torch.stack([(s / 2.0).softmax(dim=1) for s in heads]).mean(0)
    torch.testing.assert_close(
        attention.similarity(tokens, text), (weights.unsqueeze(-1) * scores).sum(1)
    )


@pytest.mark.parametrize("reduction", ["linear", "attention"])
def test_learned_reductions_learn(reduction: str) -> None:
    aligner = PatchMaxAligner(reduction=reduction, dim=8)
    (aligner.similarity(torch.randn(2, 5, 8), torch.randn(3, 8)) ** 2).sum().backward()
    # A bias of the linear score shifts all tokens alike, so the softmax gives it no gradient.
    weights = [p for name, p in aligner.named_parameters() if not name.endswith("bias")]
    assert weights
    assert all(bool(p.grad.any()) for p in weights)


def test_class_token_aligner_is_the_blend_at_one() -> None:
    tokens, text = torch.randn(2, 5, 8), torch.randn(3, 8)
    aligner = ClassTokenAligner(0.02)
    values, indices = aligner.similarity(tokens, text, return_indices=True)
    torch.testing.assert_close(values, cosines(tokens, text)[:, 0])
    blended = PatchMaxAligner(0.02, class_weight=1.0)(tokens, text)
    torch.testing.assert_close(aligner(tokens, text), blended)
    assert not indices.any()


def test_the_scale_of_the_inputs_does_not_matter() -> None:
    tokens, text = torch.randn(2, 5, 8), torch.randn(3, 8)
    aligner = PatchMaxAligner()
    torch.testing.assert_close(aligner(tokens * 7, text * 0.1), aligner(tokens, text))


def test_temperature_may_be_a_parameter_or_a_tensor() -> None:
    tokens, text = torch.randn(2, 5, 8), torch.randn(3, 8)
    learned = PatchMaxAligner(torch.nn.Parameter(torch.tensor(0.5)))
    learned(tokens, text).sum().backward()
    assert learned.temperature.grad is not None
    kept = PatchMaxAligner(torch.tensor(0.5))
    assert float(kept.state_dict()["temperature"]) == 0.5
    torch.testing.assert_close(kept(tokens, text), PatchMaxAligner(0.5)(tokens, text))


def test_autocast_compile_and_dtype() -> None:
    tokens, text = torch.randn(2, 5, 16), torch.randn(3, 16)
    aligner = PatchMaxAligner()
    exact = aligner.similarity(tokens, text)
    with torch.autocast("cpu", torch.bfloat16):
        low = aligner.similarity(tokens, text)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, atol=1e-2, rtol=0)
    half = aligner.similarity(tokens.bfloat16(), text.bfloat16())
    torch.testing.assert_close(half, exact, atol=2e-2, rtol=0)
    compiled = torch.compile(aligner, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, text), aligner(tokens, text))


def test_build_and_repr() -> None:
    assert isinstance(build_aligner("cls", 0.01), ClassTokenAligner)
    aligner = build_aligner("patch_max", 0.01, token_choice="patches", class_weight=0.5)
    assert aligner.extra_repr() == (
        "temperature=0.01, reduction='max', token_choice='patches', class_weight=0.5, impl='auto'"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0 but must be above 0: raise it"),
        ({"reduction": "median"}, "reduction is 'median' but must be one of max, mean"),
        ({"token_choice": "class"}, "token_choice is 'class' but must be one of all, patches"),
        ({"impl": "cuda"}, "impl is 'cuda'"),
        ({"class_weight": 2.0}, "class_weight is 2.0 but must be at most 1: lower it"),
        ({"reduction": "linear"}, "dim is None but must be a number, as reduction='linear'"),
        ({"reduction": "attention", "dim": 8, "num_heads": 3}, "num_heads is 3"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchMaxAligner(**options)


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="no winning token"):
        PatchMaxAligner(reduction="mean").similarity(
            torch.ones(1, 2, 4), torch.ones(1, 4), return_indices=True
        )
    with pytest.raises(ValueError, match=r"tokens has shape \[1, 1, 4\] but must hold a patch"):
        PatchMaxAligner(token_choice="patches")(torch.ones(1, 1, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match="alignment is 'sparse' but must be one of patch_max, cls"):
        build_aligner("sparse", 0.01)
    positions = PatchMaxAligner(reduction="linear_positions", num_tokens=5)
    with pytest.raises(ValueError, match="tokens has 3 positions to reduce but must have 5"):
        positions(torch.ones(1, 3, 4), torch.ones(1, 4))


def test_a_weight_for_each_position_starts_as_the_mean_and_is_the_same_for_all_images() -> None:
    tokens, text = torch.randn(2, 5, 8), torch.randn(3, 8)
    for choice in ("all", "patches"):
        aligner = PatchMaxAligner(reduction="linear_positions", token_choice=choice, num_tokens=5)
        mean = PatchMaxAligner(reduction="mean", token_choice=choice)
        torch.testing.assert_close(aligner(tokens, text), mean(tokens, text))
        with torch.no_grad():
            aligner.token_scores.scores[-1] = 50.0
        torch.testing.assert_close(aligner.similarity(tokens, text), cosines(tokens, text)[:, -1])
        aligner(tokens, text).sum().backward()
        assert aligner.token_scores.scores.grad is not None


def test_old_ways_of_calling_are_taken_with_a_warning() -> None:
    tokens, text = torch.randn(2, 5, 8), torch.randn(3, 8)
    new = PatchMaxAligner(token_choice="patches", class_weight=0.5)
    with pytest.warns(DeprecationWarning, match="PatchMaxAligner's tokens is now token_choice"):
        old = PatchMaxAligner(tokens="patches", class_weight=0.5)
    with pytest.warns(DeprecationWarning, match="build_aligner's cls_weight is now class_weight"):
        built = build_aligner("patch_max", 0.01, token_choice="patches", cls_weight=0.5)
    assert repr(old) == repr(built) == repr(new)
    with pytest.warns(DeprecationWarning, match="return_indices is given by position: name it"):
        values, indices = PatchMaxAligner().similarity(tokens, text, True)
    expected = PatchMaxAligner().similarity(tokens, text, return_indices=True)
    assert torch.equal(values, expected[0])
    assert torch.equal(indices, expected[1])
    with (
        pytest.warns(DeprecationWarning, match="tokens is now token_choice"),
        pytest.raises(TypeError, match="tokens and token_choice are both given but"),
    ):
        PatchMaxAligner(tokens="all", token_choice="patches")
    with pytest.raises(TypeError, match="positional arguments"):
        PatchMaxAligner().similarity(tokens, text, True, False)


@pytest.fixture
def every_warning() -> Iterator[None]:
    """PyTorch warns once a process otherwise."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("every_warning")
def test_a_learned_temperature_is_printed_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned = PatchMaxAligner(torch.nn.Parameter(torch.tensor(0.5)))
        assert "temperature=0.5, reduction='max'" in repr(learned)
    with pytest.raises(ValueError, match=r"temperature has shape \[2\] but must be one number"):
        PatchMaxAligner(torch.ones(2))


def test_a_method_takes_a_weight_for_each_position() -> None:
    backbone = load_backbone("tiny")
    options = SACOptions(reduction="linear_positions", token_choice="patches")
    aligner = alignment_head(options, backbone)
    tokens = backbone.encode_image(torch.randn(2, 3, 64, 64))
    assert aligner.token_scores.scores.shape == (tokens.shape[1] - 1,)
    assert aligner(tokens, torch.randn(3, tokens.shape[2])).shape == (2, 3)
