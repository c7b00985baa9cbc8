"""Sparse alignment: similarities of tokens and texts, and their reduction over tokens.

Equations 1 and 2 of the paper, the reductions of Tab. 5 and the blend of Fig. 4, written
plainly. These functions hold the whole `[B, T, C]` similarity in memory; they are the
reference that the fused implementations in `czsl_sac.kernels` are tested against.
"""

from torch import Tensor

from czsl_sac.checks import check_range
from czsl_sac.functional.precision import at_least_float32


def token_similarities(tokens: Tensor, text: Tensor) -> Tensor:
    """Return S = V Tᵀ of Eq. 2: the inner product of every token with every text.

    Args:
        tokens: V, `[B, T, D]`.
        text: T_c, `[C, D]`, or one set of texts per image, `[B, C, D]`.

    Returns:
        `[B, T, C]` in the dtype of the inputs. Unit rows in give cosines out.

    Raises:
        ValueError: a shape does not fit.

    Examples:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> token_similarities(tokens, torch.tensor([[3.0, 4.0]])).squeeze(-1)
        tensor([[3., 4.]])
    """
    check_tokens_and_text(tokens, text)
    return tokens @ text.mT


def patch_max_reference(tokens: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest inner product over the tokens, and which token gave it (Eq. 2).

    Args:
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.

    Returns:
        Values `[B, C]` (float32, or float64 for float64 inputs) and token indices
        `[B, C]` (int64, the lowest index at ties). The gradient flows to the winning
        token alone.

    Raises:
        ValueError: a shape does not fit, or there is no token to take the maximum over.

    Examples:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> values, indices = patch_max_reference(tokens, torch.tensor([[3.0, 4.0], [2.0, 1.0]]))
        >>> values, indices
        (tensor([[4., 2.]]), tensor([[1, 0]]))
    """
    similarities = token_similarities(tokens, text)
    values, indices = similarities.max(dim=1)
    return at_least_float32(values), indices


def weighted_similarity(tokens: Tensor, text: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_l w_l ⟨v_l, t_c⟩: the mean, attention and linear reductions of Tab. 5.

    Args:
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
        weights: one weight per token, `[B, T]`; 1/T everywhere gives the mean.

    Returns:
        `[B, C]`. The pooled token is not normalised again: what is averaged is the
        similarity, as the maximum of Eq. 2 is taken over the similarity.

    Raises:
        ValueError: a shape does not fit.

    Examples:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> weighted_similarity(tokens, torch.tensor([[3.0, 4.0]]), torch.full((1, 2), 0.5))
        tensor([[3.5000]])
    """
    check_tokens_and_text(tokens, text)
    if weights.shape != tokens.shape[:2]:
        raise ValueError(
            f"weights has shape {list(weights.shape)} but must be {list(tokens.shape[:2])}: give "
            "one weight per token."
        )
    return feature_similarity((weights.unsqueeze(1) @ tokens).squeeze(1), text)


def class_token_similarity(tokens: Tensor, text: Tensor) -> Tensor:
    """Return ⟨v_CLS, t_c⟩, the similarity of CLIP's standard alignment (Eq. 1), `[B, C]`.

    Args:
        tokens: `[B, T, D]`, the class token first.
        text: `[C, D]` or `[B, C, D]`.

    Raises:
        ValueError: a shape does not fit.

    Examples:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> class_token_similarity(tokens, torch.tensor([[3.0, 4.0]]))
        tensor([[3.]])
    """
    check_tokens_and_text(tokens, text)
    return feature_similarity(tokens[:, 0], text)


def feature_similarity(features: Tensor, text: Tensor) -> Tensor:
    """Return ⟨v, t_c⟩ for one feature per image: v_CLS in Eq. 1, v_q in Eq. 5, `[B, C]`.

    Args:
        features: `[B, D]`.
        text: `[C, D]` or `[B, C, D]`.

    Examples:
        >>> feature_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[3.]])
    """
    if text.dim() == 2:
        return features @ text.mT
    return (text @ features.unsqueeze(-1)).squeeze(-1)


def blend_similarities(sparse: Tensor, class_token: Tensor, class_weight: float) -> Tensor:
    """Return (1 − W)·SA + W·[CLS], the blend of Fig. 4, `[B, C]`.

    Args:
        sparse: similarities of sparse alignment, `[B, C]`.
        class_token: similarities of the class token, `[B, C]`.
        class_weight: W in [0, 1]; 0 is sparse alignment, 1 is the class token.

    Raises:
        ValueError: W lies outside [0, 1].

    Examples:
        >>> blend_similarities(torch.tensor([[0.4]]), torch.tensor([[0.2]]), 0.5)
        tensor([[0.3000]])
    """
    check_range("class_weight", class_weight, low=0, high=1)
    return (1.0 - class_weight) * sparse + class_weight * class_token


def check_tokens_and_text(tokens: Tensor, text: Tensor) -> None:
    """Refuse anything but tokens `[B, T, D]` and text `[C, D]` or `[B, C, D]`.

    Raises:
        ValueError: a shape is another one, or the sizes do not agree.

    Examples:
        >>> check_tokens_and_text(torch.zeros(2, 5, 8), torch.zeros(3, 8))
    """
    if tokens.dim() != 3:
        raise ValueError(
            f"tokens has shape {list(tokens.shape)} but must be [B, T, D]: give all tokens of the "
            "vision tower, the class token first."
        )
    if tokens.shape[1] == 0:
        raise ValueError(
            f"tokens has shape {list(tokens.shape)} but must hold a token to reduce over: give at "
            "least one per image."
        )
    if text.dim() not in (2, 3):
        raise ValueError(
            f"text has shape {list(text.shape)} but must be [C, D] or [B, C, D]: give one feature "
            "per composition."
        )
    if text.shape[-1] != tokens.shape[-1]:
        raise ValueError(
            f"text has D = {text.shape[-1]} but must have {tokens.shape[-1]} as tokens: project "
            "both to the joint space first."
        )
    if text.dim() == 3 and text.shape[0] != tokens.shape[0]:
        raise ValueError(
            f"text is given for {text.shape[0]} images but must be for {tokens.shape[0]} as "
            "tokens: give [B, C, D] with the same B, or [C, D] for all images."
        )
