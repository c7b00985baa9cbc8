"""What frozen layers of the vision tower make of images, on disk: computed once for all epochs."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.data import Dataset, Subset

from czsl_sac.clip import CLIPBackbone, VisionTower
from czsl_sac.data import CZSLData, SplitName
from czsl_sac.files import save_json
from czsl_sac.space import CompositionSpace
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.feature_file import CachedFeatures, FeatureFile
from czsl_sac.training.session import Session


class FeatureCache:
    """A data set whose images are replaced by what the frozen vision tower gives them.

    These are tokens of the joint space; or, where upper layers of the tower learn, the states that
    enter the first of these, from which the backbone goes on (`VisionTower.first_block`).

    A split is encoded when it is first asked for, in the order of its images, into one file that is
    mapped into memory (see `FeatureFile`): an interrupted pass goes on where it stopped. What is
    there is compared with its checksums before it is used. The folder of a split is named by a
    checksum of all that decides the features: weights, precision, transform, and path, size and
    time of every image file; `about.json` says so in words. Folders that are no longer wanted may
    be deleted at any time.

    Args:
        data: the data set; its splits have a `fingerprint`.
        folder: where the features go.
        backbone: on the session's device.
        session: device, precision and processes, which share the work.
        class_token_alone: keep the class token alone, for methods that read no other; where upper
            layers learn, these read all tokens.
        first_trained_layer: of the vision tower; None: nothing of it is trained.
        precision: names the precision of the weights in the checksum.

    Raises:
        ValueError: something is trained in the part of the vision tower that must be frozen.
    """

    def __init__(
        self,
        data: CZSLData,
        folder: Path,
        backbone: CLIPBackbone,
        session: Session,
        *,
        class_token_alone: bool,
        first_trained_layer: int | None = None,
        precision: str = "float32",
    ) -> None:
        tower = backbone.visual
        layers = len(tower.transformer.resblocks)
        # Where the first layer learns nothing of the tower can be kept: all of it has to be frozen.
        first = (layers if first_trained_layer is None else first_trained_layer % layers) or layers
        if any(parameter.requires_grad for parameter in _below(tower, first)):
            raise ValueError(
                f"backbone has a vision tower that is trained below layer {first} but must be "
                "frozen there, or its features change: call requires_grad_(False), or do without a "
                "feature cache."
            )
        tower.first_block = first % layers
        self._data, self._folder = data, folder
        self._backbone, self._session = backbone, session
        self._class_token_alone = class_token_alone and not tower.first_block
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
            ValueError: `augment` is asked for, and a distorted image has other features; or a file
                is damaged.
        """
        if augment:
            raise ValueError(
                "augment is True but a cache must hold the same images in every epoch: leave it "
                "False."
            )
        items, first = self._data.split(name), self._backbone.visual.first_block
        tokens = "class" if self._class_token_alone else "all"
        about = {
            "data": self.name,
            "split": name,
            "backbone": self._backbone.name,
            "weights": self._checksum,
            "precision": self._precision,
            "activation": self._backbone.config.activation,
            "patches": self._backbone.visual.patch_features,
            "tokens": f"states before layer {first}" if first else tokens,
            "images": items.fingerprint(),  # type: ignore[attr-defined]
        }
        key = sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        shape = (
            1 if self._class_token_alone else self._backbone.config.num_patches + 1,
            self._backbone.config.vision_width if first else self._backbone.embed_dim,
        )
        folder = self._folder / f"{name}-{key}"
        file = FeatureFile(folder, len(items), shape)  # type: ignore[arg-type]
        if self._session.is_main:
            file.create()
        self._session.wait()
        self._encode(items, file)
        self._session.wait()
        if self._session.is_main:
            file.check()
            save_json(folder / "about.json", about)
        self._session.wait()
        return CachedFeatures(file)

    @torch.no_grad()
    def _encode(self, items: Dataset, file: FeatureFile) -> None:
        """Write the blocks that are missing; each process every n-th of them."""
        accelerator = self._session.accelerator
        missing = [*file.missing(accelerator.process_index, accelerator.num_processes)]
        for block in self._session.bar(missing, "encoding images"):
            features, targets = [], []
            for images, labels in self._session.loader(Subset(items, [*file.items(block)])):
                with self._session.autocast():
                    tokens = self._encoded(images)
                features.append((tokens[:, :1] if self._class_token_alone else tokens).float())
                targets.append(labels.cpu())
            file.write(block, torch.cat(features), torch.cat(targets))

    def _encoded(self, images: Tensor) -> Tensor:
        tower = self._backbone.visual
        if not tower.first_block:
            return self._backbone.encode_image(images)
        return tower.layer_states(images, [tower.first_block - 1])[0]


def _below(tower: VisionTower, layer: int) -> Iterator[Parameter]:
    """Yield the parameters of a tower that come before a layer; all, where it is past the last."""
    upper = tower.transformer.resblocks[layer:]
    last = [] if not len(upper) else [*upper.parameters(), *tower.ln_post.parameters(), tower.proj]
    after = {id(parameter) for parameter in last}
    return (parameter for parameter in tower.parameters() if id(parameter) not in after)


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
        first_trained_layer=config.backbone.first_trained_layer,
        precision=config.backbone.frozen_precision,
    )
