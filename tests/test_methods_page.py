"""The method that docs/methods.md shows is one short file, and trains and resumes like the rest."""

import ast
import re
from pathlib import Path

import pytest
import torch
from plain_parts import SPACES, batch, random_backbone

from czsl_sac.methods.base import CZSLMethod
from czsl_sac.training.presets import preset_for

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"


def source() -> str:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    return next(block for block in code if "CZSLMethod" in block)


def make(alignment: str) -> CZSLMethod:
    tree = ast.parse(source())
    kept = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom | ast.ClassDef)]
    names: dict[str, type[CZSLMethod]] = {}
    exec(compile(ast.Module(kept, []), str(PAGE), "exec"), names)
    return names["VisProd"](random_backbone(), SPACES["usual"], alignment=alignment).double()


def test_settings_shown_are_those_of_the_presets() -> None:
    table = PAGE.read_text("utf-8").partition("## Settings")[2].partition("\n## ")[0]
    rows = [[c.strip(" `") for c in line.split("|")[1:-1]] for line in table.split("\n") if line]
    (_, _, *names), _, *rows = [row for row in rows if len(row) == 6]
    assert len(rows) == 23
    for method, option, *values in rows:
        for name, value in zip(names, values, strict=True):
            config = preset_for(name, method)
            groups = {**vars(config.backbone), **vars(config.model), **vars(config.optim)}
            own = groups[option.removeprefix("--").replace("-", "_")]
            if option == "--primitive-loss-weight" and own is None:
                own = 1.0  # Troika's default
            assert own == (value if isinstance(own, str) else float(value)), (method, option, name)


def test_it_takes_forty_lines() -> None:
    classes = [n for n in ast.parse(source()).body if isinstance(n, ast.ClassDef)]
    lines = [
        line
        for part in classes
        for line in source().splitlines()[part.lineno - 1 : part.end_lineno]
        if line.strip()
    ]
    assert len(classes) == 2
    assert len(lines) <= 40


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
