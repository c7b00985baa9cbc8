"""Image features of a frozen vision tower, on disk: encoded once, read in every epoch and run."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset, Subset

from czsl_sac.clip import CLIPBackbone
from czsl_sac.data import CZSLData, SplitName
from czsl_sac.files import save_json, save_tensors
from czsl_sac.space import CompositionSpace
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.session import Session

SHARD_BYTES = 2**28
"""Largest size of a file of features, 256 MiB."""


class FeatureCache:
    """A data set whose images are replaced by the tokens that a frozen vision tower gives them.

    A split is encoded when it is first asked for, in the order of its images, and written in
    files of at most `SHARD_BYTES`, each whole or not at all: an interrupted pass goes on where it
    stopped. The folder of a split is named by a checksum of all that decides the features:
    weights, precision, transform, and path, size and time of every image file; `about.json` says
    so in words. Files that are no longer wanted may be deleted at any time.

    Args:
        data: the data set; its splits have a `fingerprint`.
        folder: where the features go.
        backbone: on the session's device, with a vision tower of which nothing is trained.
        session: device, precision and processes, which share the work.
        class_token_alone: keep the class token alone, for methods that read no other.
        precision: names the precision of the weights in the checksum.

    Raises:
        ValueError: if something in the vision tower is trained.
    """

    def __init__(
        self,
        data: CZSLData,
        folder: Path,
        backbone: CLIPBackbone,
        session: Session,
        *,
        class_token_alone: bool,
        precision: str = "float32",
    ) -> None:
        if any(parameter.requires_grad for parameter in backbone.visual.parameters()):
            raise ValueError(
                "backbone has a vision tower that is trained but must be frozen, or its features "
                "change: call requires_grad_(False), or do without a feature cache."
            )
        self._data, self._folder = data, folder
        self._backbone, self._session = backbone, session
        self._class_token_alone = class_token_alone
        self._precision = f"weights {precision}, products {session.precision}"
        self._checksum = backbone.base_checksum

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self._data.name

    @property
    def space(self) -> CompositionSpace:
        """Its compositions."""
        return self._data.space

    def candidates(self, name: SplitName) -> Tensor:
        """Compositions that a prediction on a split may name, `[C]` bool."""
        return self._data.candidates(name)

    def split(self, name: SplitName, *, augment: bool = False) -> "CachedFeatures":
        """Return the items of a split, encoded now where they are not on disk yet.

        Args:
            name: which split.
            augment: must be False.

        Raises:
            ValueError: if `augment` is asked for: a distorted image has other features.
        """
        if augment:
            raise ValueError(
                "augment is True but a cache must hold the same images in every epoch: leave it "
                "False."
            )
        items = self._data.split(name)
        about = {
            "data": self.name,
            "split": name,
            "backbone": self._backbone.name,
            "weights": self._checksum,
            "precision": self._precision,
            "activation": self._backbone.config.activation,
            "patches": self._backbone.visual.patch_features,
            "tokens": "class" if self._class_token_alone else "all",
            "images": items.fingerprint(),  # type: ignore[attr-defined]
        }
        key = sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        folder = self._folder / f"{name}-{key}"
        tokens = 1 if self._class_token_alone else self._backbone.config.num_patches + 1
        per_shard = max(SHARD_BYTES // (4 * tokens * self._backbone.embed_dim), 1)
        self._encode(items, folder, per_shard)
        if self._session.is_main:
            save_json(folder / "about.json", about)
        self._session.wait()
        return CachedFeatures(folder, len(items), per_shard)  # type: ignore[arg-type]

    @torch.no_grad()
    def _encode(self, items: Dataset, folder: Path, per_shard: int) -> None:
        """Write the files that are missing; each process every n-th of them."""
        count = len(items)  # type: ignore[arg-type]
        shards = range(
            self._session.accelerator.process_index,
            -(-count // per_shard),
            self._session.accelerator.num_processes,
        )
        missing = [shard for shard in shards if not _shard_path(folder, shard).is_file()]
        for shard in self._session.bar(missing, "encoding images"):
            chosen = range(shard * per_shard, min((shard + 1) * per_shard, count))
            features, targets = [], []
            for images, labels in self._batches(Subset(items, list(chosen))):
                with self._session.autocast():
                    tokens = self._backbone.encode_image(images)
                features.append((tokens[:, :1] if self._class_token_alone else tokens).cpu())
                targets.append(labels)
            save_tensors(
                _shard_path(folder, shard),
                {"tokens": torch.cat(features), "targets": torch.cat(targets)},
            )

    def _batches(self, items: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in self._session.loader(items):
            yield images.to(self._session.device), targets


class CachedFeatures(Dataset[tuple[Tensor, int]]):
    """Items from files: (tokens `[T, D]`, or `[1, D]` of the class token alone; target).

    A file is mapped when it is first needed, and an item reads its own bytes alone.

    Args:
        folder: of the split.
        count: number of items.
        per_shard: items of a file.
    """

    def __init__(self, folder: Path, count: int, per_shard: int) -> None:
        self._folder, self._count, self._per_shard = folder, count, per_shard

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -self._count <= index < self._count:
            raise IndexError(f"index {index} is out of range for {self._count} items")
        shard, place = divmod(index % self._count, self._per_shard)
        # Opened for each item: a mapping costs microseconds, and worker processes share none.
        with safe_open(_shard_path(self._folder, shard), framework="pt") as file:
            tokens: Tensor = file.get_slice("tokens")[place]
            target = file.get_slice("targets")[place : place + 1]
        return tokens, int(target)


def cached(
    data: CZSLData, config: TrainConfig, backbone: CLIPBackbone, session: Session
) -> CZSLData:
    """Return the data set with its features cached, where the configuration asks for that.

    Args:
        data: the data set.
        config: the run.
        backbone: on the session's device.
        session: device, precision and processes.
    """
    if config.data.feature_cache is None:
        return data
    return FeatureCache(
        data,
        config.data.feature_cache,
        backbone,
        session,
        class_token_alone=config.method.reads == "class_token",
        precision=config.backbone.frozen_precision,
    )


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.safetensors"
