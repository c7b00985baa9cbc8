"""The patch-composition similarity maximum: every implementation against the matrix product alone.

    python -m benchmarks patch_max
    python -m benchmarks patch_max --device cuda
    python -m benchmarks patch_max --shapes cgqa-open --rounds 2
    python -m benchmarks patch_max --draw docs/results/patch_max.png

Times are interleaved, and each is also given as the median over rounds of its ratio to the plain
forward matrix product of the same round, `mm`, which is the floor: it writes into memory that is
already there, in blocks where the whole product would not fit. Peaks of memory on a CPU are of a
fresh process each; they count what the run returns, which `result_mib` gives. The eager rows
hold `[B, T, C]` and are left out where that passes the limit.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from benchmarks.draw import grouped_bars, latest_rows, name_groups, save
from benchmarks.measure import (
    MIB,
    RESULTS,
    append_rows,
    environment,
    interleaved,
    peak_extra_memory,
)
from czsl_sac.functional.alignment import patch_max_reference
from czsl_sac.kernels import patch_max, patch_max_values

Mode = Literal["forward", "forward+backward"]
MODES: tuple[Mode, ...] = ("forward", "forward+backward")


@dataclass(frozen=True)
class Shape:
    """Sizes of one call.

    Attributes:
        images: B.
        compositions: C.
        tokens: T.
        dim: D.
    """

    images: int
    compositions: int
    tokens: int = 257
    dim: int = 768


SHAPES = {
    "ut-zappos": Shape(64, 83),
    "mit-states": Shape(64, 1262),
    "cgqa": Shape(16, 5592),
    "cgqa-b16": Shape(16, 5592, tokens=197, dim=512),
    "cgqa-open": Shape(16, 278_362),
    "cgqa-open-b128": Shape(128, 278_362),
}
CLOSED_WORLD = ["ut-zappos", "mit-states", "cgqa", "cgqa-b16"]
# The implementations, and in which modes each is a row.
IMPLEMENTATIONS: dict[str, tuple[Mode, ...]] = {
    "mm": MODES,
    "eager max": MODES,
    "eager amax": MODES,
    "compiled max": MODES,
    "chunked": MODES,
    "chunked values": ("forward",),
    "triton": MODES,
    "triton values": ("forward",),
    "auto": MODES,
}
DTYPES = {
    "float32": torch.float32,
    "TF32": torch.float32,  # whose products a GPU rounds to 10 bits
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        shapes: names of the sizes, among those of this file; the default is the closed world on a
            CPU and all on a GPU.
        modes: forward alone, or with both gradients; open-world sizes run forward alone.
        implementations: rows; those that cannot run here are left out.
        dtype: of the inputs, or TF32; the default is float32 on a CPU and bfloat16 on a GPU.
        device: "cpu" or "cuda"; the default is the GPU where there is one.
        rounds: timed turns of every row; the default is 15 on a CPU and 50 on a GPU.
        threads: of a CPU.
        memory_limit_gib: a row that holds more than this is left out; the default is 4 on a CPU and
            six tenths of a GPU's memory.
        csv: where rows are appended.
        draw: measure nothing and draw the latest rows of the file into this picture.
    """

    shapes: list[str] | None = None
    modes: list[Mode] = field(default_factory=lambda: list(MODES))
    implementations: list[str] = field(default_factory=lambda: list(IMPLEMENTATIONS))
    dtype: str | None = None
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    rounds: int | None = None
    threads: int = 2
    memory_limit_gib: float | None = None
    csv: Path = RESULTS / "patch_max.csv"
    draw: Path | None = None


def main(argv: list[str] | None = None) -> None:
    """Measure the chosen rows, print them, and append them to the CSV."""
    options = tyro.cli(Options, args=argv, prog="python -m benchmarks patch_max")
    if options.draw:
        draw(options.csv, options.draw)
        return
    torch.set_num_threads(options.threads)
    on_cpu = options.device == "cpu"
    dtype = options.dtype or own_dtype(options.device)
    torch.backends.cuda.matmul.allow_tf32 = dtype == "TF32"
    for name in options.shapes or (CLOSED_WORLD if on_cpu else list(SHAPES)):
        for mode in options.modes:
            if mode == "forward" or "open" not in name:
                rows = measure(options, name, mode, dtype)
                print(tabulate([short(row) for row in rows], headers="keys", floatfmt=".3g"))
                append_rows(options.csv, rows)


