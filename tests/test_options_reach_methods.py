"""Every option of every method reaches it: another value gives another model, loss or score."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from plain_parts import SPACES, batch, random_backbone

from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.options import MethodOptions
from czsl_sac.methods.registry import method_class, method_names, method_options

SPACE = SPACES["usual"]
SENTENCES = Path(__file__).parent / "sentences.json"
OF_MEMORY = {"chunk_size"}
"""Options that bound memory and change no number: the method holds them, and that is compared."""

# Where an option is idle with the defaults, the others that make it count.
NEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("caila", "concept_shift"): {"concept_shift": 1.0},
    ("cds-czsl", "specificity_margin"): {"diversity": "objects"},
    ("cds-czsl", "specificity_loss_weight"): {"diversity": "objects"},
    ("logiczsl", "legacy_eval_mode"): {"traction_dropout": 0.5},
    ("logiczsl", "parents"): {"concepts": "scenes"},
    ("sac", "condenser_epochs"): {"schedule": "staged"},
    ("dfsp", "chunk_size"): {"fusion": "img2txt"},
    ("rapr", "database_size"): {"database_size": 1},
    ("rapr", "retrieval_size"): {"retrieval_size": 1},
    ("rapr", "retrieval_loss_size"): {"retrieval_loss_size": 1},
    ("troika", "legacy_eval_mode"): {"traction_dropout": 0.5},
}

VALUES: dict[tuple[str, str], tuple[Any, ...]] = {
    # Of one batch, in which one attribute is seen twice, nothing is ranked: tests/test_cds_czsl.py
    ("cds-czsl", "clusters"): (),
    ("cds-czsl", "diversity_momentum"): (),
    ("caila", "fusion_layer"): (),  # two layers leave one choice: tests/test_caila.py
    ("logiczsl", "concepts"): ("scenes",),
}
"""Other values, where those made from the type would be refused."""


def others(options: type[MethodOptions], name: str) -> Iterator[Any]:
    """Yield other values that an option can have."""
    kind, value = get_type_hints(options)[name], getattr(options(), name)
    kinds = [k for k in get_args(kind) if k is not NoneType] if NoneType in get_args(kind) else []
    (kind,) = kinds or [kind]
    if (options.name, name) in VALUES:
        yield from VALUES[options.name, name]
    elif get_origin(kind) is Literal:
        yield from (choice for choice in get_args(kind) if choice != value)
    elif kind is Path:
        yield SENTENCES
    elif kind is bool:
        yield not value
    elif kind is str:
        yield "one old picture"
    elif kind is int:
        yield 2 if value in (None, 1) else value - 1
    else:
        yield 0.25


CASES = [
    pytest.param(name, field.name, value, id=f"{name}-{field.name}-{value}")
    for name in method_names()
    for field in fields(method_options(name))
    for value in others(method_options(name), field.name)
]


def make(options: MethodOptions) -> CZSLMethod:
    torch.manual_seed(1)
    method = method_class(options).build(options, random_backbone(), SPACE)
    return method.double()


def behaviour(method: CZSLMethod) -> list[object]:
    """What can be seen of a method: its stages, what they train, losses and scores."""
    torch.manual_seed(2)
    images, targets = batch(method.backbone, SPACE, 6)
    seen: list[object] = [method.stages]
    method.eval().prepare([(images, targets)])
    for stage in method.stages:
        groups = method.parameter_groups(stage)
        seen += [stage, method.stage_epochs(stage)]
        seen += [(len(g.parameters), g.lr, g.weight_decay) for g in groups]
        optimizer = torch.optim.SGD([p for group in groups for p in group.parameters], lr=1e-3)
        for _ in range(2):  # the second epoch may be another one
            method.eval().refresh([(images, targets)])
            method.train_stage(stage)
            torch.manual_seed(3)
            losses = method(images, targets, stage)
            seen += [(name, loss.item()) for name, loss in sorted(losses.items())]
            optimizer.zero_grad()
            losses["total"].backward()
            optimizer.step()
            method.after_step()
    seen += [name for name, parameter in method.named_parameters() if parameter.requires_grad]
    method.eval()
    method.fill_memory([images])
    predictor = method.predictor(SPACE)
    torch.manual_seed(4)
    for _ in range(6):  # a stream, in which a memory may learn and fill up
        seen.append(predictor(batch(method.backbone, SPACE, 8)[0]).tolist())
    return seen


@pytest.mark.parametrize(("name", "option", "value"), CASES)
def test_another_value_is_another_method(name: str, option: str, value: object) -> None:
    given: dict[str, Any] = {"alignment": "patch_max", **NEEDS.get((name, option), {})}
    if option == "alignment":
        given.pop("alignment")
    if option == "condense":
        given["bank"] = "off"  # it stores condensed features
    base = method_options(name)(**given)
    other = replace(base, **{option: value})
    assert option not in base.unread()
    first, second = make(base), make(other)
    if option in OF_MEMORY:
        assert getattr(first.options, option) == getattr(base, option)
        assert getattr(second.options, option) == value
        assert behaviour(first)[:-6] == behaviour(second)[:-6]
    else:
        assert behaviour(first) != behaviour(second)


@pytest.mark.parametrize("name", method_names())
def test_the_same_options_are_the_same_method(name: str) -> None:
    """Without this the test above could not fail."""
    options = method_options(name)(alignment="patch_max")
    assert behaviour(make(options)) == behaviour(make(options))
