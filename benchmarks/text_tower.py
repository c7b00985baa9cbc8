"""The text tower with shared prefixes against the ways it is run elsewhere: time, memory, error.

    python -m benchmarks text_tower

ViT-L/14's text tower with random weights in float32: width 768, 12 layers, 12 heads, D 768. The
prompts are [SOT, a, photo, of, attribute, object, EOT] of the compositions that each data set
trains on, and of every attribute with every object of C-GQA. Compared are:

- `shared`: `SoftPrompts.compositions` at its defaults;
- `8 tokens`, `16 tokens`: the published CZSL methods' way, OpenAI's own transformer on whole
  prompts padded to that length, all at once;
- `77 tokens`: `clip`'s `encode_text`; with gradients the same on embeddings.

With gradients means those of the context and of the attribute and object vectors, the weights
frozen. Dear rows are measured on the first compositions alone and scaled up: `measured_on` says on
how many, `value` is what was measured, `scaled` what it comes to for all. Peaks are of a fresh
process, beyond weights and inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.draw import Row, grouped_bars, latest_rows, name_groups, save
from benchmarks.measure import (
    MIB,
    RESULTS,
    Precision,
    append_rows,
    environment,
    interleaved,
    peak_extra_memory,
    products_in,
)
from benchmarks.shared_data import SHARED
from czsl_sac.clip import SoftPrompts
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.sources.openai import OpenAITokenizer, import_clip

WIDTH, LAYERS, HEADS, DIM = 768, 12, 12, 768
MODES = ("forward", "forward+backward")
WAYS = ("shared", "8 tokens", "16 tokens", "77 tokens")


@dataclass(frozen=True)
class Case:
    """The prompts of a data set.

    Attributes:
        split: folder of its pair lists.
        attributes: A.
        objects: O.
        compositions: C; all pairs where it is A · O.
        modes: what is measured.
    """

    split: str
    attributes: int
    objects: int
    compositions: int
    modes: tuple[str, ...] = MODES


CASES = {
    "ut-zappos": Case("ut-zappos", 16, 12, 83),
    "mit-states": Case("mit-states", 115, 245, 1_262),
    "cgqa": Case("cgqa", 413, 674, 5_592),
    "cgqa, open world": Case("cgqa", 413, 674, 278_362, ("forward",)),
}

# Most compositions on which a way is timed; four attributes with each object are 2,696. Memory of
# the shared way is measured on all, however many.
LIMITS = {
    "forward": {"shared": 5_592, "8 tokens": 5_592, "16 tokens": 1_262, "77 tokens": 256},
    "forward+backward": {"shared": 5_592, "8 tokens": 1_262, "16 tokens": 512, "77 tokens": 83},
}
OPEN_LIMITS = {"shared": 2_696, "8 tokens": 1_262, "16 tokens": 512, "77 tokens": 256}


@dataclass(frozen=True)
class Options:
    """What is measured, and where it goes."""

    case: Literal["all", "ut-zappos", "mit-states", "cgqa", "cgqa, open world"] = "all"
    """One data set, or all."""
    mode: Literal["all", "forward", "forward+backward"] = "all"
    """One mode, or both."""
    quantity: Literal["all", "error", "time", "memory"] = "all"
    """One quantity, or all three. Memory of the open world encodes it whole: a quarter of an hour
    on two cores."""
    rounds: int = 1
    """Interleaved timings of each."""
    threads: int = 2
    """Threads of torch on a CPU."""
    device: str = "cpu"
    """Where it runs: "cpu" or "cuda"."""
    precision: Precision = "float32"
    """Of the products: TF32 on a GPU alone, bf16 by autocast."""
    chunk_size: int | None = None
    """Compositions at once of the shared way; by default the tower's own."""
    csv: Path = RESULTS / "text_tower.csv"
    """File that the rows are appended to."""
    picture: Path | None = None
    """Draw the latest rows of the file to this picture, and measure nothing."""


