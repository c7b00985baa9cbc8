"""The derivatives of `patch_max`: of every order, backward, forward and under `torch.func`.

Between ties the same tokens win, so all that there is to differentiate is

    Σ_bc grad[b, c]·⟨tokens[b, winner[b, c]], text[c]⟩,

which is linear in each of grad, tokens and text. Its derivative by one of them is linear in the
other two, and an operator (`PARTS`). That operator's derivatives are the other two operators, with
what arrives in the place of the operand. So none of them holds `[B, T, C]`.

The operators do this by themselves where autograd's backward pass is taken, which `torch.compile`
traces. `torch.func` and forward mode want a `torch.autograd.Function` around an operator.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from czsl_sac.kernels.library import PARTS

Found = tuple[Tensor, Tensor]


def maximum(tokens: Tensor, text: Tensor, impl: str) -> Found:
    """Return the values `[B, C]`, differentiable in every way, and the token indices `[B, C]`.

    Args:
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
        impl: `"auto"`, `"chunked"` or `"triton"`.
    """
    run = _Maximum.apply if is_transformed() else torch.ops.czsl_sac.patch_max
    values, indices = run(tokens, text, impl)
    return values, indices


def is_transformed() -> bool:
    """Say whether `torch.func` or forward mode may take derivatives, or batch, at this moment."""
    if forward_ad._current_level >= 0:
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():  # whose tracer cannot look at the stack
        return True
    functionalize = torch._C._functorch.TransformType.Functionalize
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(each.key() != functionalize for each in stack)


class _Operands(NamedTuple):
    """Of the sum above. The one that an operator is the derivative by gives its shape alone."""

    grad: Any  # [B, C], or None
    indices: Any  # [B, C]: the winning tokens
    tokens: Any  # [B, T, D]
    text: Any  # [C, D] or [B, C, D]


def _part(operands: _Operands, impl: str, by: str) -> Tensor:
    """Return the derivative of the sum by `"grad"`, `"tokens"` or `"text"`."""
    if is_transformed():
        return _Part.apply(*operands, impl, by)
    return getattr(torch.ops.czsl_sac, PARTS[by])(*operands, impl)


class _Maximum(Function):
    @staticmethod
    def forward(tokens: Tensor, text: Tensor, impl: str) -> Found:
        return torch.ops.czsl_sac.patch_max(tokens, text, impl)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Found) -> None:
        tokens, text, ctx.impl = inputs
        _, indices = output
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(indices, tokens, text)
        ctx.save_for_forward(indices, tokens, text)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        # read once: what a checkpoint made again is given out a single time
        return _gradients(ctx, _Operands(grad, *ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, tokens: Tensor | None, text: Tensor | None, _: None) -> tuple[Any, None]:
        operands = _Operands(None, *ctx.saved_tensors)
        return _moved(operands, {"tokens": tokens, "text": text}, ctx.impl, "grad"), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, tokens: Tensor, text: Tensor, impl: str) -> tuple[Found, Any]:
        dims, operands = (_Operands(None, None, *pair) for pair in (in_dims[:2], (tokens, text)))
        folded, undone, dim = _folded(info.batch_size, dims, operands, "grad")
        values, indices = maximum(folded.tokens, folded.text, impl)
        return (undone(values), undone(indices)), (dim, dim)


class _Part(Function):
    @staticmethod
    def forward(
        grad: Tensor | None, indices: Tensor, tokens: Tensor, text: Tensor, impl: str, by: str
    ) -> Tensor:
        return getattr(torch.ops.czsl_sac, PARTS[by])(grad, indices, tokens, text, impl)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *operands, ctx.impl, ctx.by = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def backward(ctx: Any, arrived: Tensor) -> tuple[Tensor | None, ...]:
        operands = _Operands(*ctx.saved_tensors)._replace(**{ctx.by: arrived})
        needed = zip(operands._fields, ctx.needs_input_grad[: len(operands)], strict=True)
        gradients = [
            _part(operands, ctx.impl, name) if need and name != ctx.by else None
            for name, need in needed
        ]
        return *gradients, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        operands = _Operands(*ctx.saved_tensors)
        moves = dict(zip(operands._fields, tangents[: len(operands)], strict=True))
        del moves["indices"]
        return _moved(operands, moves, ctx.impl, ctx.by)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        *operands, impl, by = inputs
        dims = _Operands(*in_dims[: len(operands)])
        folded, undone, dim = _folded(info.batch_size, dims, _Operands(*operands), by)
        return undone(_part(folded, impl, by)), dim


def _gradients(ctx: Any, operands: _Operands) -> tuple[Tensor | None, Tensor | None, None]:
    """Return the gradients of tokens and text as far as they are wanted, and impl's None."""
    by_tokens, by_text = ctx.needs_input_grad[:2]
    return (
        _part(operands, ctx.impl, "tokens") if by_tokens else None,
        _part(operands, ctx.impl, "text") if by_text else None,
        None,
    )


