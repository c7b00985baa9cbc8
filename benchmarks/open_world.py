"""Open-world evaluation of SAC at the size of C-GQA: memory and time, against the plain way.

    python -m benchmarks open_world

278,362 compositions of the real pair lists (generated ones of the same sizes where these are
absent), 5,098 images, features of 768 dimensions made at random, one token an image. Fusion of
alignment, condenser and dynamic memory bank, fifty feasibility thresholds: all of SAC but for the
towers. The plain way holds the scores of all images and evaluates one threshold after the other,
each bias over the whole matrix, as the published evaluator does; it runs on a few images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from benchmarks.measure import MIB, RESULTS, FreshRun, append_rows, environment, fresh_run
from benchmarks.shared_data import SHARED
from czsl_sac import SAC
from czsl_sac.clip import CLIPBackbone, CLIPConfig
from czsl_sac.clip.sources.tiny import WordTokenizer
from czsl_sac.data import CZSLData
from czsl_sac.evaluation import mask_infeasible, threshold_grid
from czsl_sac.methods.sac.method import TextFeatures
from czsl_sac.methods.sac.predictor import EncodedImages, SACPredictor
from czsl_sac.space import CompositionSpace
from czsl_sac.training.open_world import OpenWorld, evaluate_open_world, open_world_feasibility
from czsl_sac.training.session import Session

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Options:
    """What is measured, and where it goes."""

    part: Literal["both", "subset", "whole"] = "both"
    """The two ways on a few images, the whole evaluation, or both."""
    images: int = 5_098
    """Images of the whole evaluation (C-GQA has 5,098 in its test split)."""
    subset: int = 16
    """Images on which both ways are compared."""
    batch_size: int = 128
    """Images per batch."""
    dim: int = 768
    """Size of a feature, D."""
    training_images: int = 26_920
    """Images that the memory bank starts from (C-GQA's training split)."""
    pairs: Path = SHARED / "splits/cgqa"
    """Folder of train_pairs.txt, val_pairs.txt and test_pairs.txt."""
    threads: int = 2
    """Threads of torch."""
    csv: Path = RESULTS / "open_world.csv"
    """File that the rows are appended to."""


class RandomFeatures(SAC):
    """SAC whose towers are replaced by features made at random.

    Args:
        space: the compositions of the data set.
        dim: D.
        training_images: how many the bank starts from.
    """

    def __init__(self, space: CompositionSpace, dim: int, training_images: int) -> None:
        torch.manual_seed(0)
        words = WordTokenizer(buckets=4_096, context_length=8)
        config = CLIPConfig(dim, 16, 16, 8, 1, 1, 8, words.vocab_size, 16, 1, 1)
        backbone = CLIPBackbone(config, words).requires_grad_(False)
        super().__init__(backbone, space, num_blocks=1, temperature=0.03)
        self.texts: dict[int, TextFeatures] = {}
        text = self.text_features(self.seen_pairs)
        self.memory = self.new_bank(text.composition)
        columns = torch.randint(len(self.seen_pairs), (training_images,))
        for labels in columns.split(1_024):
            features = noisy(text.composition[labels])
            self.memory.update(features, (features @ text.composition.T / 0.03).softmax(1))

    def text_features(self, pairs: Tensor) -> TextFeatures:
        """Return `random_text` of `pairs`, made once for each number of them."""
        if len(pairs) not in self.texts:
            self.texts[len(pairs)] = random_text(self.space, pairs, self.backbone.embed_dim)
        return self.texts[len(pairs)]

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> SACPredictor:
        """Return SAC's predictor, for which an image is a feature `[D]`."""
        return FeaturePredictor(self, space, stage)


class FeaturePredictor(SACPredictor):
    """SAC's predictor for images that are features already."""

    def encode(self, images: Tensor) -> EncodedImages:
        """Return features `[B, D]` as the one token of each image, and as its v_q."""
        return EncodedImages(images.unsqueeze(1), images)


class FeatureData:
    """A validation split of features near the text of their composition.

    Args:
        splits: pair lists of train, val and test.
        images: number of images.
        dim: D.
    """

    name = "features"

    def __init__(self, splits: dict[str, Pairs], images: int, dim: int) -> None:
        self.space = CompositionSpace.closed_world(**splits)
        self.images, self.dim, self.pairs = images, dim, splits["val"]

    def split(self, name: str, *, augment: bool = False) -> "Dataset[tuple[Tensor, int]]":
        """Return features and targets; every split holds the same."""
        torch.manual_seed(2)
        targets = self.space.indices(self.pairs)
        targets = targets[torch.randint(len(targets), (self.images,))]
        text = random_text(self.space, self.space.pair_indices, self.dim)
        return TensorDataset(noisy(text.composition[targets]), targets)

    def candidates(self, name: str) -> Tensor:
        """Return all compositions."""
        return torch.ones(len(self.space), dtype=torch.bool)


def random_text(space: CompositionSpace, pairs: Tensor, dim: int) -> TextFeatures:
    """Return a random unit vector per attribute and object, and for a pair their unit sum.

    Args:
        space: whose attributes and objects.
        pairs: attribute index and object index of each composition, `[C, 2]`.
        dim: D.
    """
    generator = torch.Generator().manual_seed(1)
    attributes, objects = (
        F.normalize(torch.randn(len(side), dim, generator=generator))
        for side in (space.attributes, space.objects)
    )
    composition = torch.empty(len(pairs), dim)
    for part, rows in zip(pairs.split(2**14), composition.split(2**14), strict=True):
        rows.copy_(F.normalize(attributes[part[:, 0]] + objects[part[:, 1]]))
    return TextFeatures(composition, attributes, objects)


def noisy(features: Tensor) -> Tensor:
    """Return unit vectors about as far from the given ones as an image is from its text."""
    noise = F.normalize(torch.randn_like(features))
    return F.normalize(features + 4.0 * noise)


def read_splits(folder: Path) -> tuple[dict[str, Pairs], str]:
    """Return the three pair lists and where they come from.

    Args:
        folder: of the lists; where it is absent, lists of C-GQA's sizes are generated.
    """
    names = ("train", "val", "test")
    if folder.is_dir():
        lists = {name: (folder / f"{name}_pairs.txt").read_text().splitlines() for name in names}
        return {
            name: [(line.split()[0], line.split()[1]) for line in lines if line.strip()]
            for name, lines in lists.items()
        }, "C-GQA"
    attributes, objects = [f"a{i}" for i in range(413)], [f"o{i}" for i in range(674)]
    everything = list(product(attributes, objects))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0)).tolist()
    # The diagonal names every attribute and every object.
    diagonal = [(attributes[i % 413], objects[i]) for i in range(674)]
    pairs = list(dict.fromkeys([*diagonal, *(everything[i] for i in order)]))
    seen, unseen = pairs[:5_592], pairs[5_592:]
    return {
        "train": seen,
        "val": seen[:1_252] + unseen[:1_040],
        "test": seen[:888] + unseen[1_040:1_963],
    }, "generated"


