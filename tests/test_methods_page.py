"""The method that docs/methods.md speaks of is one short file, and learns like the rest."""

import ast
import runpy
from pathlib import Path

import pytest
import torch
from plain_parts import SPACES, batch, random_backbone

from czsl_sac.methods.base import CZSLMethod
from czsl_sac.training.presets import preset_for

ROOT = Path(__file__).parent.parent
PAGE, FILE = ROOT / "docs" / "methods.md", ROOT / "examples" / "visprod" / "visprod.py"
VISPROD = runpy.run_path(str(FILE))["VisProd"]


def make(alignment: str) -> CZSLMethod:
    options = VISPROD.Options(alignment=alignment, prompt_dropout=0.1)
    return VISPROD.build(options, random_backbone(), SPACES["usual"]).double()


def test_settings_shown_are_those_of_the_presets() -> None:
    table = PAGE.read_text("utf-8").partition("## Settings")[2].partition("\n## ")[0]
    rows = [[c.strip(" `") for c in line.split("|")[1:-1]] for line in table.split("\n") if line]
    (_, _, *names), _, *rows = [row for row in rows if len(row) == 6]
    assert len(rows) >= 23
    for method, option, *values in rows:
        for name, value in zip(names, values, strict=True):
            config = preset_for(name, method)
            groups = {**vars(config.backbone), **vars(config.method), **vars(config.optim)}
            own = groups[option.removeprefix("--").replace("-", "_")]
            assert own == (value if isinstance(own, str) else float(value)), (method, option, name)


def test_it_takes_sixty_lines() -> None:
    source = FILE.read_text("utf-8")
    classes = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    lines = [
        line
        for part in classes
        for line in source.splitlines()[part.lineno - 1 : part.end_lineno]
        if line.strip()
    ]
    assert [part.name for part in classes] == ["VisProdOptions", "VisProd", "VisProdPredictor"]
    assert len(lines) <= 60


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
def test_it_learns_and_its_weights_go_round(alignment: str) -> None:
    method, other = make(alignment), make(alignment)
    other.backbone.load_state_dict(method.backbone.state_dict())
    images, targets = batch(method.backbone, method.space, 8)
    optimizer = torch.optim.Adam(method.parameter_groups("train")[0].parameters, lr=0.1)
    losses = []
    for _ in range(15):
        method.train_stage("train")
        losses.append(method(images, targets, "train")["total"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    other.load_trained_state(method.trained_state())
    world = method.space.open_world()
    scores = [model.eval().predictor(world)(images) for model in (method, other)]
    assert torch.equal(*scores)
    assert scores[0].shape == (8, len(world))
    # log p(a) + log p(o) over all compositions is a distribution
    assert torch.allclose(scores[0].exp().sum(1), torch.ones(8, dtype=torch.float64))
