"""Sparse alignment bolted onto Troika: the paper's Tab. 6 on your machine, as measured.

    python examples/troika_plus_sa.py

trains Troika with and without sparse alignment on generated scenes, with a tiny CLIP, for several
seeds, in a few minutes on two cores. The real thing takes a GPU and the data set:

    python examples/troika_plus_sa.py --dataset mit-states --data-root DIR --backbone ViT-L/14
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
import tyro
from scipy import stats
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from czsl_sac import PatchMaxAligner, TrainConfig, Troika
from czsl_sac.data.scenes.scenes import Scenes
from czsl_sac.training.build import build_backbone
from czsl_sac.training.config import BackboneConfig
from czsl_sac.training.presets import preset_for
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder

# ---- The bolt ------------------------------------------------------------------------------------
# Troika looks at an image three times: at its class token v, and at what two disentanglers make of
# it. Each view meets its own texts t' (compositions, attributes, objects), 100 · ⟨v, t'⟩. With
# sparse alignment the views are those of all tokens, and each text takes the token that fits best.
# In this package that is `Troika(backbone, space, alignment="patch_max")`. In a Troika of your own:


def sparse_alignment(
    tokens: Tensor,  # [B, T, D], after ln_post and proj; was: the class token [B, D]
    disentanglers: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
    texts: tuple[Tensor, Tensor, Tensor],  # [B, C, D], [B, A, D], [B, O, D], as before
    temperature: float = 0.01,
) -> list[Tensor]:
    align = PatchMaxAligner(temperature)
    views = [tokens, *(disentangle(tokens) for disentangle in disentanglers)]
    return [
        align(view, text) for view, text in zip(views, texts, strict=True)
    ]  # was: 100 · ⟨v, t'⟩


# --------------------------------------------------------------------------------------------------

ALIGNMENTS: dict[str, Literal["cls", "patch_max"]] = {"w/o SA": "cls", "w/ SA": "patch_max"}
METRICS = {"S": "seen", "U": "unseen", "HM": "hm", "AUC": "auc"}
PAPER = {  # Tab. 6
    "UT-Zappos w/o SA": (66.8, 73.8, 54.6, 41.7),
    "UT-Zappos w/ SA": (70.0, 72.9, 55.2, 43.1),
    "C-GQA w/o SA": (41.0, 35.7, 29.4, 12.4),
    "C-GQA w/ SA": (41.9, 36.1, 30.7, 13.1),
}


@dataclass(frozen=True)
class Options:
    """Train Troika with and without sparse alignment and print the table."""

    dataset: Literal["scenes", "ut-zappos", "mit-states", "cgqa"] = "scenes"
    """Data set; scenes are generated."""
    data_root: Path | None = None
    """Folder of the data set; not used by scenes."""
    backbone: str | None = None
    """CLIP: "tiny", an OpenAI name or a .pt file; None takes the one of the data set's preset."""
    seeds: int = 3
    """Runs with seeds 0, 1, ... of either kind."""
    epochs: int | None = None
    """Epochs of a run; None takes Troika's own."""
    legacy: bool = False
    """Repeat two quirks of the published code: patches normalised once more per branch, and no
    dropout after the first epoch."""
    runs: Path | None = None
    """Folder that keeps the runs and continues those that are there; None keeps nothing."""


def main(argv: list[str] | None = None) -> None:
    """Run the comparison.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    print(f"The bolt is Troika's own alignment='patch_max' to {bolt_error():.0e}.\n")
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(options, options.runs or Path(temporary))
    print(f"\nTroika on {options.dataset}, {options.seeds} seeds, in %: mean ± standard deviation;")
    print("test split, best validation epoch, exact protocol.\n")
    print(table(results))


def configuration(
    options: Options, alignment: Literal["cls", "patch_max"], seed: int
) -> TrainConfig:
    """Return the configuration of one run."""
    preset = preset_for(options.dataset, "troika")
    data, optim = replace(preset.data, data_root=options.data_root), preset.optim
    if options.dataset == "scenes":  # a smaller budget than the preset's, for both alike
        data, optim = replace(data, images_per_pair=12), replace(optim, epochs=3)
    backbone = options.backbone or preset.backbone.backbone
    return replace(
        preset.with_options(
            alignment=alignment,
            legacy_patch_norm=options.legacy,
            legacy_eval_mode=options.legacy,
        ),
        data=data,
        backbone=replace(preset.backbone, backbone=backbone),
        optim=replace(optim, epochs=options.epochs or optim.epochs),
        seed=seed,
    )


def measure(options: Options, folder: Path) -> pd.DataFrame:
    """Train what is missing and return one row per run: columns row, seed and the metrics in %."""
    wanted = [(row, seed) for seed in range(options.seeds) for row in ALIGNMENTS]
    records = []
    for row, seed in tqdm(wanted, desc="runs"):
        config = configuration(options, ALIGNMENTS[row], seed)
        run_dir = folder / f"{options.dataset}-{ALIGNMENTS[row]}-{seed}"
        result = train(config, run_dir, resume=RunFolder(run_dir).holds_run).test
        tqdm.write(f"{row}, seed {seed}, test: {result}")
        percent = {name: 100 * getattr(result, field) for name, field in METRICS.items()}
        records.append({"row": row, "seed": seed, **percent})
    return pd.DataFrame(records)


def table(results: pd.DataFrame) -> str:
    """Return the measured rows, their paired difference, and the paper's own rows below."""
    rows = {row: results[results["row"] == row].set_index("seed") for row in ALIGNMENTS}
    lines = [
        [row, *(f"{frame[m].mean():.1f} ± {frame[m].std():.1f}" for m in METRICS)]
        for row, frame in rows.items()
    ]
    without, with_ = rows.values()
    lines.append(["difference", *(paired_difference(with_[m], without[m]) for m in METRICS)])
    lines += [[f"(paper: {name})", *map(str, values)] for name, values in PAPER.items()]
    note = (
        "difference: w/ SA minus w/o SA of the same seed, with its 95 % t-interval.\n"
        "(paper: ...): figures of the paper's Tab. 6, ViT-L/14; not measured here."
    )
    return f"{tabulate(lines, headers=['', *METRICS], tablefmt='github')}\n\n{note}"


def paired_difference(ours: pd.Series, theirs: pd.Series) -> str:
    """Return the mean difference of runs paired by seed, with its 95 % t-interval."""
    mean = (ours - theirs).mean()
    if len(ours) < 2:
        return f"{mean:+.1f}"
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


@torch.no_grad()
def bolt_error() -> float:
    """Return how far `sparse_alignment` is from `Troika(alignment="patch_max")` on a batch."""
    data = Scenes()
    backbone = build_backbone(BackboneConfig(train_backbone="adaptformer"))
    troika = Troika(backbone, data.space, alignment="patch_max").eval()
    images = torch.stack([data.split("val")[i][0] for i in range(4)])
    texts = troika.text_features(data.space.pair_indices)

    tokens = backbone.encode_image(images)
    patches = troika.traction.keys_values(troika.patch_norm(tokens))
    tracted = tuple(troika.traction(text, patches) for text in texts)
    by_hand = sparse_alignment(tokens, tuple(troika.disentanglers), tracted, backbone.temperature)
    own = troika.branch_logits(troika.encode(images), texts)
    return max(float((a - b).abs().max()) for a, b in zip(by_hand, own, strict=True))


if __name__ == "__main__":
    main()