def prepare(way: str, options: Options) -> Callable[[], dict[str, float]]:
    """Build data and method, and return the evaluation to be measured.

    Args:
        way: `"chunks"`, this package's, or `"plain"`.
        options: sizes.
    """
    splits, _ = read_splits(options.pairs)
    data = FeatureData(splits, options.images, options.dim)
    method = RandomFeatures(data.space, options.dim, options.training_images)
    method.text_features(data.space.open_world().pair_indices)  # counts as input
    return lambda: WAYS[way](method, data, options)


def evaluate_in_chunks(method: SAC, data: CZSLData, options: Options) -> dict[str, float]:
    """Evaluate as `czsl-sac evaluate --world open --protocol legacy` does."""
    result = evaluate_open_world(
        method,
        data,
        "val",
        Session(batch_size=options.batch_size),
        OpenWorld(),
        protocol="legacy",
    )
    return {"auc": result.auc, "hm": result.hm, "threshold": result.threshold or 0.0}


@torch.no_grad()
def evaluate_plainly(method: SAC, data: CZSLData, options: Options) -> dict[str, float]:
    """Hold all scores, then evaluate one threshold after the other, one bias after the other."""
    space = data.space.open_world()
    feasibility = open_world_feasibility(method, space, OpenWorld())
    assert feasibility is not None
    predictor = method.eval().predictor(space)
    features, targets = data.split("val").tensors
    columns = space.indices(data.space.pairs)[targets]
    scores = torch.cat([predictor(batch) for batch in features.split(options.batch_size)])
    best = {"auc": -1.0}
    for threshold in threshold_grid(feasibility, space).tolist():
        masked = mask_infeasible(scores, feasibility, threshold, space.seen_mask)
        auc, hm = published_auc(masked, columns, space.seen_mask)
        if auc > best["auc"]:
            best = {"auc": auc, "hm": hm, "threshold": threshold}
    return best


