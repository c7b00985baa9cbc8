"""What a CLIP's tokens answer to: AUC by kind of token, pointing, who wins, the modality gap."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.data import Scenes
from czsl_sac.data.protocol import SplitName
from czsl_sac.data.scenes import SmallObjects
from czsl_sac.evaluation import CZSLEvaluator, ModalityGap, Pointing

KINDS = ("class", "tokens", "patches")
"""Which tokens meet the texts: the class token, the best of all, the best patch."""


@dataclass(frozen=True)
class Views:
    """A split of the scenes, drawn once, with the places of its objects.

    Attributes:
        data: the scenes.
        split: "train", "val" or "test".
        images: `[N, 3, H, W]`, normalised.
        targets: `[N]` int64, index into the pairs.
        masks: `[N, H, W]` bool, the labelled objects.
        small: the small objects.
    """

    data: Scenes
    split: SplitName
    images: Tensor
    targets: Tensor
    masks: Tensor
    small: SmallObjects

    @classmethod
    def draw(cls, data: Scenes, split: SplitName) -> "Views":
        """Draw a split.

        Args:
            data: the scenes.
            split: which of their images.
        """
        dataset = data.split(split)
        everything = range(len(dataset))
        images = torch.stack([image for image, _ in dataset.__getitems__(everything)])
        return cls(
            data,
            split,
            images,
            dataset.targets,
            dataset.masks(everything),
            dataset.small_objects(everything),
        )

    def batches(self, size: int) -> Iterator[slice]:
        """Yield the places of one batch after the other.

        Args:
            size: images of a batch.
        """
        for start in range(0, len(self.targets), size):
            yield slice(start, start + size)


@torch.inference_mode()
def measure_tokens(
    encode: Callable[[Tensor], Tensor], text: Tensor, views: Views, *, batch_size: int = 240
) -> dict[str, float]:
    """Measure tokens against the texts of all compositions.

    Args:
        encode: images `[B, 3, H, W]` to tokens `[B, T, D]`, class token first.
        text: features of all compositions, `[C, D]`, on the device to encode on.
        views: the images.
        batch_size: images encoded at once.

    Returns:
        By name: `auc_class`, `auc_tokens`, `auc_patches` (fractions); `wins`, share of the images
        in which the best of all tokens for the true composition is a patch; `point`, pointing
        accuracy of the best patch for the true composition, and `point_chance`; `small` and
        `small_chance`, the same for the small objects' compositions, NaN where no text names them;
        `rmg_class` and `rmg_patch`, the relative modality gap of the class token and of the best
        patch.
    """
    data, text = views.data, F.normalize(text, dim=-1)
    space, device = data.space, text.device
    candidates = data.candidates(views.split)
    evaluators = {kind: CZSLEvaluator(space, candidates=candidates) for kind in KINDS}
    gaps = {"class": ModalityGap(text), "patch": ModalityGap(text)}
    labelled, small, won = Pointing(), Pointing(), 0
    for batch in views.batches(batch_size):
        tokens = F.normalize(encode(views.images[batch].to(device)), dim=-1).float()
        targets = views.targets[batch].to(device)
        similarity = tokens @ text.T  # [B, T, C]
        scores = {
            "class": similarity[:, 0],
            "tokens": similarity.amax(1),
            "patches": similarity[:, 1:].amax(1),
        }
        for kind, evaluator in evaluators.items():
            evaluator.update(scores[kind].cpu(), views.targets[batch])
        of_patches = similarity[:, 1:]
        number = of_patches.shape[1]
        places = torch.arange(len(targets), device=device)
        best = of_patches[places, :, targets].argmax(1)
        labelled.update(best, views.masks[batch], patches=number)
        gaps["class"].update(tokens[:, 0], targets)
        gaps["patch"].update(tokens[places, 1 + best], targets)
        won += int((scores["patches"] > scores["class"])[places, targets].sum())
        compositions = views.small.compositions[batch]
        image, which = (compositions >= 0).nonzero(as_tuple=True)
        named = compositions[image, which].to(device)
        found = of_patches[image.to(device), :, named].argmax(1)
        small.update(found, views.small.masks[batch][image, which], patches=number)
    result = {f"auc_{kind}": evaluator.compute().auc for kind, evaluator in evaluators.items()}
    pointed = labelled.compute()
    result |= {"wins": won / len(views.targets)}
    result |= {"point": pointed.accuracy, "point_chance": pointed.chance}
    result |= {"small": float("nan"), "small_chance": float("nan")}
    if data.context == "labels":
        pointed = small.compute()
        result |= {"small": pointed.accuracy, "small_chance": pointed.chance}
    return result | {f"rmg_{kind}": gap.relative() for kind, gap in gaps.items()}


@torch.inference_mode()
def measure_clip(clip: CLIPBackbone, views: Views) -> dict[str, float]:
    """Measure a CLIP zero-shot, with "a photo of ATTRIBUTE OBJECT".

    Args:
        clip: on any device; left in evaluation mode.
        views: the images.

    Returns:
        What `measure_tokens` returns.
    """
    clip.eval()
    prompts = [f"a photo of {attribute} {obj}" for attribute, obj in views.data.space.pairs]
    text = clip.encode_text(clip.tokenizer(prompts).to(clip.logit_scale.device))
    return measure_tokens(clip.encode_image, text, views)
