"""What a CLIP's tokens answer to: AUC by kind of token, pointing, who wins, the modality gap."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.vision import PatchFeatures
from czsl_sac.data import Scenes
from czsl_sac.data.protocol import SplitName
from czsl_sac.data.scenes import SmallObjects
from czsl_sac.evaluation import Pointing, TokenMeter


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
        Fractions by name: `auc_class_token`, `auc_tokens`, `auc_patches`, by the tokens that meet
        the texts; `wins`, share of the images in which the best of all tokens for the true
        composition is a patch; `point`, pointing accuracy of the best patch for the true
        composition, and `point_chance`; `small` and `small_chance`, the same for the small
        objects' compositions, NaN where no text names them; `rmg_class_token` and `rmg_patches`,
        the relative modality gap of the class token and of the best patch.
    """
    device = text.device
    meter = TokenMeter(text, views.data.space, candidates=views.data.candidates(views.split))
    small = Pointing()
    for batch in views.batches(batch_size):
        tokens = F.normalize(encode(views.images[batch].to(device)), dim=-1)
        meter.update(tokens, views.targets[batch], views.masks[batch])
        compositions = views.small.compositions[batch]
        image, which = (compositions >= 0).nonzero(as_tuple=True)
        patches = tokens[image.to(device), 1:]
        named = meter.text[compositions[image, which].to(device)]
        best = (patches @ named[..., None])[..., 0].argmax(1)
        small.update(best, views.small.masks[batch][image, which], patches=patches.shape[1])
    answers = meter.compute()
    result = {f"auc_{kind}": value for kind, value in answers.auc.items()}
    result |= {f"rmg_{kind}": value for kind, value in answers.modality_gap.items()}
    result["wins"] = answers.patch_wins
    named_small = small.compute() if views.data.context == "labels" else None
    for name, pointing in (("point", answers.pointing), ("small", named_small)):
        result[name] = pointing.accuracy if pointing else float("nan")
        result[f"{name}_chance"] = pointing.chance if pointing else float("nan")
    return result


@torch.inference_mode()
def measure_clip(
    clip: CLIPBackbone, views: Views, *, patch_features: PatchFeatures = "last"
) -> dict[str, float]:
    """Measure a CLIP zero-shot, with "a photo of ATTRIBUTE OBJECT".

    Args:
        clip: on any device; left in evaluation mode, with these patch features.
        views: the images.
        patch_features: what patches are, see `VisionTower`.

    Returns:
        What `measure_tokens` returns.
    """
    clip.eval()
    clip.visual.patch_features = patch_features
    prompts = [f"a photo of {attribute} {obj}" for attribute, obj in views.data.space.pairs]
    text = clip.encode_text(clip.tokenizer(prompts).to(clip.logit_scale.device))
    return measure_tokens(clip.encode_image, text, views)
