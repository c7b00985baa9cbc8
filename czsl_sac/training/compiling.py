"""`--compile`: torch.compile of the parts of a method that are one graph each."""

from time import time_ns

import torch
from torch import Tensor

from czsl_sac.methods.base import CZSLMethod


def check_compiler(device: torch.device) -> None:
    """Compile two operations, so that a machine that cannot says so before anything is written.

    Args:
        device: where the compiled parts will run.

    Raises:
        ValueError: torch.compile fails there.
    """
    new = time_ns() % 2**31  # or what was compiled before would come from torch's cache on disk

    def probe(x: Tensor) -> Tensor:
        return (x + new).sin()

    try:
        torch.compile(probe)(torch.zeros(64, device=device))
    except Exception as error:  # of many types: no C++ compiler, no Triton, no headers of Python
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"compile is True but must be False where torch.compile fails on {device.type} "
            f"({reason}): leave out --compile, or install a C++ compiler such as g++, and Triton "
            "for a GPU."
        ) from error


def compile_parts(method: CZSLMethod) -> None:
    """Compile the vision tower, with its adapters, and the alignment head, in place.

    They are one graph each; prompts are not, whose common beginnings are a tree. The names of the
    state dict stay. Sizes of a batch are left open, so that a smaller last one compiles nothing
    anew, and a resumed run runs the same graph.

    Args:
        method: that calls `backbone.visual`, as `encode_image` does, and `aligner`; one that reads
            inner states of the tower passes it by.
    """
    method.backbone.visual.compile(dynamic=True)
    method.aligner.compile(dynamic=True)
