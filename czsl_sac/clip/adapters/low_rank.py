"""LoRA's low-rank terms: added to a weight, or to what the weight gives, whichever is cheaper.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from math import sqrt
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from czsl_sac.checks import check_choice, check_range
from czsl_sac.clip.linear import in_autocast, linear
from czsl_sac.functional.precision import autocasts

Scaling = Literal["alpha/r", "alpha/sqrt(r)"]
WHOLE = slice(None)
"""All of the matrices stacked in a weight."""


class LoRA(nn.Module):
    """A weight parametrization: W + scale · B A, with B zero at the start.

    The factor `scale` is α/r or α/√r.

    A weight that stacks several matrices (query, key, value) gets a term for each chosen part.
    `lora_A` `[r · parts, in]` and `lora_B` `[out of a part · parts, r]` are laid out as in
    `loralib.MergedLinear`, and as in `loralib.Linear` for a weight of one part. They are float32
    even where the weight is of half precision.

    Args:
        weight: the weight to adapt, `[out, in]`.
        rank: r.
        alpha: α of the scale.
        scaling: `"alpha/r"` or `"alpha/sqrt(r)"`.
        parts: for each matrix stacked in `weight`, whether it is adapted.
        widen: give the sum in the precision of the terms, where that is higher than the weight's.

    Raises:
        ValueError: `rank` is not positive or `scaling` is unknown.

    Examples:
        >>> term = LoRA(torch.ones(6, 4), rank=2, alpha=1.0, parts=(True, False, True))
        >>> term.lora_A.shape, term.lora_B.shape, bool((term(torch.ones(6, 4)) == 1).all())
        (torch.Size([4, 4]), torch.Size([4, 2]), True)
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        rank: int,
        alpha: float,
        scaling: Scaling = "alpha/r",
        parts: Sequence[bool] = (True,),
        widen: bool = False,
    ) -> None:
        super().__init__()
        check_range("rank", rank, low=1)
        check_choice("scaling", scaling, get_args(Scaling))
        self.rank = rank
        self.alpha = alpha
        self.scaling = scaling
        self.scale = alpha / (rank if scaling == "alpha/r" else sqrt(rank))
        self.parts = tuple(parts)
        self.widen = widen
        rows, columns = weight.shape
        used = sum(self.parts)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.lora_A = nn.Parameter(weight.new_empty(rank * used, columns, dtype=dtype))
        self.lora_B = nn.Parameter(
            weight.new_zeros(rows // len(self.parts) * used, rank, dtype=dtype)
        )
        nn.init.kaiming_uniform_(self.lora_A, a=sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight `[out, in]` of `weight` `[out, in]`."""
        down, up = self._by_part()
        dtype = weight.dtype
        if self.widen:
            dtype = torch.promote_types(dtype, self.lora_A.dtype)
        # Not in autocast's precision: the term would lose what the sum is wide enough for.
        kind = weight.device.type
        with torch.autocast(kind, enabled=False) if autocasts(weight.device) else nullcontext():
            terms = iter(((up @ down) * self.scale).to(dtype))
        stacked = weight.to(dtype).chunk(len(self.parts))
        return torch.cat(
            [
                part + next(terms) if on else part
                for part, on in zip(stacked, self.parts, strict=True)
            ]
        )

    def is_cheaper_beside(self, x: Tensor, weight: Tensor) -> bool:
        """Tell whether a product and its backward pass cost less with the terms beside the weight.

        In the weight, n tokens cost a gradient of the whole weight, n · out · in multiplications,
        which a frozen weight has no other use for, and three times r · out · in for the terms;
        beside it, three times n · R · (in + out), R being the rank of all parts together. So
        query, key and value of width W have their terms beside them up to a rank of W / 12.
        Without gradients the weight is the place.

        Args:
            x: input of the product, `[..., in]`.
            weight: the frozen or trained weight, `[out, in]`.
        """
        if weight.requires_grad or not (torch.is_grad_enabled() and self.lora_A.requires_grad):
            return False
        if not autocasts(x.device) and x.dtype != self.lora_A.dtype:
            return False  # half precision would round the term away; in the weight it is widened
        rows, columns = weight.shape
        tokens = x.numel() // columns
        inside = tokens * rows * columns + 3 * self.lora_B.numel() * columns
        return 3 * tokens * len(self.lora_A) * (columns + rows) < inside

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, parts: slice) -> Tensor:
        """Return x (W + scale · B A)ᵀ + b, W and B A multiplied one after the other.

        Args:
            x: `[..., in]`.
            weight: the weight without the terms, `[out, in]`.
            bias: `[out]`.
            parts: which of the stacked matrices to multiply with.

        Returns:
            `[..., out of these parts]`.
        """
        x, stacked = in_autocast(x), len(self.parts)
        out = linear(x, _rows(weight, parts, stacked), _rows(bias, parts, stacked))
        numbers = iter(range(sum(self.parts)))
        wanted = [next(numbers) if on else None for on in self.parts][parts]
        chosen = [number for number in wanted if number is not None]
        if not chosen:
            return out
        down, up = self._by_part()
        low = F.linear(x, down[chosen[0] : chosen[-1] + 1].flatten(0, 1))
        # A part without a term has rows of no columns, which block_diag makes rows of zeros.
        none = up.new_empty(up.shape[1], 0)
        spread = torch.block_diag(*(none if number is None else up[number] for number in wanted))
        flat = torch.addmm(out.flatten(0, -2), low.flatten(0, -2), spread.mT, alpha=self.scale)
        return flat.view(out.shape)

    def _by_part(self) -> tuple[Tensor, Tensor]:
        """Return A `[used, r, in]` and B `[used, out of a part, r]` of the adapted parts."""
        used = sum(self.parts)
        return self.lora_A.unflatten(0, (used, self.rank)), self.lora_B.unflatten(0, (used, -1))

    def extra_repr(self) -> str:
        return (
            f"rank={self.rank}, alpha={self.alpha:g}, scaling={self.scaling!r}, parts={self.parts}"
        )


def project(
    owner: nn.Module, name: str, x: Tensor, bias: Tensor, *, parts: slice = WHOLE, stacked: int = 1
) -> Tensor:
    """Multiply with a weight of a module, LoRA's terms included where it has some.

    Args:
        owner: the module.
        name: of its weight, `[out, in]`.
        x: `[..., in]`.
        bias: `[out]`.
        parts: which of the matrices stacked in the weight to multiply with.
        stacked: how many there are.

    Returns:
        `[..., out of these parts]`.

    Examples:
        >>> layer, x = nn.Linear(2, 6), torch.ones(1, 2)
        >>> project(layer, "weight", x, layer.bias, parts=slice(2, 3), stacked=3).shape
        torch.Size([1, 2])
    """
    if parametrize.is_parametrized(owner, name):
        terms: Any = owner.parametrizations[name]  # type: ignore[index]
        if len(terms) == 1 and isinstance(terms[0], LoRA):
            term, original = terms[0], terms.original
            if term.is_cheaper_beside(x, original):
                return term.product(x, original, bias, parts)
    weight: Tensor = getattr(owner, name)
    return linear(x, _rows(weight, parts, stacked), _rows(bias, parts, stacked))


def _rows(weight: Tensor, parts: slice, stacked: int) -> Tensor:
    """Return the rows of some of the matrices stacked in a weight or a bias."""
    if parts == WHOLE:
        return weight
    first, last, _ = parts.indices(stacked)
    size = len(weight) // stacked
    return weight[first * size : last * size]
