"""The evaluator against the published class, at the sizes of the benchmarks' test splits.

    python -m benchmarks evaluator --peer TROIKA/code/test.py

The peer is the class `Evaluator` that CSP, DFSP and Troika share; no line of it is here: `--peer`
names a file that holds it. Scores are random, the true composition's raised, on a space of as many
compositions. Both get the same scores; the `legacy` protocol repeats the peer's figures.
"""

import ast
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.stats
import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from benchmarks.measure import RESULTS, append_rows, environment, interleaved
from czsl_sac import CompositionSpace, CZSLEvaluator
from czsl_sac.data.counts import TAB7_COUNTS


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        peer: a Python file with the published class; None measures this package's alone.
        sizes: data sets whose test split is imitated.
        threads: numbers of threads.
        rounds: timed turns.
        csv: where rows are appended.
    """

    peer: Path | None = None
    sizes: list[str] = field(default_factory=lambda: ["mit-states", "cgqa"])
    threads: list[int] = field(default_factory=lambda: [1, 2])
    rounds: int = 3
    csv: Path = RESULTS / "evaluator.csv"


@dataclass(frozen=True)
class Case:
    """A split: its space, scores `[B, C]` and targets `[B]`."""

    space: CompositionSpace
    scores: Tensor
    targets: Tensor


def main(argv: list[str] | None = None) -> None:
    """Measure every size and number of threads, print the rows, and append them to the CSV."""
    options = tyro.cli(Options, args=argv, prog="python -m benchmarks evaluator")
    evaluators: dict[str, Callable[[Case], float]] = {"ours": ours}
    if options.peer is not None:
        evaluators["published"] = partial(theirs, published_class(options.peer))
    rows: list[dict[str, object]] = []
    for size in options.sizes:
        case = imitate(size)
        results: dict[str, float] = {}
        calls = {
            f"{who}, {threads}": partial(evaluate, evaluators[who], case, threads, results, who)
            for threads in options.threads
            for who in evaluators
        }
        timings = interleaved(calls, rounds=options.rounds, warmup=0, label=size)
        for name, timing in timings.items():
            who, threads = name.split(", ")
            peer = timings.get(f"published, {threads}", timing)
            rows.append(
                {
                    "size": size,
                    "evaluator": who,
                    "threads_used": int(threads),
                    "seconds": round(timing.median, 3),
                    "published_by_this": round(1 / timing.ratio(peer), 1),
                    "auc": round(results[who], 6),
                    "images": len(case.targets),
                    "compositions": len(case.space),
                    "rounds": options.rounds,
                    **environment("cpu"),
                }
            )
    print(tabulate([list(row.values())[:6] for row in rows], headers=[*rows[0]][:6]))
    append_rows(options.csv, rows)


def imitate(name: str) -> Case:
    """Return random scores of a split as large as the test split of a data set (Tab. 7)."""
    count = TAB7_COUNTS[name]
    seen, unseen = count["seen pairs"], count["test unseen pairs"]
    attributes = [f"a{number}" for number in range(count["attributes"])]
    objects = [f"o{number}" for number in range(count["objects"])]
    pairs = list(islice(product(attributes, objects), seen + unseen))
    space = CompositionSpace.closed_world(pairs[:seen], pairs)
    drawn = torch.Generator().manual_seed(0)
    shape = (count["test images"], len(pairs))
    scores = torch.randn(shape, generator=drawn)
    targets = torch.randint(len(pairs), shape[:1], generator=drawn)
    scores[torch.arange(len(targets)), targets] += 3
    return Case(space, scores, targets)


def evaluate(
    evaluator: Callable[[Case], float],
    case: Case,
    threads: int,
    results: dict[str, float],
    name: str,
) -> None:
    """Evaluate with a number of threads, and keep the AUC."""
    torch.set_num_threads(threads)
    results[name] = evaluator(case)


def ours(case: Case) -> float:
    """Evaluate in batches of 64 images, as a run does."""
    evaluator = CZSLEvaluator(case.space, protocol="legacy")
    for scores, targets in zip(case.scores.split(64), case.targets.split(64), strict=True):
        evaluator.update(scores, targets)
    return evaluator.compute().auc


def published_class(path: Path) -> Any:
    """Return the class `Evaluator` of a file, without running the rest of it."""
    if not hasattr(np, "trapz"):  # NumPy 2.4 has no other name for it
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Evaluator"
    ]
    names = {"np": np, "torch": torch, "hmean": scipy.stats.hmean, "device": "cpu"}
    exec(compile(tree, str(path), "exec"), names)
    return names["Evaluator"]


def theirs(published: Any, case: Case) -> float:
    """Evaluate as the published scripts do: a dictionary of columns, then the class's two calls."""
    space = case.space
    pairs, seen = list(space.pairs), space.seen_mask.tolist()
    train = [pair for pair, is_seen in zip(pairs, seen, strict=True) if is_seen]
    data = SimpleNamespace(
        attrs=list(space.attributes),
        objs=list(space.objects),
        attr2idx={name: place for place, name in enumerate(space.attributes)},
        obj2idx={name: place for place, name in enumerate(space.objects)},
        pairs=pairs,
        pair2idx={pair: place for place, pair in enumerate(pairs)},
        train_pairs=train,
        val_pairs=[],
        test_pairs=pairs,
        phase="test",
        open_world=False,
    )
    attributes, objects = space.pair_indices[case.targets].unbind(1)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = published(data, None)
    columns = {pair: case.scores[:, place] for place, pair in enumerate(pairs)}
    found = evaluator.score_model(columns, objects, bias=1e3, topk=1)
    stats = evaluator.evaluate_predictions(
        found, attributes, objects, case.targets, columns, topk=1
    )
    return float(stats["AUC"])


if __name__ == "__main__":
    main()
