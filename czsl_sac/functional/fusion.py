"""Fusion of the three predictions at inference: Eq. 12 and 13."""

from typing import NamedTuple

from torch import Tensor

from czsl_sac.checks import check_range
from czsl_sac.functional.precision import at_least_float32
from czsl_sac.functional.probabilities import check_probabilities


class PathProbabilities(NamedTuple):
    """The probabilities one path (sparse alignment, or the condenser) gives.

    Attributes:
        composition: p(c|x), `[B, C]`.
        attribute: p(a|x), `[B, A]`.
        object: p(o|x), `[B, O]`.

    Examples:
        >>> from torch import zeros
        >>> logits = zeros(1, 6), zeros(1, 2), zeros(1, 3)
        >>> PathProbabilities(*(values.softmax(-1) for values in logits)).attribute
        tensor([[0.5000, 0.5000]])
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
            f"pairs has shape {list(pairs.shape)} but must be [{composition.shape[-1]}, 2]: give "
            "an attribute index and an object index for each composition that the path predicts."
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
    partial: bool = False,
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
        partial: whether the C columns are some of more, so that their sums say nothing.

    Returns:
        Scores `[B, C]`, float32 (float64 for float64 inputs); they rank, they do not sum to one.

    Raises:
        ValueError: β or γ is out of range, `pairs` is missing, the shapes differ, or rows are no
            probabilities: entries negative or NaN, or a sum other than 1 (for p̄, from 1 to 2).

    Examples:
        >>> sa, vac = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])
        >>> bank = torch.tensor([[0.2, 0.8]])
        >>> fuse_predictions(sa, vac, bank, beta=0.5, gamma=0.5)
        tensor([[0.7500, 0.5000]])
    """
    check_range("beta", beta, low=0, high=1)
    check_range("gamma", gamma, low=0)
    sa_scores = _path_scores(sa, pairs, "sa")
    vac_scores = _path_scores(vac, pairs, "vac")
    if sa_scores.shape != vac_scores.shape:
        raise ValueError(
            f"vac has shape {list(vac_scores.shape)} but must be {list(sa_scores.shape)} as sa: "
            "give both over the same images and compositions."
        )
    if bank is not None and bank.shape != vac_scores.shape:
        raise ValueError(
            f"bank has shape {list(bank.shape)} but must be {list(vac_scores.shape)} as the paths: "
            "give the bank's probabilities over the same compositions."
        )
    if not partial:
        _check_path("sa", sa)
        _check_path("vac", vac)
        if bank is not None:
            check_probabilities("bank", bank)
    if bank is None:
        return beta * sa_scores + (1.0 - beta) * vac_scores
    return beta * sa_scores + (1.0 - beta) * (vac_scores + gamma * at_least_float32(bank))


def _path_scores(path: PathProbabilities | Tensor, pairs: Tensor | None, name: str) -> Tensor:
    if isinstance(path, Tensor):
        return at_least_float32(path)
    if pairs is None:
        raise ValueError(
            f"pairs is None but must be [C, 2], as {name} is given as PathProbabilities: give "
            "space.pair_indices, or p̄ [B, C] itself."
        )
    return combine_primitives(path, pairs)


def _check_path(name: str, path: PathProbabilities | Tensor) -> None:
    if isinstance(path, Tensor):
        check_probabilities(name, path, most=2.0)  # p̄, or p(c|x) alone
        return
    for kind, probabilities in path._asdict().items():
        check_probabilities(f"{name}.{kind}", probabilities)