def measure(options: Options, name: str, mode: Mode, dtype: str) -> list[dict[str, object]]:
    """Return one row per implementation that runs here, for one shape and mode."""
    shape, limit = SHAPES[name], memory_limit(options)
    rounds = options.rounds or (15 if options.device == "cpu" else 50)
    chosen = [
        implementation
        for implementation, modes in IMPLEMENTATIONS.items()
        if mode in modes
        and (implementation in options.implementations or implementation == "mm")
        and runs_here(implementation, options.device)
        and held(implementation, shape, mode, DTYPES[dtype]) <= limit
    ]
    tensors = inputs(shape, dtype, options.device)
    torch.compiler.reset()  # or a second shape would be timed on code for any shape
    calls = {each: call(each, mode, *tensors) for each in chosen}
    timings = interleaved(calls, rounds=rounds, label=f"{name}, {mode}", device=options.device)
    del tensors, calls
    return [
        {
            "shape": name,
            "B": shape.images,
            "T": shape.tokens,
            "C": shape.compositions,
            "D": shape.dim,
            "dtype": dtype,
            "device": options.device,
            "mode": mode,
            "implementation": each,
            "rounds": rounds,
            "median_ms": round(timings[each].median * 1e3, 3),
            "q20_ms": round(timings[each].quantile(0.2) * 1e3, 3),
            "q80_ms": round(timings[each].quantile(0.8) * 1e3, 3),
            "ratio_to_mm": round(timings[each].ratio(timings["mm"]), 3),
            "peak_extra_mib": round(
                peak_extra_memory(
                    prepare,
                    implementation=each,
                    mode=mode,
                    shape=shape,
                    dtype=dtype,
                    device=options.device,
                )
                / MIB,
                1,
            ),
            "result_mib": round(result_bytes(each, mode, shape, DTYPES[dtype]) / MIB, 1),
            **environment(options.device),
        }
        for each in chosen
    ]


def own_dtype(device: str) -> str:
    """Return the dtype that a device is measured in unless another is asked for."""
    return "float32" if device == "cpu" else "bfloat16"


def short(row: dict[str, object]) -> dict[str, object]:
    """Return the columns worth printing."""
    columns = ("shape", "mode", "implementation", "median_ms", "q20_ms", "q80_ms")
    return {
        column: row[column] for column in (*columns, "ratio_to_mm", "peak_extra_mib", "result_mib")
    }


def runs_here(implementation: str, device: str) -> bool:
    """Say whether an implementation can run on the device."""
    if implementation.startswith("triton"):
        return device != "cpu" and importlib.util.find_spec("triton") is not None
    return True


def held(implementation: str, shape: Shape, mode: Mode, dtype: torch.dtype) -> int:
    """Return the bytes of similarities, and of their gradient, that an implementation holds."""
    if not implementation.startswith(("eager", "compiled")):
        return 0
    copies = 1 if mode == "forward" else 2
    return shape.images * shape.tokens * shape.compositions * dtype.itemsize * copies


def memory_limit(options: Options) -> int:
    """Return the bytes of similarities that an implementation may hold here."""
    if options.memory_limit_gib is not None:
        return int(options.memory_limit_gib * 2**30)
    if options.device == "cpu":
        return 4 * 2**30
    return int(0.6 * torch.cuda.get_device_properties(options.device).total_memory)


def result_bytes(implementation: str, mode: Mode, shape: Shape, dtype: torch.dtype) -> int:
    """Return the bytes that a run returns or, for `mm`, writes into: no way to do without them."""
    B, T, C, D = shape.images, shape.tokens, shape.compositions, shape.dim
    if implementation == "mm":
        return min(2**29, B * T * C * dtype.itemsize)
    if mode == "forward":
        return B * C * 4
    return (B * T + C) * D * dtype.itemsize


def inputs(shape: Shape, dtype: str, device: str) -> tuple[Tensor, Tensor]:
    """Return unit tokens ``[B, T, D]`` and texts ``[C, D]``, normalised in place."""
    generator = torch.Generator(device).manual_seed(0)
    made = []
    for size in ((shape.images, shape.tokens, shape.dim), (shape.compositions, shape.dim)):
        x = torch.randn(size, generator=generator, device=device, dtype=DTYPES[dtype])
        made.append(x.div_(x.norm(dim=-1, keepdim=True)))
    return made[0], made[1]


