"""Bytes of tensors alive while code runs on shapes alone: full size, without memory or time."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


class FakeFloats(FakeTensorMode):
    """Fake tensors for what floats; integers stay real, for sizes may depend on them."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation that meets no fake tensor for real, and fakes what floats of it."""
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(leaf, FakeTensor) for leaf in leaves):
            return super().__torch_dispatch__(func, types, args, kwargs)
        result = func(*args, **(kwargs or {}))
        return tree_map_only(
            Tensor, lambda t: self.from_tensor(t) if t.is_floating_point() else t, result
        )

    def fake_module(self, module: nn.Module) -> None:
        """Replace a module's parameters and floating buffers by fake ones on the CPU, in place."""
        for part in module.modules():
            for name, parameter in list(part._parameters.items()):
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(
                        self._empty_like(parameter), requires_grad=parameter.requires_grad
                    )
            for name, buffer in list(part._buffers.items()):
                if buffer is not None and buffer.is_floating_point():
                    part._buffers[name] = self._empty_like(buffer)

    def _empty_like(self, like: Tensor) -> Tensor:
        meta = torch.empty(like.shape, dtype=like.dtype, device="meta")
        return FakeTensor(self, meta, torch.device("cpu"))


class TensorBytes(TorchDispatchMode):
    """Count the bytes of the storages that are alive, and the most there were at once.

    What an operator allocates inside itself is not seen, nor what an allocator rounds up.

    Attributes:
        current: bytes alive now.
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor, until its storage is freed."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = None
        size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._subtract, size)

    def _subtract(self, size: int) -> None:
        self.current -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and counts what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def peak_of_step(module: nn.Module, step: Callable[[], Tensor], inputs: list[Tensor]) -> int:
    """Return the peak of a training step in bytes: weights, gradients, Adam, activations.

    Args:
        module: with fake parameters; those that require a gradient are trained by Adam, whose two
            moments are there during the step, as from the second step on.
        step: gives the loss; its backward pass is run here.
        inputs: what the step reads beside the module.
    """
    counted = TensorBytes()
    for tensor in (*module.parameters(), *module.buffers(), *inputs):
        counted.add(tensor)
    counted.current += 2 * sum(nbytes(p) for p in module.parameters() if p.requires_grad)
    with counted:
        step().backward()
    return counted.peak


def nbytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()
