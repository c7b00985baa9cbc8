"""The compact memory bank against the plain dense one: time and memory of update and prediction.

    python -m benchmarks memory_bank

The plain bank is a tensor `[C, N, D]`, predicts by forming all prototypes `[B, C, D]` and is
updated sample by sample. Both hold the same samples. Sizes are those of C-GQA: closed world; open
world with as many compositions as the plain bank has memory for here; and the whole open world,
which only the compact bank holds. Times are interleaved; peaks are of a fresh process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from benchmarks.measure import (
    MIB,
    RESULTS,
    append_rows,
    environment,
    interleaved,
    peak_extra_memory,
)
from czsl_sac.blocks.memory_bank import EntropyMemoryBank
from czsl_sac.functional.memory import memory_logits, prediction_entropy

DIM, CAPACITY = 768, 16
TRAINING_IMAGES, SEEN_PAIRS = 26_920, 5_592  # of C-GQA; its compositions are long-tailed
OPERATIONS = ("predict", "update")


@dataclass(frozen=True)
class Case:
    """One size.

    Attributes:
        compositions: C.
        batch: B.
        dense: whether the plain bank is measured too.
    """

    compositions: int
    batch: int
    dense: bool = True


CASES = {
    "closed": Case(7_555, 64),
    "open, part": Case(20_000, 16),
    "open": Case(278_362, 64, dense=False),
}


@dataclass(frozen=True)
class Options:
    """What is measured, and where it goes."""

    case: Literal["all", "closed", "open, part", "open"] = "all"
    """One size, or all."""
    rounds: int = 5
    """Interleaved timings of each."""
    threads: int = 1
    """Threads of torch on a CPU."""
    device: str = "cpu"
    """Device of bank and images."""
    csv: Path = RESULTS / "memory_bank.csv"
    """File that the rows are appended to."""


class DenseBank:
    """The plain way: every slot of every composition, one sample at a time.

    Args:
        bank: what it starts with.
    """

    def __init__(self, bank: EntropyMemoryBank) -> None:
        pool = bank.pool.view
        self.slots = bank.text.new_zeros(len(bank.text), bank.capacity, bank.text.shape[1])
        self.slots[:, 0] = bank.text
        self.entropies = bank.text.new_full(self.slots.shape[:2], float("inf"))
        self.valid = torch.zeros_like(self.entropies, dtype=torch.bool)
        self.valid[:, 0] = True
        for group in pool.groups:
            for column in range(group.shape[1]):
                rows = group[:, column]
                rows = rows[rows >= 0]
                classes = pool.classes[rows]
                self.slots[classes, column] = pool.features[rows]
                self.entropies[classes, column] = bank.pool.entropies[rows]
                self.valid[classes, column] = True

    def predict(self, features: Tensor) -> Tensor:
        """Return the logits, `[B, C]`."""
        return memory_logits(features, self.slots, self.valid)

    def update(self, features: Tensor, probabilities: Tensor) -> None:
        """Apply Eq. 9 to each sample in turn; an empty slot counts as infinitely uncertain."""
        entropies = prediction_entropy(probabilities)
        features = torch.nn.functional.normalize(features, dim=-1)
        for feature, entropy, c in zip(
            features, entropies, probabilities.argmax(1).tolist(), strict=True
        ):
            slot = int(self.entropies[c].argmax())
            if entropy < self.entropies[c, slot]:
                self.slots[c, slot] = feature
                self.entropies[c, slot] = entropy
                self.valid[c, slot] = True


def make_bank(case: Case, device: str) -> EntropyMemoryBank:
    """Return a bank that has seen as many images as C-GQA has for training."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(case.compositions, DIM, generator=generator).to(device)
    bank = EntropyMemoryBank(text, CAPACITY)
    frequencies = torch.arange(1, SEEN_PAIRS + 1).float().pow(-0.7)
    classes = torch.multinomial(frequencies, TRAINING_IMAGES, True, generator=generator)
    bank.pool.offer(
        torch.nn.functional.normalize(torch.randn(TRAINING_IMAGES, DIM, generator=generator)).to(
            device
        ),
        classes.to(device),
        torch.rand(TRAINING_IMAGES, generator=generator).to(device),
        torch.arange(TRAINING_IMAGES, device=device),
    )
    return bank