def call(implementation: str, mode: Mode, tokens: Tensor, text: Tensor) -> Callable[[], object]:
    """Return what one row runs."""
    if implementation == "mm":
        return matrix_product(tokens, text)
    values = VALUES[implementation]
    if implementation.startswith("compiled"):
        values = torch.compile(values, dynamic=False)
    if mode == "forward":

        def forward() -> object:
            with torch.no_grad():
                return values(tokens, text)

        return forward
    tokens, text = tokens.detach().requires_grad_(), text.detach().requires_grad_()
    grad = torch.randn(len(tokens), len(text), device=tokens.device)

    def both() -> object:
        return torch.autograd.grad(values(tokens, text), (tokens, text), grad)

    return both


def eager_amax(tokens: Tensor, text: Tensor) -> Tensor:
    """Return the maximum without its index; its gradient is split among ties."""
    return (tokens @ text.mT).amax(dim=1).float()


def eager_max(tokens: Tensor, text: Tensor) -> Tensor:
    """Return the plain expression, with the index that its gradient needs."""
    return patch_max_reference(tokens, text)[0]


VALUES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eager max": eager_max,
    "eager amax": eager_amax,
    "compiled max": eager_max,
    "chunked": lambda tokens, text: patch_max(tokens, text, impl="chunked")[0],
    "chunked values": lambda tokens, text: patch_max_values(tokens, text, impl="chunked"),
    "triton": lambda tokens, text: patch_max(tokens, text, impl="triton")[0],
    "triton values": lambda tokens, text: patch_max_values(tokens, text, impl="triton"),
    "auto": lambda tokens, text: patch_max(tokens, text)[0],
}


def matrix_product(tokens: Tensor, text: Tensor) -> Callable[[], object]:
    """Return the plain product of all tokens and texts, into one block of at most 512 MiB."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    columns = min(len(text), max(1, 2**29 // (len(rows) * rows.itemsize) // 512 * 512))
    buffer = rows.new_empty(len(rows), columns)

    def run() -> Tensor:
        for c in range(0, len(text), columns):
            texts = text[c : c + columns]
            # a narrower last block has its own leading dimension, as in a buffer of its own
            torch.mm(
                rows, texts.mT, out=buffer.view(-1)[: len(rows) * len(texts)].view(-1, len(texts))
            )
        return buffer

    return run


def prepare(
    implementation: str, mode: Mode, shape: Shape, dtype: str, device: str
) -> Callable[[], object]:
    """Return what one row runs, after the same on few compositions: libraries have started."""
    tokens, text = inputs(shape, dtype, device)
    call(implementation, mode, tokens[:1, :8].contiguous(), text[:8].contiguous())()
    if implementation.startswith("compiled"):  # its compilation is not to be counted
        run = call(implementation, mode, tokens, text)
        run()
        return run
    if implementation == "mm":  # the product in memory of its own, as part of the peak
        return lambda: call(implementation, mode, tokens, text)()
    return call(implementation, mode, tokens, text)


def draw(path: Path, picture: Path) -> None:
    """Draw the latest rows of each hardware in its own dtype: ratios to the product, memory."""
    import matplotlib.pyplot as plt

    rows = latest_rows(path, ("hardware", "dtype", "mode", "shape", "implementation"))
    rows = {key: row for key, row in rows.items() if row["dtype"] == own_dtype(row["device"])}
    panels = sorted({key[:3] for key in rows})
    names = [name for name in IMPLEMENTATIONS if any(key[4] == name for key in rows)]
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(11, 3.2 * len(panels)), squeeze=False, layout="constrained"
    )
    for (time, memory), panel in zip(axes, panels, strict=True):
        shapes = [name for name in SHAPES if any(key[:4] == (*panel, name) for key in rows)]
        grouped_bars(time, rows, panel, shapes, names, "ratio_to_mm")
        grouped_bars(memory, rows, panel, shapes, names, "peak_extra_mib")
        time.axhline(1, color="black", linewidth=0.8)
        time.set_ylabel("time by that of mm, forward")
        memory.set_ylabel("peak extra memory, MiB")
        memory.set_yscale("log")
        memory.set_ylim(bottom=1)
        for axis in (time, memory):
            axis.set_title(", ".join(panel), fontsize=8)
            name_groups(axis, shapes)
        time.legend(fontsize=7)
    save(figure, picture)


if __name__ == "__main__":
    main()
