"""Probabilities and losses of sparse alignment and visual condensation: Eq. 3 to 8 and 11."""

import torch.nn.functional as F
from torch import Tensor

from czsl_sac.checks import check_range
from czsl_sac.deprecation import keyword_options
from czsl_sac.functional.precision import at_least_float32


def composition_probabilities(similarities: Tensor, temperature: float | Tensor) -> Tensor:
    """Return p(c|x) = softmax(s/τ), the probabilities of Eq. 1, 3, 5 and 10.

    Args:
        similarities: s, `[B, C]`.
        temperature: τ; CLIP's own is 1/exp(logit_scale) = 0.01.

    Returns:
        `[B, C]`, float32 (float64 for float64 inputs), rows summing to one.

    Examples:
        >>> composition_probabilities(torch.tensor([[0.01, 0.0]]), 0.01)
        tensor([[0.7311, 0.2689]])
    """
    return F.softmax(at_least_float32(similarities) / temperature, dim=-1)


@keyword_options
def alignment_loss(
    similarities: Tensor, targets: Tensor, *, temperature: float | Tensor = 1.0
) -> Tensor:
    """Return −mean log p(c|x), the cross-entropy of Eq. 3 and 5 (and of L_a and L_o).

    Args:
        similarities: s, `[B, C]`; or logits s/τ with `temperature=1`.
        targets: index of the true class of each image, `[B]`, int64.
        temperature: τ.

    Returns:
        Scalar, in nats.

    Examples:
        >>> alignment_loss(torch.tensor([[0.01, 0.0]]), torch.tensor([0]), temperature=0.01)
        tensor(0.3133)
    """
    return F.cross_entropy(at_least_float32(similarities) / temperature, targets)


def base_loss(composition: Tensor, attribute: Tensor, object: Tensor) -> Tensor:
    """Return L_base = L_c + L_a + L_o (Eq. 4; Eq. 6 with the condenser's losses), a scalar.

    Args:
        composition: L_c, scalar.
        attribute: L_a, scalar.
        object: L_o, scalar.

    Examples:
        >>> base_loss(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0))
        tensor(6.)
    """
    return composition + attribute + object


def distillation_loss(condenser_logits: Tensor, alignment_logits: Tensor) -> Tensor:
    """Return L_kl = mean KL(p_vac ‖ p_sa), Eq. 7 with the sign of a divergence.

    The paper prints Eq. 7 with a leading minus and says that the divergence is minimised;
    this is the divergence. The teacher p_sa is detached.

    Args:
        condenser_logits: logits of p_vac over the compositions, `[B, C]`.
        alignment_logits: logits of p_sa over the same compositions, `[B, C]`.

    Returns:
        Scalar ≥ 0, in nats; zero when both predict alike.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> distillation_loss(student, teacher)
        tensor(0.1201)
        >>> distillation_loss(teacher, teacher)
        tensor(0.)
    """
    if condenser_logits.shape != alignment_logits.shape:
        raise ValueError(
            f"alignment_logits has shape {list(alignment_logits.shape)} but must be "
            f"{list(condenser_logits.shape)} as condenser_logits: give both over the same "
            "compositions."
        )
    log_student = F.log_softmax(at_least_float32(condenser_logits), dim=-1)
    log_teacher = F.log_softmax(at_least_float32(alignment_logits.detach()), dim=-1)
    return (log_student.exp() * (log_student - log_teacher)).sum(dim=-1).mean()


def condenser_loss(base: Tensor, distillation: Tensor, alpha: float) -> Tensor:
    """Return L_vac = (1 − α)·L_base^vac + α·L_kl (Eq. 8), a scalar.

    Args:
        base: L_base^vac of Eq. 6, scalar.
        distillation: L_kl of Eq. 7, scalar.
        alpha: α in [0, 1]; 0 leaves a plain cross-entropy (row 3 of Tab. 4).

    Raises:
        ValueError: α lies outside [0, 1].

    Examples:
        >>> condenser_loss(torch.tensor(2.0), torch.tensor(1.0), alpha=0.9)
        tensor(1.1000)
    """
    check_range("alpha", alpha, low=0, high=1)
    return (1.0 - alpha) * base + alpha * distillation


def total_loss(base: Tensor, condenser: Tensor) -> Tensor:
    """Return L = L_base + L_vac (Eq. 11), a scalar.

    Args:
        base: L_base of Eq. 4, scalar.
        condenser: L_vac of Eq. 8, scalar.

    Examples:
        >>> total_loss(torch.tensor(2.0), torch.tensor(1.0))
        tensor(3.)
    """
    return base + condenser