class PeerTower(nn.Module):
    """The text encoder of the published CZSL methods: whole prompts through OpenAI's transformer.

    Args:
        length: tokens of a prompt.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        import_clip()
        from clip.model import CLIP

        # The vision tower is not used, and as small as it can be.
        self.clip = CLIP(DIM, 32, 1, 64, 32, length, 49_408, WIDTH, HEADS, LAYERS)
        self.requires_grad_(False).eval()

    def forward(self, embeddings: Tensor, end: int) -> Tensor:
        """Encode embeddings `[C, n, W]`, whose end-of-text token stands at `end`."""
        x = embeddings + self.clip.positional_embedding
        x = self.clip.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.clip.ln_final(x)[:, end] @ self.clip.text_projection


class Setting:
    """One case with the weights of one tower, ready to run each way.

    Args:
        case: the prompts.
        ways: which are wanted.
        chunk_size: compositions at once of the shared way; None for the default.
        device: where everything stands.
        precision: of the products.
    """

    def __init__(
        self,
        case: Case,
        ways: tuple[str, ...],
        chunk_size: int | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        torch.manual_seed(0)
        self.products = partial(products_in, precision, device)
        full = PeerTower(77)
        weights = full.clip.state_dict()
        tokenizer = OpenAITokenizer()
        self.backbone = CLIPBackbone.from_openai_state_dict(weights, tokenizer)
        self.backbone.requires_grad_(False)
        if chunk_size is not None:
            self.backbone.text.chunk_size = chunk_size
        self.prompts = SoftPrompts(
            self.backbone.text, tokenizer, ["red"] * case.attributes, ["cat"] * case.objects
        )
        for vectors in (self.prompts.attribute_vectors, self.prompts.object_vectors):
            nn.init.normal_(vectors, std=0.02)
        self.pairs = load_pairs(case)
        self.ids = tokenizer(["a photo of red cat"])
        self.peers: dict[str, PeerTower] = {}
        for way in ways:
            if way == "77 tokens":
                self.peers[way] = full
            elif way != "shared":
                length = int(way.split()[0])
                self.peers[way] = PeerTower(length)
                weights["positional_embedding"] = full.clip.positional_embedding[:length]
                self.peers[way].clip.load_state_dict(weights)
        self.backbone.to(device)
        self.prompts.to(device)
        for peer in self.peers.values():
            peer.to(device)
        self.pairs, self.ids = self.pairs.to(device), self.ids.to(device)

    def encode(self, way: str, count: int) -> Tensor:
        """Encode the first `count` compositions; `plain` is this package's tower, unshared."""
        pairs = self.pairs[:count]
        if way == "shared":
            return self.prompts.compositions(pairs)
        if way == "77 tokens" and not torch.is_grad_enabled():
            return self.peers[way].clip.encode_text(self.ids.expand(len(pairs), -1))
        embeddings = self.prompts.embed_compositions(pairs)
        end = embeddings.shape[1] - 1
        if way == "plain":
            ends = torch.full((len(pairs),), end, device=pairs.device)
            return self.backbone.text.encode_embeddings(embeddings, ends)
        length = len(self.peers[way].clip.positional_embedding)
        padding = embeddings.new_zeros(len(pairs), length - 1 - end, WIDTH)
        return self.peers[way](torch.cat([embeddings, padding], dim=1), end)

    def run(self, way: str, mode: str, count: int) -> Callable[[], object]:
        """Return one pass over the first `count` compositions, ready to run."""

        def forward() -> Tensor:
            with torch.no_grad(), self.products():
                return self.encode(way, count)

        def forward_and_backward() -> list[Tensor | None]:
            self.prompts.zero_grad()
            with self.products():
                self.encode(way, count).square().sum().backward()
            return [parameter.grad for parameter in self.prompts.parameters()]

        return forward if mode == "forward" else forward_and_backward


def load_pairs(case: Case) -> Tensor:
    """Return the pairs `[C, 2]` of a case, sorted: of its files, or as many drawn at random."""
    everything = torch.cartesian_prod(torch.arange(case.attributes), torch.arange(case.objects))
    file = SHARED / "splits" / case.split / "train_pairs.txt"
    if case.compositions == len(everything):
        return everything
    if not file.is_file():
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(everything), generator=generator)[: case.compositions]
        return everything[chosen.sort().values]
    names = [line.split() for line in file.read_text().splitlines() if line.strip()]
    attributes, objects = (sorted(set(column)) for column in zip(*names, strict=True))
    return torch.tensor(sorted((attributes.index(a), objects.index(o)) for a, o in names))


def limit(case: Case, mode: str, way: str) -> int:
    """Return on how many compositions a way is measured."""
    limits = LIMITS[mode] if case.compositions <= 5_592 else OPEN_LIMITS
    return min(case.compositions, limits[way])


def prepare(name: str, way: str, mode: str, count: int, **options: Any) -> Callable[[], object]:
    """Build one way for the process that measures memory, and run it on little."""
    setting = Setting(CASES[name], (way,), **options)
    setting.run(way, mode, 8)()
    setting.prompts.zero_grad()
    return setting.run(way, mode, count)


def measure_time(name: str, mode: str, options: Options) -> dict[str, tuple[int, float]]:
    """Return for each way on how many compositions it ran, and the median of its seconds."""
    case = CASES[name]
    setting = Setting(case, WAYS, options.chunk_size, options.device, options.precision)
    counts = {way: limit(case, mode, way) for way in WAYS}
    for way in WAYS:
        setting.run(way, mode, 8)()
    runs = {way: setting.run(way, mode, count) for way, count in counts.items()}
    timings = interleaved(
        runs,
        rounds=options.rounds,
        warmup=0 if options.device == "cpu" else 1,
        label=f"{name}: {mode}",
        device=options.device,
    )
    return {way: (counts[way], timings[way].median) for way in WAYS}


