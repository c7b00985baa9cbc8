"""The rules that predictions should keep, as losses."""

from typing import NamedTuple

from torch import Tensor

from czsl_sac.functional.logic import (
    broken_exclusion,
    broken_for_all,
    broken_implication,
    group_maximum,
)
from czsl_sac.methods.logiczsl.concepts import Concepts


class Truths(NamedTuple):
    """How true each attribute, or each object, is of an image, and each concept of theirs.

    Attributes:
        names: `[B, K]`.
        parents: `[B, G]`.
        concepts: which names belong to which concept.
    """

    names: Tensor
    parents: Tensor
    concepts: Concepts


def broken_composition(
    composition: Tensor, attribute: Tensor, object_: Tensor, *, pairs: Tensor, exponent: float
) -> Tensor:
    """Return how far "(a, o) implies a and o" is broken for all compositions.

    Args:
        composition: truths `[B, C]`.
        attribute: truths `[B, A]`.
        object_: truths `[B, O]`.
        pairs: attribute and object of each composition, `[C, 2]`.
        exponent: p of the mean over rules.
    """
    both = attribute[:, pairs[:, 0]] * object_[:, pairs[:, 1]]
    return broken_for_all(broken_implication(composition, both), exponent=exponent)


def broken_concepts(truths: Truths, *, exponent: float) -> dict[str, Tensor]:
    """Return how far the rules about concepts are broken, by rule.

    "hierarchy": a name implies its concept. "decomposition": a concept implies one of its names.
    "exclusion": no two names of a concept at once.

    Args:
        truths: of attributes, or of objects.
        exponent: p of the mean over rules.
    """
    names, parents, concepts = truths
    some = group_maximum(names, concepts.parent, len(concepts.words))
    upwards = broken_implication(names, parents[:, concepts.parent])
    return {
        "hierarchy": broken_for_all(upwards, exponent=exponent),
        "decomposition": broken_for_all(broken_implication(parents, some), exponent=exponent),
        "exclusion": broken_exclusion(
            names, concepts.parent, len(concepts.words), exponent=exponent
        ),
    }
