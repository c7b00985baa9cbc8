"""A training step of every method at C-GQA's size, counted on shapes: memory and trained weights.

    python -m benchmarks method_memory
    python -m benchmarks method_memory --methods caila --checkpoint-vision

ViT-L/14 in float32, with what each method's preset trains of it; 16 images and the class token
unless asked for otherwise. Nothing is computed: tensors have a shape and no values. The making of
PLID's views, which is no part of the gradient, is left out: shapes of crops depend on values.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from benchmarks.count_memory import FakeFloats, peak_of_step
from benchmarks.measure import RESULTS, append_rows, environment
from benchmarks.train_step import CASES, make_space, random_clip
from czsl_sac.methods.registry import method_class, method_names
from czsl_sac.training.build import adapt_backbone
from czsl_sac.training.presets import preset_for


@dataclass(frozen=True)
class Options:
    """Which methods, and how."""

    methods: tuple[str, ...] = ()
    """Methods to count; none named: all that are trained."""
    batch_size: int = 16
    """Images of a step."""
    alignment: str = "cls"
    """Alignment of each method."""
    checkpoint_vision: bool = False
    """Recompute the vision tower's blocks in the backward pass."""
    csv: Path = RESULTS / "method_memory.csv"
    """Counted rows."""


def main(argv: list[str] | None = None) -> None:
    """Count, append the rows and print the table.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    rows = []
    for name in options.methods or method_names():
        if not method_class(preset_for("cgqa", name).method).stages:
            continue
        peak, trained = count(name, options)
        rows.append([name, f"{peak / 2**30:.1f}", f"{trained / 1e6:.1f}"])
        print(f"{name}: {rows[-1][1]} GiB, {rows[-1][2]} M trained", flush=True)
        append_rows(
            options.csv,
            [
                {
                    **environment(),
                    "method": name,
                    "alignment": options.alignment,
                    "batch": options.batch_size,
                    "checkpoint_vision": options.checkpoint_vision,
                    "peak_gib": round(peak / 2**30, 2),
                    "trained": trained,
                }
            ],
        )
    headers = ["method", "peak, GiB", "trained weights, M"]
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def count(name: str, options: Options) -> tuple[int, int]:
    """Return the most bytes alive during a step, and the number of trained weights.

    Args:
        name: of the method.
        options: of the command line.
    """
    config = preset_for("cgqa", name).with_options(alignment=options.alignment)
    own = replace(
        config.backbone,
        checkpoint_vision=options.checkpoint_vision,
        frozen_precision="float32",
        text_chunk_size=256,
    )
    backbone = adapt_backbone(deepcopy(random_clip()), own)
    model = method_class(config.method).build(config.method, backbone, make_space(CASES["cgqa"]))
    model.train_stage(model.stages[0])
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    mode = FakeFloats()
    mode.fake_module(model)
    with mode, patch("czsl_sac.methods.plid.method.augmented_views", _views):
        images = torch.empty(options.batch_size, 3, 224, 224)
        targets = torch.arange(options.batch_size)
        peak = peak_of_step(
            model, lambda: model(images, targets, model.stages[0])["total"], [images, targets]
        )
    return peak, trained


def _views(images: Tensor, backbone: object, count: int) -> Tensor:
    """Return views of images without making them, `[B, V, 3, H, W]`."""
    return images.new_empty(len(images), count, *images.shape[1:])


if __name__ == "__main__":
    main()
