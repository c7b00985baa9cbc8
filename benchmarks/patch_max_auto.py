"""Where the plain expression stops being the faster `patch_max`: the threshold of `impl="auto"`.

    python -m benchmarks patch_max_auto

Times are interleaved; the ratio is the median over rounds of chunked (on a GPU: Triton) by the
plain expression. The column `auto` tells what the rule takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from benchmarks.measure import RESULTS, append_rows, environment, interleaved
from benchmarks.patch_max import MODES, Mode, Shape, inputs
from czsl_sac.kernels import patch_max, patch_max_values
from czsl_sac.kernels.dispatch import Impl, largest_plain

# Compositions of a batch of 16 and of a single image, T = 257 and D = 768.
SIZES = (
    *(Shape(16, compositions) for compositions in (4, 16, 32, 64, 256, 1024)),
    *(Shape(1, compositions) for compositions in (64, 256, 512, 1024, 4096)),
)


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        dtype: of the inputs; the default is float32 on a CPU and bfloat16 on a GPU.
        device: "cpu" or "cuda"; the default is the GPU where there is one.
        rounds: timed turns of either implementation.
        threads: of a CPU.
        csv: where rows are appended.
    """

    dtype: str | None = None
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    rounds: int = 31
    threads: int = 2
    csv: Path = RESULTS / "patch_max_auto.csv"


def main(argv: list[str] | None = None) -> None:
    """Measure every size, print the table, and append it to the CSV."""
    options = tyro.cli(Options, args=argv, prog="python -m benchmarks patch_max_auto")
    torch.set_num_threads(options.threads)
    dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    rows = [
        measure(options, shape, mode, dtype)
        for mode in MODES
        for shape in sorted(SIZES, key=lambda shape: shape.images * shape.compositions)
    ]
    shown = ("mode", "B", "C", "similarities", "reference_ms", "fused_ms", "ratio", "auto")
    print(tabulate([[row[key] for key in shown] for row in rows], headers=shown))
    append_rows(options.csv, rows)


def measure(options: Options, shape: Shape, mode: Mode, dtype: str) -> dict[str, object]:
    """Return the row of one size."""
    tokens, text = inputs(shape, dtype, options.device)
    fused: Impl = "chunked" if options.device == "cpu" or dtype == "float32" else "triton"
    timings = interleaved(
        {impl: call(impl, mode, tokens, text) for impl in ("reference", fused)},
        rounds=options.rounds,
        warmup=3,
        device=options.device,
    )
    largest = largest_plain(tokens, with_gradients=mode != "forward")
    similarities = shape.images * shape.tokens * shape.compositions
    return {
        "mode": mode,
        "B": shape.images,
        "T": shape.tokens,
        "C": shape.compositions,
        "D": shape.dim,
        "dtype": dtype,
        "device": options.device,
        "similarities": similarities,
        "fused": fused,
        "rounds": options.rounds,
        "reference_ms": round(timings["reference"].median * 1e3, 3),
        "fused_ms": round(timings[fused].median * 1e3, 3),
        "ratio": round(timings[fused].ratio(timings["reference"]), 3),
        "auto": "reference" if similarities <= largest else fused,
        **environment(options.device),
    }


def call(impl: Impl, mode: Mode, tokens: Tensor, text: Tensor) -> Callable[[], object]:
    """Return one run: the values alone, or the values and both gradients."""
    if mode == "forward":
        return lambda: patch_max_values(tokens, text, impl=impl)
    tokens, text = tokens.detach().requires_grad_(), text.detach().requires_grad_()
    grad = torch.randn(len(tokens), len(text), device=tokens.device)

    def both() -> object:
        return torch.autograd.grad(patch_max(tokens, text, impl=impl)[0], (tokens, text), grad)

    return both
