"""A whole training step of SAC against the same step written the peers' way: memory and time.

    python -m benchmarks train_step
    python -m benchmarks train_step --measure time --case mit-states
    python -m benchmarks train_step --measure whole --case cgqa
    python -m benchmarks train_step --picture docs/results/train_step.png

The architecture is that of ViT-L/14, the weights are random, batch size and compositions are the
paper's. The peers' way encodes a prompt of its own for every composition, of 8 tokens or of
CLIP's 77, keeps every activation for the backward pass, and forms the similarities `[B, T, C]`.

Memory is counted: the step runs at full size on tensors that have a shape and no values, and the
bytes alive are summed after every operation: weights, gradients, Adam's moments, activations and
temporaries in float32. What an operator allocates inside itself is not seen. Time is measured on
real tensors with fewer images, for the peers' way at the paper's batch has no place in a usual
computer. `whole` runs our own step on real tensors at the paper's batch, in a process of its own,
and reads the peak of its resident memory: a check on what was counted.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch
import tyro
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.count_memory import FakeFloats, nbytes, peak_of_step
from benchmarks.draw import Row, grouped_bars, latest_rows, name_groups, save
from benchmarks.measure import (
    MIB,
    RESULTS,
    append_rows,
    environment,
    fresh_run,
    interleaved,
)
from czsl_sac import SAC
from czsl_sac.blocks.alignment import PatchMaxAligner
from czsl_sac.clip import CLIPBackbone, CLIPConfig, apply_lora, store_frozen
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.clip.sources.tiny import WordTokenizer
from czsl_sac.space import CompositionSpace

CHUNK = 256  # prompts that the text tower runs at once, its default
VIT_L_14 = CLIPConfig(768, 224, 14, 1024, 24, 16, 77, 49408, 768, 12, 12)


@dataclass(frozen=True)
class Case:
    """A data set's sizes (Tab. 7) and settings (Sec. A).

    Attributes:
        attributes: A.
        objects: O.
        seen: C, seen compositions.
        batch: B.
        blocks: K of the condenser.
    """

    attributes: int
    objects: int
    seen: int
    batch: int
    blocks: int


CASES = {
    "ut-zappos": Case(16, 12, 83, 64, 3),
    "mit-states": Case(115, 245, 1262, 64, 3),
    "cgqa": Case(413, 674, 5592, 16, 1),
}


@dataclass(frozen=True)
class Way:
    """How the step is written.

    Attributes:
        tokens: of each composition's own prompt, the peers' way; None shares prefixes.
        checkpoint_vision: recompute the vision tower's blocks.
        frozen: precision that frozen weights are kept in.
    """

    tokens: int | None = None
    checkpoint_vision: bool = False
    frozen: torch.dtype = torch.float32


WAYS = {
    "ours": Way(),
    "ours, checkpointed": Way(checkpoint_vision=True),
    "ours, checkpointed, frozen fp16": Way(checkpoint_vision=True, frozen=torch.float16),
    "peers, 8 tokens": Way(tokens=8),
    "peers, 77 tokens": Way(tokens=77),
}
TIMED = ("ours", "ours, checkpointed", "peers, 8 tokens")
WHOLE = ("ours", "ours, checkpointed")
LARGEST_WHOLE = 16  # images of a whole step that keeps the vision tower's activations


@dataclass(frozen=True)
class Options:
    """What is measured, and where it goes."""

    measure: Literal["memory", "time", "whole"] = "memory"
    """Count the bytes of a step at full size, time real steps of few images in every way, or run
    our own at full size once."""
    case: Literal["all", "ut-zappos", "mit-states", "cgqa"] = "all"
    """One data set's sizes, or all."""
    batch: int = 2
    """Images of a timed step; memory is counted at the paper's batch size."""
    rounds: int = 1
    """Interleaved timings of each way, after one that does not count."""
    threads: int = 2
    """Threads of torch on a CPU."""
    csv: Path = RESULTS / "train_step.csv"
    """File that the rows are appended to."""
    picture: Path | None = None
    """Draw the latest rows of the file to this picture, and measure nothing."""