def make_batch(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Return the features and the probabilities of a batch of test images."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(case.batch, DIM, generator=generator)
    winners = torch.randint(min(SEEN_PAIRS, case.compositions), (case.batch,), generator=generator)
    logits = torch.randn(case.batch, case.compositions, generator=generator)
    logits[torch.arange(case.batch), winners] += 15
    return features.to(device), logits.softmax(-1).to(device)


def prepare(name: str, implementation: str, operation: str, device: str) -> Callable[[], object]:
    """Build a bank and a batch, run something small, and return what is to be measured."""
    case = CASES[name]
    bank, (features, probabilities) = make_bank(case, device), make_batch(case, device)
    runs = operations(bank, features, probabilities)
    if implementation == "dense":
        runs = operations(DenseBank(bank), features, probabilities)
    bank.text[:8] @ features.mT  # starts the thread pool
    return runs[operation]


def operations(
    bank: EntropyMemoryBank | DenseBank, features: Tensor, probabilities: Tensor
) -> dict[str, Callable[[], object]]:
    """Return prediction and update of one batch, ready to run."""
    forward = bank.predict if isinstance(bank, DenseBank) else bank

    def predict() -> Tensor:
        with torch.no_grad():
            return forward(features)

    return {"predict": predict, "update": lambda: bank.update(features, probabilities)}


def stored_bytes(bank: EntropyMemoryBank | DenseBank) -> int:
    """Return the bytes that a bank keeps between batches."""
    if isinstance(bank, DenseBank):
        kept = [bank.slots, bank.entropies, bank.valid]
    else:
        kept = [*bank.buffers(), *bank.pool.view.groups]
    return sum(values.numel() * values.element_size() for values in kept)


def measure(name: str, options: Options) -> list[dict[str, object]]:
    """Measure one case.

    Args:
        name: key of CASES.
        options: of the command line.

    Returns:
        One row per implementation and operation.
    """
    case = CASES[name]
    compact = make_bank(case, options.device)
    banks: dict[str, EntropyMemoryBank | DenseBank] = {"compact": compact}
    if case.dense:
        banks["dense"] = DenseBank(compact)
    batch = make_batch(case, options.device)
    samples, stored = compact.num_samples, {key: stored_bytes(bank) for key, bank in banks.items()}
    if case.dense:
        # logits go up to about 100: in float32 their last digits are 1e-5
        torch.testing.assert_close(
            compact(batch[0]), banks["dense"].predict(batch[0]), rtol=1e-5, atol=1e-4
        )
    timings = {}
    for operation in OPERATIONS:
        runs = {key: operations(bank, *batch)[operation] for key, bank in banks.items()}
        timings[operation] = interleaved(
            runs, rounds=options.rounds, label=f"{name}: {operation}", device=options.device
        )
    implementations = list(banks)
    del compact, banks, batch, runs
    rows = []
    for operation, timing in timings.items():
        for key in implementations:
            peak = peak_extra_memory(
                prepare,
                name=name,
                implementation=key,
                operation=operation,
                device=options.device,
            )
            rows.append(
                {
                    "case": name,
                    "operation": operation,
                    "implementation": key,
                    "compositions": case.compositions,
                    "capacity": CAPACITY,
                    "dim": DIM,
                    "batch": case.batch,
                    "samples": samples,
                    "stored_mib": f"{stored[key] / MIB:.1f}",
                    "peak_extra_mib": f"{peak / MIB:.1f}",
                    "ms_median": f"{1e3 * timing[key].median:.2f}",
                    "ms_p20": f"{1e3 * timing[key].quantile(0.2):.2f}",
                    "ms_p80": f"{1e3 * timing[key].quantile(0.8):.2f}",
                    "time_to_dense": f"{timing[key].ratio(timing['dense']):.4f}"
                    if case.dense
                    else "",
                    **environment(options.device),
                }
            )
    return rows


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print a table and append the rows to the CSV.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    torch.set_num_threads(options.threads)
    rows = []
    for name in CASES if options.case == "all" else [options.case]:
        rows += measure(name, options)
    shown = [
        *("case", "operation", "implementation", "compositions", "batch", "samples"),
        *("stored_mib", "peak_extra_mib", "ms_median", "time_to_dense"),
    ]
    print(tabulate([[row[key] for key in shown] for row in rows], headers=shown))
    append_rows(options.csv, rows)
