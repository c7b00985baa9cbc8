"""LoRA on the weights of CLIP's blocks, with parameters that loralib's helpers know.

The low-rank term is added to the weight itself through `torch.nn.utils.parametrize`, for a fused
`in_proj_weight` and the `out_proj` of `nn.MultiheadAttention` are read, never called: replacing
`out_proj` by a LoRA layer there does nothing in training, without an error.

What follows from that:

- The keys of the state dict change (`in_proj_weight` becomes
  `parametrizations.in_proj_weight.original`). Load base weights first, then call `apply_lora`;
  cast with `.half()` or `clip.model.convert_weights` before it too, for the latter assigns to
  the `.data` of a computed tensor and silently does nothing afterwards.
- Save `loralib.lora_state_dict(module)` or `module.state_dict()`, not the module: a parametrized
  module does not pickle.
- To merge use `merged_state_dict`. A deep copy shares its dynamic class with the original, so
  `remove_parametrizations` on the copy would break the original.
- There is no dropout on the input of the low-rank term, for that term never meets the input.
- On the package's own towers the sum is at least float32, also over weights kept in half precision,
  and is rounded once where the product is of lower precision. On the modules of others, which want
  weight and input of one dtype, the sum has the weight's precision: half-precision weights round
  a small term against the weight; it survives on average over a row, not entry by entry.
- The term is computed again at every forward pass, which beside an attention costs little. Where
  one step runs a tower several times, `with parametrize.cached():` computes it once.
"""

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from czsl_sac.clip.adapters.layers import choose_layers
from czsl_sac.clip.transformer import Attention, Linear

__all__ = ["LoRA", "apply_lora", "attach_lora", "merged_state_dict"]

Target = Literal["q", "k", "v", "o", "mlp"]
Scaling = Literal["alpha/r", "alpha/sqrt(r)"]
_TARGETS = ("q", "k", "v", "o", "mlp")
_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