def measure_memory(name: str, mode: str, options: Options) -> dict[str, tuple[int, float]]:
    """Return for each way on how many compositions it ran, and its peak in MiB."""
    found = {}
    for way in WAYS:
        count = CASES[name].compositions
        if way != "shared":  # whole prompts at once: their peak grows with their number
            count = min(limit(CASES[name], mode, way), 1_262)
        peak = peak_extra_memory(
            prepare,
            name=name,
            way=way,
            mode=mode,
            count=count,
            chunk_size=options.chunk_size,
            device=options.device,
            precision=options.precision,
        )
        found[way] = (count, peak / MIB)
    return found


def measure_error(name: str, mode: str, options: Options) -> dict[str, tuple[int, float]]:
    """Return the largest difference by the largest number: to 8 tokens, and in float64.

    In float64 the comparison is with the plain tower, for `clip`'s norms know float32 alone.
    """
    case = CASES[name]
    setting = Setting(case, ("8 tokens",), options.chunk_size, options.device, options.precision)
    count = min(case.compositions, 83)

    def difference(reference: str) -> tuple[int, float]:
        ours, theirs = (setting.run(way, mode, count)() for way in ("shared", reference))
        pairs = [(ours, theirs)] if mode == "forward" else list(zip(ours, theirs, strict=True))
        pairs = [(a, b) for a, b in pairs if a is not None]
        return count, max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)

    found = {"shared - 8 tokens, float32": difference("8 tokens")}
    setting.backbone.double()
    setting.prompts.double()
    return {**found, "shared - plain, float64": difference("plain")}


MEASURES = {"error": measure_error, "time": measure_time, "memory": measure_memory}
UNITS = {"error": "", "time": "s", "memory": "MiB"}


def measure(name: str, mode: str, quantity: str, options: Options) -> list[dict[str, object]]:
    """Measure one quantity of one case.

    Args:
        name: key of CASES.
        mode: of MODES.
        quantity: key of MEASURES.
        options: of the command line.

    Returns:
        One row a way.
    """
    total = CASES[name].compositions
    found = MEASURES[quantity](name, mode, options)
    grows = quantity != "error"
    rows = []
    for way, (count, value) in found.items():
        scaled = value * total / count if grows else value
        own = rows[0]["scaled"] if rows else f"{scaled:.6g}"
        rows.append(
            {
                "case": name,
                "compositions": total,
                "mode": mode,
                "quantity": quantity,
                "unit": UNITS[quantity],
                "way": way if options.precision == "float32" else f"{way}, {options.precision}",
                "measured_on": count,
                "value": f"{value:.6g}",
                "scaled": f"{scaled:.6g}",
                "ratio_to_shared": f"{scaled / float(str(own)):.3f}" if grows else "",
                "rounds": options.rounds if quantity == "time" else 1,
                "chunk_size": options.chunk_size or "default",
                **environment(options.device),
            }
        )
    return rows


def draw(source: Path, path: Path) -> None:
    """Draw the latest times and peaks of the file, each way beside the others."""
    import matplotlib.pyplot as plt

    rows = latest_rows(source, ("quantity", "mode", "case", "way"))
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.4), layout="constrained")
    for line, quantity in zip(axes, ("time", "memory"), strict=True):
        for axis, mode in zip(line, MODES, strict=True):
            cases = [name for name in CASES if (quantity, mode, name, "shared") in rows]
            key = (quantity, mode)
            grouped_bars(axis, rows, key, cases, WAYS, "scaled", label=times_shared)
            axis.set_yscale("log")
            axis.set_title(mode)
            name_groups(axis, [f"{name}\nC = {CASES[name].compositions:,}" for name in cases])
            axis.set_ylabel("seconds" if quantity == "time" else "peak beyond weights, MiB")
    axes[0, 0].legend(fontsize=8)
    save(figure, path)


def times_shared(row: Row) -> str:
    """Return what stands above a bar: how many times that of the shared way it is."""
    return "" if row["way"] == "shared" else f"{float(row['ratio_to_shared']):.1f}×"


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
    quantities = tuple(MEASURES) if options.quantity == "all" else (options.quantity,)
    for name in CASES if options.case == "all" else (options.case,):
        for mode in CASES[name].modes:
            if options.mode not in ("all", mode):
                continue
            for quantity in quantities:
                rows = measure(name, mode, quantity, options)
                headers = ["case", "mode", "quantity", "way", "measured_on", "value"]
                headers += ["scaled", "ratio_to_shared"]
                print(tabulate([[row[key] for key in headers] for row in rows], headers=headers))
                append_rows(options.csv, rows)
