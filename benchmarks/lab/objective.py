"""The pretraining loss of a policy, on scenes drawn for the step."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.lab.policies import Captions, Policy, rise
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.data import Scenes
from czsl_sac.data.scenes.drawing import MAX_DISTRACTORS, scene_keys

TEMPLATES = ("a photo of", "a photo of", "a picture of", "an image of the", "a drawing of a")
STREAM = 3  # of the images' seed: beside the streams of the three splits
MIN_PIXELS = 24  # a small object that shows at fewer is not captioned
_MASKED = -1e4


class Captioned(NamedTuple):
    """A batch of images and the visible things of each.

    Attributes:
        images: `[B, 3, H, W]`, normalised.
        things: compositions, the large one first, `[B, 1 + K]` indices of pairs.
        visible: which of them show, `[B, 1 + K]` bool.
    """

    images: Tensor
    things: Tensor
    visible: Tensor


def pretraining_loss(
    model: CLIPBackbone, scenes: Scenes, policy: Policy, step: int, steps: int, batch: int
) -> Tensor:
    """Return the loss of one step; it depends on the weights and the step alone.

    Args:
        model: what is trained, on any device.
        scenes: where the images come from; drawn on that device.
        policy: captions, tokens, clutter and dropping.
        step: from 0.
        steps: of the whole training.
        batch: images.
    """
    generator = torch.Generator().manual_seed(step)
    progress = step / steps
    seen = scenes.space.seen_mask.nonzero().flatten()
    targets = seen[torch.randint(len(seen), (batch,), generator=generator)]
    clutter = policy.max_clutter(progress) * torch.rand(batch, generator=generator)
    template = TEMPLATES[int(torch.randint(len(TEMPLATES), (1,), generator=generator))]
    device = model.logit_scale.device
    scene = caption(scenes, step * batch, targets.to(device), clutter.to(device))

    torch.manual_seed(step)  # which patches are dropped
    model.visual.patch_drop = policy.drop_rate(progress)
    tokens = F.normalize(model.encode_image(scene.images), dim=-1)
    groups = []
    for captions, features in (
        (policy.class_captions, tokens[:, :1]),
        (policy.patch_captions, tokens[:, 1:]),
    ):
        if captions is not None:
            spoken = speak(scene, captions, progress, generator)
            groups += [(features, *group) for group in name_groups(scenes, scene, spoken)]
    words = list(dict.fromkeys(name for _, names, _ in groups for name in names))
    ids = model.tokenizer([f"{template} {name}" for name in words])
    texts = F.normalize(model.encode_text(ids.to(device)), dim=-1)
    scale, losses = model.logit_scale.exp(), []
    for features, names, positive in groups:
        text = texts[torch.tensor([words.index(name) for name in names], device=device)]
        losses.append(contrast(((scale * features) @ text.T).amax(1), positive))
    return torch.stack(losses).mean()


def caption(scenes: Scenes, start: int, targets: Tensor, clutter: Tensor) -> Captioned:
    """Draw a batch and say what shows in each image.

    Args:
        scenes: where the images come from.
        start: number of the first image in their stream.
        targets: compositions of the large objects, `[B]`.
        clutter: `[B]`.
    """
    indices = torch.arange(start, start + len(targets), device=targets.device)
    scene = scenes.draw(STREAM, indices, targets, clutter)
    small = scenes.distractors(scene_keys(scenes.seed, STREAM, indices), targets)
    numbers = torch.arange(2, 2 + MAX_DISTRACTORS, device=targets.device)[:, None]
    pixels = (scene.owners.flatten(1)[:, None] == numbers).sum(-1)
    return Captioned(
        scenes.normalise(scene.images),
        torch.cat([targets[:, None], small], 1),
        F.pad(pixels >= MIN_PIXELS, (1, 0), value=True),
    )


def speak(
    batch: Captioned, captions: Captions, progress: float, generator: torch.Generator
) -> Tensor:
    """Return which things the captions name, `[B, 1 + K]` bool.

    Args:
        batch: the images.
        captions: "salient", "any" or "all".
        progress: share of the steps that are done: "any" begins with the large object and comes
            to name every visible thing with the same probability.
        generator: of random choices, on the CPU.
    """
    if captions == "all":
        return batch.visible
    chosen = torch.zeros_like(batch.things[:, :1])
    if captions == "any":
        weights = torch.rand(batch.visible.shape, generator=generator).to(chosen.device)
        drawn = (weights * batch.visible).argmax(1, keepdim=True)
        dared = torch.rand(len(weights), 1, generator=generator) < rise(progress)
        chosen = torch.where(dared.to(chosen.device), drawn, chosen)
    return torch.zeros_like(batch.visible).scatter_(1, chosen, True)


def name_groups(scenes: Scenes, batch: Captioned, spoken: Tensor) -> list[tuple[list[str], Tensor]]:
    """Return the captions of compositions, of attributes and of objects that stand in the batch.

    Args:
        scenes: whose compositions they are.
        batch: the images.
        spoken: which things are named, `[B, 1 + K]` bool.

    Returns:
        For each group its distinct names, P of them, and which images each is true of, `[B, P]`.
    """
    space = scenes.space
    primitives = space.pair_indices.to(batch.things.device)[batch.things]
    groups = []
    for names, things in (
        ([f"{a} {o}" for a, o in space.pairs], batch.things),
        (list(space.attributes), primitives[..., 0]),
        (list(space.objects), primitives[..., 1]),
    ):
        count = spoken.new_zeros(len(spoken), len(names), dtype=torch.int64)
        positive = count.scatter_add_(1, things, spoken.long()) > 0
        distinct = positive.any(0).nonzero().flatten()
        groups.append(([names[i] for i in distinct.tolist()], positive[:, distinct]))
    return groups


def contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the symmetric InfoNCE of images that may have several captions.

    Each caption of an image competes with the captions of others alone, not with the image's own.
    All images of a caption are its positives and share its probability.

    Args:
        logits: similarities over τ, `[B, P]`.
        positive: which caption is true of which image, `[B, P]` bool; each has one at least.
    """
    others = logits.masked_fill(positive, _MASKED).logsumexp(1, keepdim=True)
    of_images = F.softplus(others - logits)
    of_texts = -logits.log_softmax(0)
    positive = positive.to(logits.dtype)
    images = ((of_images * positive).sum(1) / positive.sum(1)).mean()
    texts = ((of_texts * positive).sum(0) / positive.sum(0)).mean()
    return (images + texts) / 2
