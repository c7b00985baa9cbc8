"""Fusion of the three predictions at inference: Eq. 12 and 13."""

from typing import NamedTuple

from torch import Tensor

from czsl_sac.functional.precision import at_least_float32


class PathProbabilities(NamedTuple):
    """The probabilities one path (sparse alignment, or the condenser) gives.

    Attributes:
        composition: p(c|x), `[B, C]`.
        attribute: p(a|x), `[B, A]`.
        object: p(o|x), `[B, O]`.
    """

    composition: Tensor
    attribute: Tensor
    object: Tensor


def combine_primitives(path: PathProbabilities, pairs: Tensor) -> Tensor:
    """Return p̄(c|x) = p(c|x) + p(a|x)·p(o|x) (Eq. 13), not renormalised.

    Args:
        path: probabilities of the compositions `[B, C]`, attributes `[B, A]` and
            objects `[B, O]`.
        pairs: attribute index and object index of each composition, `[C, 2]`, int64.

    Returns:
        `[B, C]`, float32 (float64 for float64 inputs), in [0, 2].

    Raises:
        ValueError: `pairs` does not fit the compositions.

    Examples:
        >>> path = PathProbabilities(
        ...     torch.tensor([[0.6, 0.4]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0]])
        ... )
        >>> combine_primitives(path, torch.tensor([[0, 0], [1, 0]]))
        tensor([[1.1000, 0.9000]])
    """
    composition, attribute, object = (at_least_float32(p) for p in path)
    if pairs.shape != (composition.shape[-1], 2):
        raise ValueError(
            f"pairs has shape {tuple(pairs.shape)} but the path predicts "
            f"{composition.shape[-1]} compositions: pass [{composition.shape[-1]}, 2], an "
            "attribute index and an object index for each."
        )
    return composition + attribute[:, pairs[:, 0]] * object[:, pairs[:, 1]]


def fuse_predictions(
    sa: PathProbabilities | Tensor,
    vac: PathProbabilities | Tensor,
    bank: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
    beta: float,
    gamma: float,
) -> Tensor:
    """Return β·p̄_sa + (1 − β)·(p̄_vac + γ·p_mb), the final prediction (Eq. 12 and 13).

    Args:
        sa: probabilities of sparse alignment, or a tensor `[B, C]` that already is p̄_sa.
        vac: probabilities of visual condensation, or a tensor `[B, C]` that already is p̄_vac.
        bank: p_mb of the memory bank, `[B, C]`, probabilities; None leaves the term out.
        pairs: attribute index and object index of each composition, `[C, 2]`, int64; needed
            where a path is given as `PathProbabilities`.
        beta: β in [0, 1], the weight of sparse alignment.
        gamma: γ ≥ 0, the weight of the bank.

    Returns:
        Scores `[B, C]`, float32 (float64 for float64 inputs); they rank, they do not sum to one.

    Raises:
        ValueError: β or γ is out of range, `pairs` is missing, or the shapes differ.

    Examples:
        >>> sa, vac = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])
        >>> bank = torch.tensor([[0.2, 0.8]])
        >>> fuse_predictions(sa, vac, bank, beta=0.5, gamma=0.5)
        tensor([[0.7500, 0.5000]])
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta is {beta} but must lie in [0, 1]: it weighs sa against vac.")
    if not gamma >= 0.0:
        raise ValueError(f"gamma is {gamma} but must be at least 0: it weighs the memory bank.")
    sa_scores = _path_scores(sa, pairs, "sa")
    vac_scores = _path_scores(vac, pairs, "vac")
    if sa_scores.shape != vac_scores.shape:
        raise ValueError(
            f"sa scores {tuple(sa_scores.shape)} and vac scores {tuple(vac_scores.shape)} differ "
            "in shape: both must be [B, C] over the same compositions."
        )
    if bank is None:
        return beta * sa_scores + (1.0 - beta) * vac_scores
    if bank.shape != vac_scores.shape:
        raise ValueError(
            f"bank has shape {tuple(bank.shape)} but the paths give {tuple(vac_scores.shape)}: "
            "pass the bank's probabilities over the same compositions."
        )
    return beta * sa_scores + (1.0 - beta) * (vac_scores + gamma * at_least_float32(bank))


def _path_scores(path: PathProbabilities | Tensor, pairs: Tensor | None, name: str) -> Tensor:
    if isinstance(path, Tensor):
        return at_least_float32(path)
    if pairs is None:
        raise ValueError(
            f"pairs is missing but {name} is given as PathProbabilities: pass pairs [C, 2], or "
            "pass p̄ [B, C] itself."
        )
    return combine_primitives(path, pairs)
