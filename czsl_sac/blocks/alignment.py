"""Alignment of tokens and texts: sparse alignment (Eq. 2) and the class token's (Eq. 1)."""

from typing import Literal, get_args, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.blocks.temperature import set_temperature, temperature_number
from czsl_sac.blocks.token_scores import AttentionScores, PositionScores
from czsl_sac.checks import check_choice, check_range
from czsl_sac.deprecation import keyword_options, renamed_options
from czsl_sac.functional.alignment import (
    blend_similarities,
    check_tokens_and_text,
    class_token_similarity,
    weighted_similarity,
)
from czsl_sac.functional.precision import at_least_float32
from czsl_sac.kernels import patch_max, patch_max_values

Reduction = Literal["max", "mean", "attention", "linear", "linear_positions"]
TokenChoice = Literal["all", "patches"]
Alignment = Literal["patch_max", "cls"]
Implementation = Literal["auto", "reference", "chunked", "triton"]


class Aligner(nn.Module):
    """What every alignment head offers: similarities, and logits s/τ.

    Args:
        temperature: τ > 0; a tensor moves with the module, a parameter is learned.

    Raises:
        ValueError: τ is not positive and finite.
    """

    temperature: float | Tensor

    def __init__(self, temperature: float | Tensor = 0.01) -> None:
        super().__init__()
        set_temperature(self, "temperature", temperature)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return logits s/τ, `[B, C]`; the arguments are those of `similarity`."""
        return self.similarity(tokens, text) / self.temperature

    @overload
    def similarity(self, tokens: Tensor, text: Tensor) -> Tensor: ...
    @overload
    def similarity(
        self, tokens: Tensor, text: Tensor, *, return_indices: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def similarity(
        self, tokens: Tensor, text: Tensor, *, return_indices: bool
    ) -> Tensor | tuple[Tensor, Tensor]: ...
    @keyword_options
    def similarity(
        self, tokens: Tensor, text: Tensor, *, return_indices: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the similarities, and on request the winning tokens.

        Args:
            tokens: `[B, T, D]`, the class token first.
            text: `[C, D]`, or `[B, C, D]` for texts that depend on the image.
            return_indices: also return which token won.

        Returns:
            s `[B, C]` in [−1, 1]; with `return_indices` also indices into the T tokens
            given, `[B, C]` int64 (0 is the class token).

        Raises:
            ValueError: a shape does not fit, or indices are asked of a reduction other than
                the maximum.
        """
        check_tokens_and_text(tokens, text)
        values, indices = self._align(
            F.normalize(tokens, dim=-1), F.normalize(text, dim=-1), return_indices
        )
        if not return_indices:
            return values
        if indices is None:
            raise ValueError(
                "return_indices is True but must be False, as this reduction has no winning "
                "token: use reduction='max'."
            )
        return values, indices

    def winners(self, tokens: Tensor, text: Tensor) -> Tensor | None:
        """Return the token that each image's text meets, 0 for the class token.

        Args:
            tokens: `[B, T, D]`, the class token first.
            text: one text per image, `[B, D]`.

        Returns:
            `[B]` int64, or None where nothing is won: all tokens are weighed, or there is one.

        Raises:
            ValueError: a shape does not fit.
        """
        check_tokens_and_text(tokens, text.unsqueeze(1))
        tokens, text = F.normalize(tokens, dim=-1), F.normalize(text, dim=-1)
        indices = self._align(tokens, text.unsqueeze(1), True)[1]
        return None if indices is None else indices[:, 0]

    def compared_feature(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return the vector of each image that its text is compared with: s = ⟨vector, t⟩.

        For the maximum that is the winning token, for the other reductions the weighted mean of
        the tokens.

        Args:
            tokens: `[B, T, D]`, the class token first.
            text: one text per image, `[B, D]`.

        Returns:
            `[B, D]`, made of unit tokens, not normalised again; float32 or float64.

        Raises:
            ValueError: a shape does not fit.
        """
        check_tokens_and_text(tokens, text.unsqueeze(1))
        tokens, text = at_least_float32(tokens), at_least_float32(text)
        return self._compared(F.normalize(tokens, dim=-1), F.normalize(text, dim=-1))

    def _align(
        self, tokens: Tensor, text: Tensor, with_indices: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return values `[B, C]` and, if wanted, winning tokens, of unit tokens and unit text."""
        raise NotImplementedError

    def _compared(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return `[B, D]` of unit tokens `[B, T, D]` and one unit text per image, `[B, D]`."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"temperature={temperature_number(self.temperature):g}"


class PatchMaxAligner(Aligner):
    """Sparse alignment: each text meets the one token that fits it best (Eq. 2).

    Tokens and texts are l2-normalised inside. The other reductions of Tab. 5 replace the
    maximum by a weighted mean of the similarities: equal weights (`"mean"`), a softmax over
    a linear layer's score of each token (`"linear"`) or over a score of each position
    (`"linear_positions"`), or the attention of a learnable query (`"attention"`, mean over
    heads).

    Args:
        temperature: τ of Eq. 3; a tensor moves with the module, a parameter is learned.
        reduction: `"max"`, `"mean"`, `"attention"`, `"linear"` or `"linear_positions"`.
        token_choice: `"all"` takes the class token into the reduction, as Eq. 2 does;
            `"patches"` leaves it out.
        impl: implementation of the maximum, see `czsl_sac.patch_max`.
        class_weight: W of Fig. 4: (1 − W)·SA + W·[CLS] on the similarities.
        dim: D, needed by `"attention"` and `"linear"`, which have weights of their own.
        num_heads: heads of `"attention"`; None takes `max(1, dim // 64)`.
        num_tokens: T, the class token included, needed by `"linear_positions"`.

    Raises:
        ValueError: an option is unknown, out of range or missing.

    Examples:
        >>> aligner = PatchMaxAligner(temperature=0.01)
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> text = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
        >>> aligner(tokens, text)
        tensor([[ 80., 100.]])
        >>> aligner.similarity(tokens, text, return_indices=True)
        (tensor([[0.8000, 1.0000]]), tensor([[1, 0]]))
    """

    @renamed_options(tokens="token_choice", cls_weight="class_weight")
    def __init__(
        self,
        temperature: float | Tensor = 0.01,
        *,
        reduction: Reduction = "max",
        token_choice: TokenChoice = "all",
        impl: Implementation = "auto",
        class_weight: float = 0.0,
        dim: int | None = None,
        num_heads: int | None = None,
        num_tokens: int | None = None,
    ) -> None:
        super().__init__(temperature)
        check_choice("reduction", reduction, get_args(Reduction))
        check_choice("token_choice", token_choice, get_args(TokenChoice))
        check_choice("impl", impl, get_args(Implementation))
        check_range("class_weight", class_weight, low=0, high=1)
        self.reduction = reduction
        self.token_choice = token_choice
        self.impl = impl
        self.class_weight = class_weight
        self.token_scores: nn.Module | None = None
        if reduction in ("attention", "linear"):
            size = _given("dim", dim, reduction, "D, the size of the joint space")
            attention = reduction == "attention"
            self.token_scores = (
                AttentionScores(size, num_heads=num_heads) if attention else nn.Linear(size, 1)
            )
        elif reduction == "linear_positions":
            positions = _given("num_tokens", num_tokens, reduction, "T, the class token included")
            self.token_scores = PositionScores(positions - (token_choice == "patches"))

    def _align(
        self, tokens: Tensor, text: Tensor, with_indices: bool
    ) -> tuple[Tensor, Tensor | None]:
        first, reduced = self._reduced(tokens)
        indices = None
        if self.reduction == "max" and with_indices:
            values, indices = patch_max(reduced, text, impl=self.impl)
            indices = indices + first
        elif self.reduction == "max":
            values = patch_max_values(reduced, text, impl=self.impl)
        else:
            values = weighted_similarity(reduced, text, self._weights(reduced))
        if self.class_weight:
            class_token = class_token_similarity(tokens, text)
            values = blend_similarities(values, class_token, self.class_weight)
        return values, indices

    def _compared(self, tokens: Tensor, text: Tensor) -> Tensor:
        _, reduced = self._reduced(tokens)
        if self.reduction == "max":
            winner = (reduced @ text.unsqueeze(-1)).argmax(dim=1, keepdim=True)
            feature = reduced.take_along_dim(winner, dim=1).squeeze(1)
        else:
            feature = (self._weights(reduced).unsqueeze(1) @ reduced).squeeze(1)
        return torch.lerp(feature, tokens[:, 0], self.class_weight)

    def _reduced(self, tokens: Tensor) -> tuple[int, Tensor]:
        """Return the first token that the reduction looks at, and all of these."""
        first = 1 if self.token_choice == "patches" else 0
        if tokens.shape[1] == first:
            raise ValueError(
                f"tokens has shape {list(tokens.shape)} but must hold a patch, as the aligner was "
                "made with token_choice='patches': pass the patch tokens too, or use 'all'."
            )
        return first, tokens[:, first:]

    def _weights(self, tokens: Tensor) -> Tensor:
        if self.token_scores is None:
            return tokens.new_full(tokens.shape[:2], 1.0 / tokens.shape[1])
        scores = self.token_scores(tokens)  # [B, T, heads]
        return F.softmax(scores, dim=1).mean(dim=-1).to(tokens.dtype)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, reduction={self.reduction!r}, "
            f"token_choice={self.token_choice!r}, class_weight={self.class_weight:g}, "
            f"impl={self.impl!r}"
        )


class ClassTokenAligner(Aligner):
    """CLIP's standard alignment: the class token alone meets every text (Eq. 1).

    The same interface as `PatchMaxAligner`, so that `alignment="cls"` and
    `alignment="patch_max"` differ in this one part.

    Args:
        temperature: τ of Eq. 1, as for `PatchMaxAligner`.

    Raises:
        ValueError: τ is not positive and finite.

    Examples:
        >>> tokens = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
        >>> ClassTokenAligner(temperature=0.01)(tokens, torch.tensor([[0.6, 0.8]]))
        tensor([[60.0000]])
    """

    def _align(
        self, tokens: Tensor, text: Tensor, with_indices: bool
    ) -> tuple[Tensor, Tensor | None]:
        values = class_token_similarity(tokens[:, :1], text)
        return values, torch.zeros_like(values, dtype=torch.int64)

    def winners(self, tokens: Tensor, text: Tensor) -> None:
        """Return None: the class token has no rival."""

    def _compared(self, tokens: Tensor, text: Tensor) -> Tensor:
        return tokens[:, 0]


@renamed_options(tokens="token_choice", cls_weight="class_weight")
def build_aligner(
    alignment: "Alignment | Aligner",
    temperature: float | Tensor,
    *,
    reduction: Reduction = "max",
    token_choice: TokenChoice = "all",
    class_weight: float = 0.0,
    dim: int | None = None,
    num_tokens: int | None = None,
) -> Aligner:
    """Return the alignment head that a method's `alignment=` argument names.

    Args:
        alignment: `"patch_max"` (Eq. 2) or `"cls"` (Eq. 1); a head is returned as it is.
        temperature: τ.
        reduction: see `PatchMaxAligner`; read with `"patch_max"` alone.
        token_choice: likewise.
        class_weight: likewise.
        dim: likewise.
        num_tokens: likewise.

    Returns:
        The head.

    Raises:
        ValueError: an option is unknown.

    Examples:
        >>> build_aligner("cls", 0.01)
        ClassTokenAligner(temperature=0.01)
    """
    if isinstance(alignment, Aligner):
        return alignment
    check_choice("alignment", alignment, get_args(Alignment))
    if alignment == "cls":
        return ClassTokenAligner(temperature)
    return PatchMaxAligner(
        temperature,
        reduction=reduction,
        token_choice=token_choice,
        class_weight=class_weight,
        dim=dim,
        num_tokens=num_tokens,
    )


def _given(name: str, value: int | None, reduction: str, what: str) -> int:
    if value is None:
        raise ValueError(
            f"{name} is None but must be a number, as reduction={reduction!r} learns a weight for "
            f"each token: give {name}={what}."
        )
    return value