class LoRA(nn.Module):
    """A weight parametrization: W + scale · B A, with B zero at the start.

    The factor `scale` is α/r or α/√r.

    A weight that stacks several matrices (query, key, value) gets a term for each chosen part.
    `lora_A` [r · parts, in] and `lora_B` [out of a part · parts, r] are laid out as in
    `loralib.MergedLinear`, and as in `loralib.Linear` for a weight of one part. They are float32
    even where the weight is of half precision.

    Args:
        weight: the weight to adapt, [out, in].
        rank: r.
        alpha: α of the scale.
        scaling: "alpha/r" or "alpha/sqrt(r)".
        parts: for each matrix stacked in `weight`, whether it is adapted.
        widen: give the sum in the precision of the terms, where that is higher than the weight's.

    Raises:
        ValueError: if `rank` is not positive or `scaling` is unknown.

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
        self.rank = rank
        self.alpha = alpha
        self.scaling = scaling
        self.scale = _scale(rank, alpha, scaling)
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
        """Gives the adapted weight [out, in] of `weight` [out, in]."""
        used = sum(self.parts)
        down = self.lora_A.unflatten(0, (used, self.rank))
        up = self.lora_B.unflatten(0, (used, -1))
        dtype = weight.dtype
        if self.widen:
            dtype = torch.promote_types(dtype, self.lora_A.dtype)
        # Not in autocast's precision: the term would lose what the sum is wide enough for.
        with torch.autocast(weight.device.type, enabled=False):
            terms = iter(((up @ down) * self.scale).to(dtype))
        stacked = weight.to(dtype).chunk(len(self.parts))
        return torch.cat(
            [
                part + next(terms) if on else part
                for part, on in zip(stacked, self.parts, strict=True)
            ]
        )

    def extra_repr(self) -> str:
        return (
            f"rank={self.rank}, alpha={self.alpha:g}, scaling={self.scaling!r}, parts={self.parts}"
        )


def apply_lora(
    module: _ModuleT,
    *,
    rank: int = 2,
    alpha: float = 1.0,
    targets: Iterable[Target] = ("q", "k", "v"),
    layers: Iterable[int] | None = None,
    scaling: Scaling = "alpha/r",
) -> _ModuleT:
    """Adds LoRA to the attentions (and MLPs) inside a module, in place.

    At the start the module computes exactly what it did. The base weights are left as they are:
    call `module.requires_grad_(False)` before, or `loralib.mark_only_lora_as_trainable(module)`
    after, to train LoRA alone. The defaults are those of the paper's reference, CLIP-LoRA, but
    for its `scaling`, which is "alpha/sqrt(r)".

    Args:
        module: a tower such as `backbone.visual`, or `clip`'s own; its attentions are
            `czsl_sac.clip.transformer.Attention` or `nn.MultiheadAttention`.
        rank: r, the rank of each term.
        alpha: α of the scale.
        targets: what to adapt: "q", "k", "v" (parts of `in_proj_weight`), "o" (`out_proj`),
            "mlp" (`c_fc` and `c_proj` of the block around the attention).
        layers: which attentions, counted from 0 in the order of `module.modules()`; None for all.
        scaling: "alpha/r" (loralib) or "alpha/sqrt(r)".

    Returns:
        The same module.

    Raises:
        ValueError: if an option is out of range, there is nothing to adapt, or LoRA is there
            already; the module is then unchanged.

    >>> from czsl_sac.clip.transformer import Transformer
    >>> tower = apply_lora(Transformer(8, 2, 2).requires_grad_(False), rank=2)
    >>> sum(p.numel() for p in tower.parameters() if p.requires_grad)
    192
    """
    _scale(rank, alpha, scaling)  # the module stays as it is where this raises
    chosen = tuple(targets)
    if not chosen or not set(chosen) <= set(_TARGETS):
        raise ValueError(f"targets must be some of {', '.join(_TARGETS)}, got {chosen}")
    weights: list[tuple[nn.Module, str, tuple[bool, ...]]] = []
    for block, attention in _select_layers(module, layers):
        if {"q", "k", "v"} & set(chosen):
            weights.append((attention, "in_proj_weight", tuple(t in chosen for t in "qkv")))
        if "o" in chosen:
            weights.append((attention.get_submodule("out_proj"), "weight", (True,)))
        if "mlp" in chosen:
            weights += [(linear, "weight", (True,)) for linear in _mlp(block)]
    for owner, name, _ in weights:
        _check_weight(owner, name)
    for owner, name, parts in weights:
        attach_lora(owner, name, rank=rank, alpha=alpha, scaling=scaling, parts=parts)
    return module


def attach_lora(
    owner: nn.Module,
    name: str,
    *,
    rank: int,
    alpha: float,
    scaling: Scaling,
    parts: Sequence[bool],
) -> None:
    """Adds LoRA to one weight; `apply_lora` does so by layers and targets.

    Args:
        owner: the module that holds the weight.
        name: of the weight, `"in_proj_weight"` or `"weight"`.
        rank: r.
        alpha: α of the scale.
        scaling: "alpha/r" or "alpha/sqrt(r)".
        parts: for each matrix stacked in the weight, whether it is adapted.
    """
    own = isinstance(owner, Attention | Linear)  # these cast a weight to their input's dtype
    lora = LoRA(
        owner.get_parameter(name), rank=rank, alpha=alpha, scaling=scaling, parts=parts, widen=own
    )
    # unsafe: torch would forbid a sum wider than the weight.
    parametrize.register_parametrization(owner, name, lora, unsafe=own)


def merged_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Gives a module's state dict with every parametrized weight computed, under its plain name.

    The module stays as it is. The result loads into a module without LoRA and computes the same.

    >>> from czsl_sac.clip.transformer import Transformer
    >>> plain = Transformer(8, 1, 2)
    >>> keys = plain.state_dict().keys()
    >>> merged_state_dict(apply_lora(plain)).keys() == keys
    True
    """
    merged: dict[str, Tensor] = {}
    for key, value in module.state_dict().items():
        owner, parametrized, rest = key.rpartition("parametrizations.")
        if parametrized:
            name = rest.split(".")[0]
            if owner + name not in merged:
                computed = getattr(module.get_submodule(owner.removesuffix(".")), name)
                merged[owner + name] = computed.detach()
        else:
            merged[key] = value
    return merged


def _scale(rank: int, alpha: float, scaling: Scaling) -> float:
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}; leave LoRA out for none")
    if scaling == "alpha/r":
        return alpha / rank
    if scaling == "alpha/sqrt(r)":
        return alpha / sqrt(rank)
    raise ValueError(f"scaling must be 'alpha/r' or 'alpha/sqrt(r)', got {scaling!r}")


def _select_layers(
    module: nn.Module, layers: Iterable[int] | None
) -> list[tuple[nn.Module, nn.Module]]:
    """Finds the chosen attentions, each with the block that holds it."""
    found: list[tuple[nn.Module, nn.Module]] = []
    for name, attention in module.named_modules():
        if isinstance(attention, Attention | nn.MultiheadAttention):
            found.append((module.get_submodule(name.rpartition(".")[0]), attention))
    if not found:
        raise ValueError(
            f"module holds no attention that LoRA knows, got {type(module).__name__}: give a "
            "tower such as backbone.visual"
        )
    return choose_layers(found, layers, "attentions")


def _mlp(block: nn.Module) -> list[nn.Module]:
    try:
        return [block.get_submodule(f"mlp.{name}") for name in ("c_fc", "c_proj")]
    except AttributeError as error:
        raise ValueError(
            "targets has 'mlp', but the attention does not sit in a block with mlp.c_fc and "
            f"mlp.c_proj, it sits in a {type(block).__name__}"
        ) from error


def _check_weight(owner: nn.Module, name: str) -> None:
    if parametrize.is_parametrized(owner, name):
        raise ValueError(
            f"module already has LoRA or another parametrization on {name}: apply LoRA once, to "
            "a plain module"
        )
    if getattr(owner, name) is None:
        raise ValueError(
            f"module has an attention without {name} (its key or value size differs from its "
            "width), which LoRA does not support"
        )
