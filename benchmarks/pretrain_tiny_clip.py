"""Pretrain a tiny CLIP on captions of generated scenes.

    python -m benchmarks pretrain_tiny_clip --steps 1500 --out tiny_clip.safetensors

Each step draws fresh scenes of seen compositions and contrasts the class token with three
captions: "a photo of red car", "a photo of red", "a photo of car" (sometimes with another
opening). The scenes hold less clutter than the data set's own, as images of the web are plainer
than those of a task. `--policy` chooses other captions and tokens (`benchmarks/lab/policies.py`).
Unseen compositions of split seed 0 occur in no caption and in no image, and the images come from
seeds that the data set does not use by default. Progress is saved as it goes; the same command
continues after an interruption and ends in the same weights. The shipped weights took 1,500 steps
and 17 minutes on one core.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.lab.objective import pretraining_loss
from benchmarks.lab.policies import POLICIES
from czsl_sac.checks import check_choice
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.sources.tiny import tiny_clip
from czsl_sac.data import Scenes
from czsl_sac.data.protocol import SplitName
from czsl_sac.files import save_tensors, write_atomically

IMAGE_SEED = 1_000_003  # far from the data set's own seeds 0, 1, 2, ...
WARMUP = 200
MAX_LOGIT_SCALE = math.log(30)  # a sharper τ overfits when fine-tuned on few images


@dataclass(frozen=True)
class Options:
    """How to pretrain, and where the weights go."""

    out: Path
    """Safetensors file to write."""
    policy: str = "salient"
    """What captions speak of and which tokens they meet: a name of benchmarks/lab/policies.py."""
    steps: int = 1500
    """Optimisation steps."""
    batch: int = 64
    """Images of a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    seed: int = 0
    """Seed of the weights and the images."""
    state: Path | None = None
    """Resumable state; None: OUT + .state."""
    save_every: int = 250
    """Steps between two saves."""
    threads: int = 1
    """Processor threads."""
    device: str = "cpu"
    """Where to draw and train: cpu or cuda."""
    quiet: bool = False
    """Leave out the zero-shot accuracies."""
    test: bool = False
    """Report the test split at the end."""

    def settings(self) -> dict[str, str]:
        """Return what decides the weights, as text."""
        own = {key: str(getattr(self, key)) for key in ("steps", "batch", "lr", "seed", "policy")}
        return {**own, **POLICIES[self.policy].describe()}


@torch.inference_mode()
def zero_shot(model: CLIPBackbone, scenes: Scenes, split: SplitName) -> dict[str, float]:
    """Return zero-shot accuracies of the class token, in percent, with "a photo of ...".

    Pairs are told among the closed world's candidates, without a bias for unseen ones.

    Args:
        model: on any device.
        scenes: whose images.
        split: which of them.
    """
    model.eval()
    space, device = scenes.space, model.logit_scale.device

    def encode(names: list[str]) -> Tensor:
        ids = model.tokenizer([f"a photo of {name}" for name in names])
        return F.normalize(model.encode_text(ids.to(device)), dim=-1).cpu()

    attributes, objects = encode(list(space.attributes)), encode(list(space.objects))
    pairs = encode([f"{attribute} {obj}" for attribute, obj in space.pairs])
    excluded = ~scenes.candidates(split)
    hits = []
    for images, targets in DataLoader(scenes.split(split), batch_size=128):
        features = F.normalize(model.encode_image(images.to(device))[:, 0], dim=-1).cpu()
        truth = space.pair_indices[targets]
        hit = torch.stack(
            [
                (features @ attributes.T).argmax(1) == truth[:, 0],
                (features @ objects.T).argmax(1) == truth[:, 1],
                (features @ pairs.T).masked_fill(excluded, -1).argmax(1) == targets,
                space.seen_mask[targets],
            ],
            1,
        )
        hits.append(hit)
    attribute, obj, pair, seen = torch.cat(hits).double().unbind(1)
    return {
        "attribute": 100 * float(attribute.mean()),
        "object": 100 * float(obj.mean()),
        "seen pair": 100 * float(pair[seen == 1].mean()),
        "unseen pair": 100 * float(pair[seen == 0].mean()),
    }


def report(model: CLIPBackbone, scenes: Scenes, split: SplitName) -> str:
    """Return one line with the zero-shot accuracies and the temperature.

    Args:
        model: on any device.
        scenes: whose images.
        split: which of them.
    """
    figures = zero_shot(model, scenes, split).items()
    accuracies = ", ".join(f"{name} {value:.1f} %" for name, value in figures)
    return f"{split} at clutter {scenes.clutter}: {accuracies}; 1/τ {1 / model.temperature:.1f}"


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Save the weights in half precision, with how they were made.

    Args:
        model: whose weights.
        path: safetensors file.
        metadata: text by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().cpu() for name, tensor in model.state_dict().items()}
    save_tensors(path, weights, metadata)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to zero.

    Args:
        step: from 0.
        steps: of the whole training.
        peak: largest rate.
    """
    warmup = min(1.0, (step + 1) / WARMUP)
    return peak * warmup * (1 + math.cos(math.pi * step / steps)) / 2


def make_optimizer(model: CLIPBackbone) -> torch.optim.Optimizer:
    """Return AdamW whose decay acts on matrices only, as in CLIP.

    Args:
        model: what is trained.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def pretrain(options: Options) -> CLIPBackbone:
    """Pretrain from the last saved step, or from the start.

    Args:
        options: of the command line.

    Returns:
        The model, on the device.

    Raises:
        SystemExit: the state on disk was made with other options.
    """
    check_choice("policy", options.policy, POLICIES)
    torch.manual_seed(options.seed)
    model = tiny_clip(None).to(options.device).train()
    optimizer = make_optimizer(model)
    scenes, validation = Scenes(seed=IMAGE_SEED + options.seed), Scenes()
    settings, policy = options.settings(), POLICIES[options.policy]
    path = options.state or options.out.with_name(options.out.name + ".state")
    start, seconds = 0, 0.0
    if path.is_file():
        state = torch.load(path, weights_only=True, map_location=options.device)
        if state["settings"] != settings:
            raise SystemExit(
                f"{path} was made with {state['settings']}, not {settings}: remove it or "
                "give another --state"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]

    bar = tqdm(range(start, options.steps), initial=start, total=options.steps, mininterval=5)
    begun = time.perf_counter()
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.lr)
        loss = pretraining_loss(model, scenes, policy, step, options.steps, options.batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        done = step + 1
        if done % options.save_every == 0 or done == options.steps:
            spent = seconds + time.perf_counter() - begun
            line = f"step {done}, {spent / 60:.1f} min, loss {loss.item():.3f}"
            if not options.quiet:
                line += f": {report(model, validation, 'val')}"
                model.train()
            tqdm.write(line)
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": done,
                "seconds": spent,
                "settings": settings,
            }
            save_weights(model, options.out, {**settings, "step": str(done)})
            write_atomically(path, partial(torch.save, state))
    return model


def main(argv: list[str] | None = None) -> None:
    """Pretrain and print the zero-shot accuracies.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv, description=__doc__)
    torch.set_num_threads(options.threads)
    if options.device != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32
    pretrain(options)
    if options.quiet:
        return
    model = tiny_clip(options.out)  # as shipped, in half precision
    for clutter in (0.25, 0.5, 0.75, 1.0):
        print(report(model, Scenes(clutter=clutter), "val"))
    if options.test:
        print(report(model, Scenes(), "test"))
