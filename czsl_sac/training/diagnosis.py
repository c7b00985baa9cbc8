"""What the tokens of a CLIP answer to on a data set, before anything is trained."""

from collections.abc import Sized
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Subset

from czsl_sac.data.protocol import HasMasks, SplitName
from czsl_sac.evaluation import TokenAnswers, TokenMeter
from czsl_sac.methods.zero_shot.options import ZeroShotOptions
from czsl_sac.training.build import build_backbone, build_data, build_method
from czsl_sac.training.config import BackboneConfig, DataConfig, OptimConfig, TrainConfig
from czsl_sac.training.scoring import split_candidates
from czsl_sac.training.session import Session


@torch.no_grad()
def diagnose(
    data: DataConfig,
    backbone: BackboneConfig,
    *,
    split: SplitName = "val",
    images: int | None = None,
    template: str = "a photo of",
    batch_size: int = 64,
) -> TokenAnswers:
    """Measure class token, all tokens and patches alone against the texts, zero-shot.

    Args:
        data: which images.
        backbone: which CLIP; nothing of it is trained.
        split: `"val"`, `"test"` or `"train"`.
        images: how many to look at, drawn at random, the same in every call; None: all.
        template: words before the attribute.
        batch_size: images encoded at once.

    Returns:
        AUC by kind of token, how often a patch wins, the modality gap, and where the data set
        knows where its objects are, pointing accuracy.

    Raises:
        ValueError: an option does not fit, or the images are of seen compositions alone.
        FileNotFoundError: the data set is not there.
    """
    config = TrainConfig(
        data,
        backbone,
        ZeroShotOptions(alignment="patch_max", template=template),
        OptimConfig(eval_batch_size=batch_size),
    )
    session = Session.of(config)
    clip = build_backbone(backbone)
    collection = build_data(data, clip)
    method = build_method(config, clip, collection.space).to(session.device).eval()
    space, position = split_candidates(collection, split)
    predictor = method.predictor(space)
    text = predictor.gap_text
    assert text is not None  # zero-shot CLIP has one text a composition
    meter = TokenMeter(text, space)
    dataset = collection.split(split)
    order = torch.randperm(len(cast(Sized, dataset)), generator=torch.Generator().manual_seed(0))
    chosen = order[:images].sort().values.tolist()
    start = 0
    for batch, targets in session.batches(Subset(dataset, chosen), f"diagnosing {split}"):
        places = chosen[start : start + len(targets)]
        start += len(targets)
        columns = position[targets.cpu()].to(session.device)
        tokens: Tensor = predictor.compared(predictor.encode(batch), columns)[0]
        masks = dataset.masks(places) if isinstance(dataset, HasMasks) else None
        meter.update(tokens, columns, masks)
    return meter.compute()