class PeersPrompts(nn.Module):
    """The peers' way: every composition is a prompt of its own, and all of them run at once.

    Args:
        prompts: the prompts; attributes and objects, a few hundred, run as they do there.
        tokens: length that the prompts of compositions are padded to.
    """

    def __init__(self, prompts: SoftPrompts, tokens: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.tokens = tokens

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features of compositions, attributes and objects, as `SoftPrompts` does."""
        embeddings = self.prompts.embed_compositions(pairs)
        count, length, _ = embeddings.shape
        padded = nn.functional.pad(embeddings, (0, 0, 0, self.tokens - length))
        end = torch.full((count,), length - 1)
        features = self.prompts.tower.encode_embeddings(padded, end)
        return features, self.prompts.attributes(), self.prompts.objects()


@cache
def random_clip() -> CLIPBackbone:
    """Return a frozen CLIP of ViT-L/14's architecture, drawn once: that takes seconds."""
    tokenizer = WordTokenizer(buckets=300, context_length=77)
    return CLIPBackbone(VIT_L_14, tokenizer).requires_grad_(False)


def build(case: Case, frozen: torch.dtype = torch.float32) -> SAC:
    """Return SAC in training mode, with LoRA and with random weights.

    Args:
        case: the data set's sizes.
        frozen: precision that frozen weights are kept in.
    """
    backbone = deepcopy(random_clip())
    if frozen != torch.float32:
        store_frozen(backbone, frozen)
    apply_lora(backbone.visual)
    options = {"num_blocks": case.blocks, "prompt_dropout": 0.0, "bank": "off"}
    return SAC(backbone, make_space(case), **options).train()


def write_as(model: SAC, way: Way) -> None:
    """Make a model compute its step in one of the ways; its weights stay.

    Args:
        model: of `build`.
        way: how the step is written.
    """
    peers = way.tokens is not None
    model.backbone.visual.transformer.gradient_checkpointing = way.checkpoint_vision
    model.backbone.text.chunk_size = len(model.seen_pairs) if peers else CHUNK
    model.aligner = PatchMaxAligner(model.temperature, impl="reference" if peers else "auto")
    plain = model.prompts.prompts if isinstance(model.prompts, PeersPrompts) else model.prompts
    model.prompts = plain if way.tokens is None else PeersPrompts(plain, way.tokens)


def make_space(case: Case) -> CompositionSpace:
    """Return compositions drawn at random, in which every attribute and object is seen."""
    attributes = [f"a{i}" for i in range(case.attributes)]
    objects = [f"o{i}" for i in range(case.objects)]
    generator = torch.Generator().manual_seed(0)
    size = max(case.attributes, case.objects)
    cover = [(i % case.attributes, i % case.objects) for i in range(size)]
    drawn = torch.randperm(case.attributes * case.objects, generator=generator).tolist()
    pairs = dict.fromkeys([*cover, *(divmod(i, case.objects) for i in drawn)])
    chosen = [(attributes[a], objects[o]) for a, o in list(pairs)[: case.seen]]
    return CompositionSpace(attributes, objects, chosen, chosen)


def count(name: str) -> list[dict[str, object]]:
    """Count the memory of a step at the paper's batch size, in every way.

    Args:
        name: key of CASES.

    Returns:
        One row a way.
    """
    case = CASES[name]
    rows = []
    for label, way in WAYS.items():
        mode = FakeFloats()
        model = build(case, way.frozen)
        write_as(model, way)
        frozen, trained = sizes(model)
        mode.fake_module(model)
        with mode:
            images = torch.empty(case.batch, 3, VIT_L_14.image_size, VIT_L_14.image_size)
            targets = torch.arange(case.batch)
            peak = peak_of_step(model, partial(loss, model, images, targets), [images, targets])
        rows.append(
            row("memory", name, label, case, frozen, trained, peak_gib=f"{peak / 2**30:.2f}")
        )
    return rows


def time(name: str, options: Options) -> list[dict[str, object]]:
    """Time real steps, forward and backward, of few images.

    Args:
        name: key of CASES.
        options: of the command line.

    Returns:
        One row a way.
    """
    case = replace(CASES[name], batch=options.batch)
    torch.manual_seed(0)
    images = torch.randn(case.batch, 3, VIT_L_14.image_size, VIT_L_14.image_size)
    targets = torch.arange(case.batch)
    model = build(case)

    def run(way: Way) -> Tensor:
        write_as(model, way)
        model.zero_grad()
        value = loss(model, images, targets)
        value.backward()
        return value.detach()

    values: dict[str, Tensor] = {}

    def keep(label: str) -> None:
        values[label] = run(WAYS[label])

    timings = interleaved(
        {label: partial(keep, label) for label in TIMED}, rounds=options.rounds, label=name
    )
    for value in values.values():  # the same step, only written otherwise
        torch.testing.assert_close(value, values["ours"], rtol=1e-4, atol=1e-4)
    return [
        row(
            *("time", name, label, case, *sizes(model)),
            seconds=f"{timing.median:.2f}",
            time_to_peers=f"{timing.ratio(timings['peers, 8 tokens']):.3f}",
        )
        for label, timing in timings.items()
    ]


def whole(name: str) -> list[dict[str, object]]:
    """Run our step at the paper's batch size on real tensors, and reads time and peak memory.

    Args:
        name: key of CASES.

    Returns:
        One row a way. The peak is that of the process beyond its start, with all weights and
        with the two moments of Adam, which the step itself does not hold.
    """
    case = CASES[name]
    frozen, trained = sizes(build(case))
    rows = []
    for label in WHOLE:
        if case.batch > LARGEST_WHOLE and not WAYS[label].checkpoint_vision:
            continue
        run = fresh_run(prepare_whole, name=name, label=label, keep_result=False)
        peak = run.peak + frozen + 3 * trained
        rows.append(
            row(
                *("whole", name, label, case, frozen, trained),
                peak_gib=f"{peak / 2**30:.2f}",
                seconds=f"{run.seconds:.2f}",
            )
        )
    return rows


def prepare_whole(name: str, label: str) -> Callable[[], object]:
    """Build one way of a case for the process that runs it, and a step of it on one image."""
    case = CASES[name]
    model = build(case)
    write_as(model, WAYS[label])
    images = torch.randn(case.batch, 3, VIT_L_14.image_size, VIT_L_14.image_size)
    targets = torch.arange(case.batch)
    with torch.no_grad():  # libraries start
        model.backbone.encode_image(images[:1])

    def step() -> None:
        loss(model, images, targets).backward()

    return step


def draw(source: Path, path: Path) -> None:
    """Draws the latest counted peaks and times of the file, each way beside the others."""
    import matplotlib.pyplot as plt

    rows = latest_rows(source, ("measure", "case", "way"))
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    panels = (("memory", "peak_gib", "peak, GiB"), ("time", "seconds", "seconds"))
    for axis, (measure, column, unit) in zip(axes, panels, strict=True):
        batch = {key[1]: row["batch"] for key, row in rows.items() if key[0] == measure}
        cases = [name for name in CASES if name in batch]

        def height(row: Row, column: str = column) -> str:
            return f"{float(row[column]):.3g}"

        grouped_bars(axis, rows, (measure,), cases, list(WAYS), column, label=height)
        name_groups(axis, [f"{n}\nB {batch[n]}, C {CASES[n].seen:,}" for n in cases])
        axis.set_ylabel(unit)
    axes[0].set_yscale("log")
    axes[0].axhline(24, color="black", linewidth=0.8)
    axes[0].legend(fontsize=7)
    save(figure, path)


def sizes(model: SAC) -> tuple[int, int]:
    """Return the bytes of the frozen and of the trained parameters."""
    frozen, trained = (
        sum(nbytes(p) for p in model.parameters() if p.requires_grad == learns)
        for learns in (False, True)
    )
    return frozen, trained


def loss(model: SAC, images: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of the joint schedule (Eq. 11)."""
    return model(images, targets, "joint")["total"]


def row(
    measure: str,
    name: str,
    label: str,
    case: Case,
    frozen: int,
    trained: int,
    *,
    peak_gib: str = "",
    seconds: str = "",
    time_to_peers: str = "",
) -> dict[str, object]:
    """Return a row of the CSV."""
    return {
        "measure": measure,
        "case": name,
        "way": label,
        "compositions": case.seen,
        "batch": case.batch,
        "frozen_mib": f"{frozen / MIB:.0f}",
        "trained_mib": f"{trained / MIB:.0f}",
        "peak_gib": peak_gib,
        "seconds": seconds,
        "time_to_peers": time_to_peers,
        **environment(),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print a table and append the rows to the CSV.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    if options.picture is not None:
        draw(options.csv, options.picture)
        return
    torch.set_num_threads(options.threads)
    measures = {"memory": count, "time": partial(time, options=options), "whole": whole}
    rows = []
    for name in CASES if options.case == "all" else [options.case]:
        rows += measures[options.measure](name)
    shown = list(rows[0])[:10]
    print(tabulate([[row[key] for key in shown] for row in rows], headers=shown))
    append_rows(options.csv, rows)
