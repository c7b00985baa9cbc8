"""Predictions of image files: compositions, and the attributes and objects they add up to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from czsl_sac.data.transforms import ImageReader, ImageTransform
from czsl_sac.methods.base import CZSLMethod, Predictor
from czsl_sac.predict.images import ImageFiles, collate
from czsl_sac.space import CompositionSpace, Pair
from czsl_sac.training.batches import reading_processes
from czsl_sac.training.by_device import loader_options
from czsl_sac.training.session import Session


class Ranked(NamedTuple):
    """A composition with its probability.

    Attributes:
        pair: attribute and object.
        probability: in [0, 1], over the candidates.
        seen: whether it had training images.
    """

    pair: Pair
    probability: float
    seen: bool


@dataclass(frozen=True)
class Prediction:
    """What a method says of one image, most probable first.

    Attributes:
        path: the image.
        compositions: the likeliest candidates.
        attributes: the likeliest attributes, each with the sum of its candidates' probabilities.
        objects: likewise objects.
    """

    path: Path
    compositions: tuple[Ranked, ...]
    attributes: tuple[tuple[str, float], ...]
    objects: tuple[tuple[str, float], ...]


class PredictedBatch(NamedTuple):
    """A batch of files, predicted.

    Attributes:
        paths: of the images.
        images: `[B, 3, H, W]`, normalised, on the method's device.
        scores: of the candidates, as an evaluator takes them, `[B, C]`, on the CPU.
        probabilities: over the candidates, `[B, C]`, on the CPU.
        unreadable: what is wrong with each file of this batch that is not among `paths`.
    """

    paths: list[Path]
    images: Tensor
    scores: Tensor
    probabilities: Tensor
    unreadable: list[str]


def predict_files(
    method: CZSLMethod,
    predictor: Predictor,
    paths: Sequence[Path],
    session: Session,
    *,
    batch_size: int,
    image_reader: ImageReader = "pil",
    show_progress: bool = True,
) -> Iterator[PredictedBatch]:
    """Predict image files batch by batch, in their order.

    Images are prepared as the run's test images are: the shorter side resized, the centre cropped
    to the backbone's size, its mean and deviation.

    Args:
        method: whose backbone decides the size of the images.
        predictor: the method's, over the candidates.
        paths: image files; those that cannot be read are reported in their batch.
        session: device, precision, and processes that read images.
        batch_size: files per batch.
        image_reader: who resizes, as in the run.
        show_progress: show a bar on stderr, if that is a terminal.

    Yields:
        One `PredictedBatch` per `batch_size` files.
    """
    backbone = method.backbone
    transform = ImageTransform(
        backbone.image_size, backbone.mean, backbone.std, reader=image_reader
    )
    workers = reading_processes(session.num_workers, batches=-(-len(paths) // batch_size))
    loader = DataLoader(
        ImageFiles(paths, transform),
        batch_size=batch_size,
        collate_fn=collate,
        **loader_options(session.device, workers),
    )
    hidden = None if show_progress else True
    with tqdm(
        total=len(paths), desc="predicting", unit="image", leave=False, disable=hidden
    ) as bar:
        for batch in loader:
            images = batch.images.to(session.device, non_blocking=True)
            scores = probabilities = torch.empty(0, len(predictor.space))
            if batch.paths:
                images = transform.finish(images)
                with session.autocast():
                    scores = predictor(images)
                probabilities = predictor.probabilities(scores).float().cpu()
            yield PredictedBatch(
                batch.paths, images, scores.float().cpu(), probabilities, batch.unreadable
            )
            bar.update(len(batch.paths) + len(batch.unreadable))


def marginals(probabilities: Tensor, space: CompositionSpace) -> tuple[Tensor, Tensor]:
    """Return p(a) = Σ_o p(a, o) and p(o) = Σ_a p(a, o), the sums being over the candidates.

    Args:
        probabilities: of the compositions of `space`, `[B, C]`.
        space: the candidates.

    Returns:
        `[B, A]` and `[B, O]`; 0 where no candidate holds the name.

    Examples:
        >>> space = CompositionSpace.closed_world([("ripe", "apple"), ("ripe", "fig")])
        >>> marginals(torch.tensor([[0.25, 0.75]]), space)
        (tensor([[1.]]), tensor([[0.2500, 0.7500]]))
    """
    attribute, object_ = (
        probabilities.new_zeros(probabilities.shape[0], len(names)).index_add(
            1, index, probabilities
        )
        for index, names in zip(
            space.pair_indices.unbind(1), (space.attributes, space.objects), strict=True
        )
    )
    return attribute, object_


def top_predictions(batch: PredictedBatch, space: CompositionSpace, k: int) -> list[Prediction]:
    """Return the k likeliest compositions, attributes and objects of each image.

    Args:
        batch: predicted files.
        space: the candidates; the columns of the probabilities.
        k: how many; fewer where there are fewer.
    """
    attributes, objects = marginals(batch.probabilities, space)
    seen = space.seen_mask.tolist()
    rows = zip(
        batch.paths,
        _top(batch.probabilities, k),
        _top(attributes, k),
        _top(objects, k),
        strict=True,
    )
    return [
        Prediction(
            path,
            tuple(Ranked(space.pairs[column], value, seen[column]) for column, value in pairs),
            tuple((space.attributes[index], value) for index, value in of_attributes),
            tuple((space.objects[index], value) for index, value in of_objects),
        )
        for path, pairs, of_attributes, of_objects in rows
    ]


def _top(values: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """Columns and values of the k greatest of each row, the first of equals first."""
    ordered = values.sort(dim=1, descending=True, stable=True)
    columns, best = ordered.indices[:, :k].tolist(), ordered.values[:, :k].tolist()
    return [list(zip(*row, strict=True)) for row in zip(columns, best, strict=True)]
