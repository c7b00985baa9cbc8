"""CLIP as it comes on two lists of words: no data set, no training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from czsl_sac.data.names import refuse_read_alike
from czsl_sac.data.sources.text import read_text
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.zero_shot.options import ZeroShotOptions
from czsl_sac.space import CompositionSpace
from czsl_sac.training.build import build_backbone, build_method
from czsl_sac.training.config import BackboneConfig, TrainConfig
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


def read_words(path: Path) -> list[str]:
    """Return the names in a text file, one a line; empty lines are left out.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    return list(dict.fromkeys(line for line in lines if line))
