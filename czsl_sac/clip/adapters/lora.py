"""LoRA on the weights of CLIP's blocks, with parameters that loralib's functions know.

The low-rank term belongs to the weight itself through `torch.nn.utils.parametrize`, for a fused
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
- There is no dropout on the input of the low-rank term.
- The package's own towers add the term to what the frozen weight gives, where that takes fewer
  operations than to add it to the weight (`LoRA.is_cheaper_beside`): in training, unless the rank
  is near the width. Both ways are equal to rounding. In the weight the sum is at
  least float32, also over weights kept in half precision, and is rounded once where the product is
  of lower precision. On the modules of others, which want weight and input of one dtype, the sum
  has the weight's precision: half-precision weights round a small term against the weight; it
  survives on average over a row, not entry by entry.
- The sum is computed again at every forward pass. Where one step runs a tower several times,
  `with parametrize.cached():` computes it once.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar, get_args

from torch import Tensor, nn
from torch.nn.utils import parametrize

from czsl_sac.checks import check_choice, check_range
from czsl_sac.clip.adapters.layers import choose_layers
from czsl_sac.clip.adapters.low_rank import LoRA, Scaling
from czsl_sac.clip.transformer import Attention, Linear

Target = Literal["q", "k", "v", "o", "mlp"]
_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


def apply_lora(
    module: _ModuleT,
    *,
    rank: int = 2,
    alpha: float = 1.0,
    targets: Iterable[Target] = ("q", "k", "v"),
    layers: Iterable[int] | None = None,
    scaling: Scaling = "alpha/r",
) -> _ModuleT:
    """Add LoRA to the attentions (and MLPs) inside a module, in place.

    At the start the module computes exactly what it did. The base weights are left as they are:
    call `module.requires_grad_(False)` before, or `loralib.mark_only_lora_as_trainable(module)`
    after, to train LoRA alone. The defaults are those of the paper's reference, CLIP-LoRA, but
    for its `scaling`, which is `"alpha/sqrt(r)"`.

    Args:
        module: a tower, `backbone.visual` or `backbone.text`, or `clip`'s own; its attentions are
            `czsl_sac.clip.transformer.Attention` or `nn.MultiheadAttention`.
        rank: r, the rank of each term.
        alpha: α of the scale.
        targets: what to adapt: `"q"`, `"k"`, `"v"` (parts of `in_proj_weight`), `"o"`
            (`out_proj`), `"mlp"` (`c_fc` and `c_proj` of the block around the attention).
        layers: which attentions, counted from 0 in the order of `module.modules()`; None for all.
        scaling: `"alpha/r"` (loralib) or `"alpha/sqrt(r)"`.

    Returns:
        The same module.

    Raises:
        ValueError: an option is out of range, there is nothing to adapt, or LoRA is there
            already; the module is then unchanged.

    Examples:
        >>> from czsl_sac.clip.transformer import Transformer
        >>> tower = apply_lora(Transformer(8, 2, 2).requires_grad_(False), rank=2)
        >>> sum(p.numel() for p in tower.parameters() if p.requires_grad)
        192
    """
    check_range("rank", rank, low=1)  # the module stays as it is where this raises
    check_choice("scaling", scaling, get_args(Scaling))
    chosen = tuple(targets)
    if not chosen:
        raise ValueError("targets is empty but must name what to adapt: choose, or leave LoRA out.")
    for target in chosen:
        check_choice("targets", target, get_args(Target))
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
    """Add LoRA to a weight of a module, `"in_proj_weight"` or `"weight"`; the options are its own.

    `apply_lora` does so by layers and targets.
    """
    own = isinstance(owner, Attention | Linear)  # these cast a weight to their input's dtype
    lora = LoRA(
        owner.get_parameter(name), rank=rank, alpha=alpha, scaling=scaling, parts=parts, widen=own
    )
    # unsafe: torch would forbid a sum wider than the weight.
    parametrize.register_parametrization(owner, name, lora, unsafe=own)


def merged_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state dict with every parametrized weight computed, under its plain name.

    The module stays as it is. The result loads into a module without LoRA and computes the same.

    Args:
        module: with or without LoRA.

    Examples:
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


def _select_layers(
    module: nn.Module, layers: Iterable[int] | None
) -> list[tuple[nn.Module, nn.Module]]:
    """Find the chosen attentions, each with the block that holds it."""
    found = [
        (module.get_submodule(name.rpartition(".")[0]), part)
        for name, part in module.named_modules()
        if isinstance(part, Attention | nn.MultiheadAttention)
    ]
    return choose_layers(found, layers, "attentions", module)


def _mlp(block: nn.Module) -> list[nn.Module]:
    try:
        return [block.get_submodule(f"mlp.{name}") for name in ("c_fc", "c_proj")]
    except AttributeError as error:
        raise ValueError(
            f"targets has 'mlp' but the attention sits in a {type(block).__name__}, which has no "
            "mlp.c_fc and mlp.c_proj: leave 'mlp' out."
        ) from error


def _check_weight(owner: nn.Module, name: str) -> None:
    if parametrize.is_parametrized(owner, name):
        raise ValueError(
            f"module has LoRA or another parametrization on {name} already, but must be plain: "
            "apply LoRA once."
        )
    if getattr(owner, name) is None:
        raise ValueError(
            f"module has an attention without {name} (its key or value size differs from its "
            "width), but must have one for LoRA: choose other layers."
        )
