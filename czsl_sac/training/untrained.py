"""CLIP as it comes: on two lists of words without a data set, or scored on one; no training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import torch

from czsl_sac.data.names import refuse_read_alike
from czsl_sac.data.sources.text import read_text
from czsl_sac.evaluation import CZSLResult
from czsl_sac.evaluation.curve import Protocol
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.registry import method_class
from czsl_sac.methods.zero_shot.options import ZeroShotOptions
from czsl_sac.space import CompositionSpace
from czsl_sac.training.build import build_backbone, build_data, build_method, check_data_root
from czsl_sac.training.config import BackboneConfig, TrainConfig
from czsl_sac.training.feature_cache import cached
from czsl_sac.training.memory import fill_memory
from czsl_sac.training.open_world import OpenWorld, evaluate_split
from czsl_sac.training.session import Session


@dataclass(frozen=True)
class Untrained:
    """Zero-shot CLIP, ready to predict.

    Attributes:
        config: backbone, and the options of zero-shot CLIP.
        session: device and precision.
        method: over every attribute with every object.
    """

    config: TrainConfig
    session: Session
    method: CZSLMethod


def untrained(
    attributes: Sequence[str], objects: Sequence[str], *, backbone: str = "ViT-B/32"
) -> Untrained:
    """Return CLIP as it comes, over every attribute with every object.

    Args:
        attributes: their names.
        objects: their names.
        backbone: CLIP, see `load_backbone`.

    Raises:
        ValueError: there are no names, or two of them read alike.

    Examples:
        >>> clip = untrained(["red", "blue"], ["car", "star"], backbone="tiny")
        >>> len(clip.method.space)
        4
    """
    for name, words in (("attributes", attributes), ("objects", objects)):
        if not words:
            raise ValueError(f"{name} is empty but must name at least one: write one a line.")
    pairs = list(product(attributes, objects))
    refuse_read_alike(pairs, Path("the lists of words"))
    config = TrainConfig(
        backbone=BackboneConfig(backbone=backbone, train_backbone="none"), method=ZeroShotOptions()
    )
    session = Session.of(config)
    space = CompositionSpace(list(attributes), list(objects), pairs, pairs)
    clip = build_backbone(config.backbone, precision=session.precision)
    return Untrained(config, session, build_method(config, clip, space).to(session.device).eval())


def evaluate_untrained(
    config: TrainConfig,
    *,
    split: Literal["val", "test"] = "test",
    protocol: Protocol = "exact",
    open_world: OpenWorld | None = None,
) -> CZSLResult:
    """Score a method that needs no training on a data set, and keep no run of it.

    Args:
        config: data set, backbone and method; what is said of training is not read.
        split: `"val"` or `"test"`.
        protocol: `"exact"` or `"legacy"`.
        open_world: how to evaluate in the open world; None: the closed world.

    Returns:
        The figures that a run of the same configuration has.

    Raises:
        ValueError: the method has to be trained, or the data has a fault.
        FileNotFoundError: the data set or a file of weights is not there.

    Examples:
        >>> from czsl_sac import preset_for
        >>> config = preset_for("scenes", "zero-shot").with_options(eval_images_per_pair=1)
        >>> 0.0 < evaluate_untrained(config, split="val").auc < 1.0
        True
    """
    name = config.method.name
    if method_class(config.method).stages:
        raise ValueError(
            f"method is {name} but must be one that needs no training, such as "
            f"{ZeroShotOptions.name}: train it with czsl-sac train --method {name}, and evaluate "
            "the run."
        )
    check_data_root(config.data)
    session = Session.of(config)
    torch.manual_seed(config.seed)
    backbone = build_backbone(config.backbone, precision=session.precision)
    data = build_data(config.data, backbone)
    method = build_method(config, backbone, data.space).to(session.device).eval()
    data = cached(data, config, backbone, session)
    with session.together(), session.sharing_texts(backbone.text):
        fill_memory(method, lambda: data.split("train"), session)
    return evaluate_split(method, data, split, session, protocol=protocol, open_world=open_world)


def read_words(path: Path) -> list[str]:
    """Return the names in a text file, one a line; empty lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    return list(dict.fromkeys(line for line in lines if line))