def published_auc(scores: Tensor, targets: Tensor, seen: Tensor) -> tuple[float, float]:
    """Return AUC and HM by the arithmetic of the published evaluator, whole matrices at a time.

    Args:
        scores: `[N, C]`.
        targets: column of each label, `[N]`.
        seen: `[C]` bool.
    """
    is_seen = seen[targets]

    def hits(bias: float) -> Tensor:
        return torch.where(seen, scores, scores + bias).argmax(dim=1) == targets

    winners = hits(1e3) & ~is_seen
    best_seen = scores[:, seen].amax(dim=1)
    distances = (best_seen - scores.gather(1, targets[:, None])[:, 0] - 1e-4)[winners]
    distances = distances.sort().values
    biases = [*distances[:: max(len(distances) // 20, 1)].tolist(), 1e3]
    right = [hits(bias).float() for bias in biases]
    s = torch.tensor([float(hit[is_seen].mean()) for hit in right], dtype=torch.float64)
    u = torch.tensor([float(hit[~is_seen].mean()) for hit in right], dtype=torch.float64)
    return float(torch.trapezoid(s, u)), float((2 * s * u / (s + u).clamp_min(1e-12)).max())


WAYS = {"chunks": evaluate_in_chunks, "plain": evaluate_plainly}


def rows_of(options: Options) -> Iterator[dict[str, object]]:
    """Measure both ways on the subset, then the whole.

    Args:
        options: of the command line.

    Raises:
        RuntimeError: the two ways disagree.
    """
    splits, source = read_splits(options.pairs)
    compositions = len(CompositionSpace.closed_world(**splits).open_world())

    def row(way: str, sizes: Options, run: FreshRun, ratio: str) -> dict[str, object]:
        return {
            "way": way,
            "pairs": source,
            "images": sizes.images,
            "compositions": compositions,
            "dim": sizes.dim,
            "batch": sizes.batch_size,
            "training_images": sizes.training_images,
            "thresholds": 50,
            "seconds": f"{run.seconds:.1f}",
            "time_to_plain": ratio,
            "text_mib": f"{compositions * sizes.dim * 4 / MIB:.0f}",
            "peak_beyond_text_mib": f"{run.peak / MIB:.0f}",
            "score_matrix_mib": f"{sizes.images * compositions * 4 / MIB:.0f}",
            "auc": f"{run.result['auc']:.6f}",
            "threshold": f"{run.result['threshold']:.6f}",
            **environment(),
        }

    if options.part != "whole":
        subset = replace(options, images=options.subset)
        runs = {way: fresh_run(prepare, way=way, options=subset) for way in WAYS}
        chunks, plain = (runs[way].result for way in ("chunks", "plain"))
        if any(abs(chunks[name] - plain[name]) > 1e-6 for name in plain):
            raise RuntimeError(f"the two ways disagree: {chunks} and {plain}.")
        for way, run in runs.items():
            yield row(way, subset, run, f"{run.seconds / runs['plain'].seconds:.4f}")
    if options.part != "subset":
        yield row("chunks", options, fresh_run(prepare, way="chunks", options=options), "")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print a table and append the rows to the CSV.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    torch.set_num_threads(options.threads)
    rows = list(rows_of(options))
    shown = [
        *("way", "images", "compositions", "seconds", "time_to_plain", "text_mib"),
        *("peak_beyond_text_mib", "score_matrix_mib", "auc"),
    ]
    print(tabulate([[row[key] for key in shown] for row in rows], headers=shown))
    append_rows(options.csv, rows)