def _moved(
    operands: _Operands, moves: dict[str, Tensor | None], impl: str, by: str
) -> Tensor | None:
    """Return how the derivative by one operand moves with the others; None where they do not."""
    terms = [
        _part(operands._replace(**{name: tangent}), impl, by)
        for name, tangent in moves.items()
        if tangent is not None and name != by
    ]
    return sum(terms[1:], terms[0]) if terms else None


def _folded(
    size: int, dims: _Operands, operands: _Operands, by: str
) -> tuple[_Operands, Callable[[Tensor], Tensor], int]:
    """Lay the batch of `torch.vmap` out as more texts of the same tokens, or as more images.

    Args:
        size: of the batch, V.
        dims: which dimension of each operand it is; None where it has none.
        operands: with that dimension.
        by: the operand that the derivative is by.

    Returns:
        Operands without that dimension; what brings it back in the result; where it then is.
    """
    if by != "grad":  # gives its shape alone, so nothing of its size need be copied
        template = getattr(operands, by)
        operands = operands._replace(**{by: template.new_empty(()).expand(template.shape)})
    grad, indices, tokens, text = (
        x if dim is None else x.movedim(dim, 0) for x, dim in zip(operands, dims, strict=True)
    )
    shared = text.dim() - (dims.text is not None) == 2
    images, texts = tokens.shape[-3], text.shape[-2]

    def merged(x: Any, dim: int | None, at: int = 0) -> Any:
        if x is None:
            return None
        if dim is None:
            x = x.unsqueeze(at).expand(*x.shape[:at], size, *x.shape[at:])
        return (x if dim is None else x.movedim(0, at)).flatten(at, at + 1)

    if dims.tokens is None and by != "tokens":
        along = 0 if shared else 1
        folded = _Operands(
            merged(grad, dims.grad, 1),
            merged(indices, dims.indices, 1),
            tokens,
            merged(text, dims.text, along),
        )
        along = along if by == "text" else 1
        return folded, lambda x: x.unflatten(along, (size, texts)), along

    if shared and (dims.text is not None or by == "text"):  # a set of texts for each image
        text = text.unsqueeze(-3).expand(*text.shape[:-2], images, -1, -1)
    same = shared and dims.text is None and by != "text"
    folded = _Operands(
        merged(grad, dims.grad),
        merged(indices, dims.indices),
        merged(tokens, dims.tokens),
        text if same else merged(text, dims.text),
    )

    def undone(x: Tensor) -> Tensor:
        x = x.unflatten(0, (size, images))
        return x.sum(dim=1) if shared and by == "text" else x

    return folded, undone, 0


def _values_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    *tensors, ctx.impl = inputs
    ctx.save_for_backward(*tensors)


def _values_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    """Find the winners again, for a program exported without gradients and trained after all."""
    tokens, text = ctx.saved_tensors
    _, indices = maximum(tokens, text, ctx.impl)
    return _gradients(ctx, _Operands(grad, indices, tokens, text))


def _part_backward(ctx: Any, arrived: Tensor) -> tuple[Tensor | None, ...]:
    return _Part.backward(ctx, arrived)[:-1]


def _part_context(by: str) -> Callable[..., None]:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Part.setup_context(ctx, (*inputs, by), output)

    return setup_context


_register = torch.library.register_autograd
_register("czsl_sac::patch_max", _Maximum.backward, setup_context=_Maximum.setup_context)
_register("czsl_sac::patch_max_values", _values_backward, setup_context=_values_context)
for _by, _operator in PARTS.items():
    _register(f"czsl_sac::{_operator}", _part_backward, setup_context=_part_context(_by))
