"""VisualCondenser: the absorbed projections equal plain attention, and the usual module duties."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from czsl_sac.blocks import VisualCondenser
from czsl_sac.functional import condense_tokens


def plain_forward(condenser: VisualCondenser, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Sec. 4.2 written with projected keys and values, as any attention layer does."""
    normed = condenser.norm_tokens(tokens)
    feature = condenser.query.expand(len(tokens), -1)
    for block in condenser.blocks:
        gathered, attention = condense_tokens(
            block.query_proj(block.norm_query(feature)),
            block.key_proj(normed),
            block.value_proj(normed),
            condenser.num_heads,
        )
        feature = feature + block.out_proj(gathered)
        feature = feature + block.mlp(block.norm_mlp(feature))
    return F.normalize(condenser.norm_out(feature), dim=-1), attention.mean(dim=1)


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 3),
    tokens=st.integers(1, 7),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 5),
    blocks=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_equals_plain_attention(
    images: int, tokens: int, heads: int, head_dim: int, blocks: int, seed: int
) -> None:
    torch.manual_seed(seed)
    dim = heads * head_dim
    condenser = VisualCondenser(dim, num_blocks=blocks, num_heads=heads).double()
    x = torch.randn(images, tokens, dim, dtype=torch.float64)
    feature, attention = condenser(x, return_attention=True)
    expected_feature, expected_attention = plain_forward(condenser, x)
    torch.testing.assert_close(feature, expected_feature, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(attention, expected_attention, atol=1e-10, rtol=1e-10)


def test_feature_has_unit_norm_and_attention_sums_to_one() -> None:
    feature, attention = VisualCondenser(32, num_heads=4)(
        torch.randn(5, 9, 32), return_attention=True
    )
    torch.testing.assert_close(feature.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(5))


def test_the_order_of_tokens_does_not_matter() -> None:
    condenser, tokens = VisualCondenser(16, num_heads=2).double(), torch.randn(2, 6, 16).double()
    order = torch.randperm(6)
    feature, attention = condenser(tokens, return_attention=True)
    shuffled_feature, shuffled_attention = condenser(tokens[:, order], return_attention=True)
    torch.testing.assert_close(shuffled_feature, feature)
    torch.testing.assert_close(shuffled_attention, attention[:, order])


def test_gradients_reach_every_parameter_and_the_tokens() -> None:
    condenser = VisualCondenser(4, num_blocks=2, num_heads=2, mlp_ratio=1.0).double()
    tokens = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(condenser, (tokens,))
    (condenser(tokens) ** 3).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in condenser.parameters())


def test_dropout_acts_in_training_only() -> None:
    condenser, tokens = VisualCondenser(16, num_heads=2, dropout=0.5), torch.randn(2, 6, 16)
    assert not torch.equal(condenser(tokens), condenser(tokens))
    condenser.eval()
    assert torch.equal(condenser(tokens), condenser(tokens))


def test_state_round_trip_and_dtype() -> None:
    condenser, other = VisualCondenser(16, num_heads=2), VisualCondenser(16, num_heads=2)
    tokens = torch.randn(2, 6, 16)
    other.load_state_dict(condenser.state_dict())
    assert torch.equal(condenser(tokens), other(tokens))
    half = other.to(torch.bfloat16)(tokens.bfloat16())
    assert half.dtype == torch.bfloat16
    assert F.cosine_similarity(half.float(), condenser(tokens)).min() > 0.99


def test_autocast_and_compile() -> None:
    condenser, tokens = VisualCondenser(32, num_heads=4).eval(), torch.randn(2, 6, 32)
    with torch.autocast("cpu", torch.bfloat16):
        low = condenser(tokens)
    assert F.cosine_similarity(low.float(), condenser(tokens)).min() > 0.99
    compiled = torch.compile(condenser, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), condenser(tokens))
    torch.testing.assert_close(
        compiled(tokens, return_attention=True)[1], condenser(tokens, return_attention=True)[1]
    )


def test_repr_names_the_options() -> None:
    expected = "dim=128, num_blocks=2, num_heads=2"
    assert VisualCondenser(128, num_blocks=2).extra_repr() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim is 0 but must be at least 1"),
        ({"dim": 8, "num_blocks": 0}, "num_blocks is 0 but must be at least 1"),
        ({"dim": 8, "num_heads": 3}, "num_heads is 3 but must divide dim = 8"),
    ],
)
def test_wrong_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisualCondenser(**options)


@pytest.mark.parametrize("shape", [(2, 8), (2, 0, 8), (2, 3, 4)])
def test_wrong_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"tokens has shape .* but must be \[B, T, 8\]"):
        VisualCondenser(8)(torch.zeros(shape))


def test_options_by_position_are_taken_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="VisualCondenser's num_blocks, num_heads is given"):
        condenser = VisualCondenser(8, 2, 4)
    assert condenser.extra_repr() == "dim=8, num_blocks=2, num_heads=4"
    with pytest.warns(DeprecationWarning, match="return_attention is given by position"):
        assert condenser(torch.ones(1, 3, 8), True)[1].shape == (1, 3)
