"""All tokens, as docs/own_model.md takes them out of two libraries, against these libraries."""

from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from test_three_libraries import IMAGES, ROUNDING, features, open_clip_model, transformers_model
from torch import nn
from torch.testing import assert_close

from czsl_sac import from_open_clip, from_transformers

PAGE = Path(__file__).parent.parent / "docs/own_model.md"


@pytest.fixture(scope="module")
def shown() -> SimpleNamespace:
    """The functions that the page shows."""
    block = PAGE.read_text("utf-8").partition("```py\n")[2].partition("```")[0]
    names: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return SimpleNamespace(**names)


def check(tokens: torch.Tensor, model: nn.Module, backbone: nn.Module) -> None:
    """The class token is the library's own feature; the patches are those of the backbone."""
    assert tokens.shape == (3, 10, 48)
    assert_close(tokens[:, 0], features(model)[0], **ROUNDING)
    assert_close(tokens, backbone.encode_image(IMAGES), **ROUNDING)


@torch.no_grad()
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_all_tokens_of_open_clip(shown: SimpleNamespace, quick_gelu: bool) -> None:
    model = open_clip_model(quick_gelu=quick_gelu)
    backbone = from_open_clip(model, open_clip.SimpleTokenizer())
    check(shown.open_clip_tokens(model, IMAGES), model, backbone)


@torch.no_grad()
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_all_tokens_of_transformers(shown: SimpleNamespace, act: str) -> None:
    model = transformers_model(act)
    words = SimpleNamespace(encode=list, bos_token_id=49406, eos_token_id=49407)
    backbone = from_transformers(model, words)
    check(shown.transformers_tokens(model, IMAGES), model, backbone)
