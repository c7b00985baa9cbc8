"""How often a patch wins, how much attention patches get, and what is said of it."""

from dataclasses import replace

import pytest
import torch
from evaluation_cases import evaluate, make_case

from czsl_sac import ClassTokenAligner, PatchMaxAligner, VisualCondenser
from czsl_sac.evaluation import PatchShares
from czsl_sac.evaluation.patch_shares import patch_notes


def test_shares_of_batches_and_processes_add_up():
    generator = torch.Generator().manual_seed(0)
    winners = torch.randint(0, 3, (20,), generator=generator)
    attention = torch.rand(20, 5, generator=generator).softmax(-1)
    parts = [PatchShares(), PatchShares()]
    for number, rows in enumerate(torch.arange(20).split(7)):
        parts[number % 2].update(winners=winners[rows], attention=attention[rows])
    parts[0].merge_state(parts[1])
    parts[0].merge_state(PatchShares().state())
    expected = {
        "patch_wins": float((winners > 0).double().mean()),
        "patch_attention": float(1 - attention[:, 0].double().mean()),
    }
    assert parts[0].compute() == pytest.approx(expected)
    parts[0].reset()
    assert parts[0].compute() == {}


def test_shares_of_the_blocks():
    tokens, text = torch.randn(6, 4, 64), torch.randn(6, 64)
    cosines = torch.nn.functional.cosine_similarity(tokens, text[:, None], dim=-1)
    winners = PatchMaxAligner().winners(tokens, text)
    assert torch.equal(winners, cosines.argmax(1))
    assert torch.equal(
        PatchMaxAligner(token_choice="patches").winners(tokens, text), 1 + cosines[:, 1:].argmax(1)
    )
    assert ClassTokenAligner().winners(tokens, text) is None
    assert PatchMaxAligner(reduction="mean").winners(tokens, text) is None
    attention = VisualCondenser(64)(tokens, return_attention=True)[1].detach()
    shares = PatchShares()
    shares.update(attention=attention)
    shares.update(winners=winners)
    assert shares.compute()["patch_wins"] == float((winners > 0).double().mean())
    assert shares.compute()["patch_attention"] == pytest.approx(float(attention[:, 1:].sum() / 6))


def test_a_method_that_is_not_sparse_is_named():
    assert patch_notes({}) == []
    for shares, sparse in (
        ({"patch_wins": 0.023, "patch_attention": 0.004}, False),
        ({"patch_wins": 0.023, "patch_attention": 0.5}, True),
        ({"patch_wins": 0.05}, False),
        ({"patch_wins": 0.1}, True),
    ):
        sentences = patch_notes(shares)
        assert len(sentences) == len(shares) + (not sparse)
        assert sentences[-1].endswith("it is not sparse on these images.") == (not sparse)
    result = replace(evaluate(*make_case(4, samples=200)), patch_shares={"patch_wins": 0.023})
    assert result.notes()[0].startswith("A patch wins the alignment in 2.3 % of the images")
    assert result.to_dict()["patch_shares"] == {"patch_wins": 0.023}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"winners": torch.zeros(2, 3)}, r"winners is torch.float32 of shape \[2, 3\] but must be"),
        ({"attention": torch.zeros(2)}, r"attention has shape \[2\] but must be \[B, T\]"),
        ({"attention": torch.full((2, 3), torch.nan)}, "attention holds NaN but must hold shares"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PatchShares().update(**options)
