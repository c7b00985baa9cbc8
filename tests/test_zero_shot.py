"""Zero-shot CLIP against its description: one full name, one cosine after the other."""

import pytest
import torch
from plain_parts import SPACES, batch, random_backbone, unit
from torch.testing import assert_close

from czsl_sac import ZeroShotCLIP


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize(
    ("space", "side", "dim"), [(s, i + 1, 7 + i) for i, s in enumerate(SPACES)]
)
def test_scores_equal_the_description(alignment: str, space: str, side: int, dim: int) -> None:
    backbone = random_backbone(dim=dim, side=side)
    model = ZeroShotCLIP(backbone, SPACES[space], alignment=alignment, template="photo of")
    images, _ = batch(backbone, model.space, 2)
    world = model.space.open_world()
    scores = model.predictor(world)(images)
    assert scores.shape == (2, len(world))
    for tokens, row in zip(backbone.encode_image(images), scores, strict=True):
        looked_at = tokens[:1] if alignment == "cls" else tokens
        for (attribute, object_), score in zip(world.pairs, row, strict=True):
            ids = backbone.tokenizer([f"photo of {attribute} {object_}"])
            text = unit(backbone.encode_text(ids)[0])
            assert_close(score, 5.0 * max(unit(token) @ text for token in looked_at))
    assert model.stages == ()
    assert model.trained_state() == {}


def test_names_are_read_as_words() -> None:
    model = ZeroShotCLIP(random_backbone(), SPACES["usual"])
    renamed = model.space.closed_world(train=[("Wet", "Cat.Tree")])
    text = ZeroShotCLIP(model.backbone, renamed).predictor(renamed).text
    ids = model.backbone.tokenizer(["a photo of wet cat tree"])
    assert torch.equal(text, model.backbone.encode_text(ids))
