"""`czsl-sac diagnose`: do the patches of a CLIP answer to the texts of a data set?"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from czsl_sac.checks import check_range
from czsl_sac.cli.options import parse_options
from czsl_sac.training.config import BackboneConfig, DataConfig

if TYPE_CHECKING:
    from czsl_sac.evaluation import TokenAnswers


@dataclass(frozen=True)
class DiagnoseOptions:
    """Measure, zero-shot and in minutes, what the tokens of a CLIP answer to on your images.

    AUC by the class token, by the best of all tokens and by patches alone; how often a patch wins;
    and for the generated scenes, whose objects' places are known, whether the best patch lies on
    the object. docs/laboratory.md says what to make of it.
    """

    data: tyro.conf.Positional[str]
    """Folder in the standard layout, CSV or Parquet table, or scenes."""
    backbone: str | None = None
    """CLIP, as for train; None: ViT-L/14, for scenes the built-in one."""
    patch_features: Literal["last", "value"] = "last"
    """Patches as the last layer gives them, or its value features, as for train."""
    split: Literal["val", "test", "train"] = "val"
    """Images of this split."""
    images: int | None = None
    """How many of them, drawn at random, the same in every call; None: all."""
    template: str = "a photo of"
    """Words before the attribute."""
    clutter: float = 0.75
    """Scenes: share of the image that the label does not speak of, 0 to 1."""
    context: Literal["labels", "foreign"] = "labels"
    """Scenes: where the small objects' shapes come from."""
    batch_size: int = 64
    """Images encoded at once."""
    num_workers: int | None = None
    """Processes that read images."""
    json: Path | None = None
    """File to write the figures to."""

    def __post_init__(self) -> None:
        check_range("images", self.images, low=2)
        check_range("batch_size", self.batch_size, low=1)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(DiagnoseOptions, "diagnose", arguments)
    of_scenes = options.data == "scenes"
    data = DataConfig(num_workers=options.num_workers)
    if of_scenes:
        data = replace(data, clutter=options.clutter, context=options.context)
    else:
        data = replace(data, dataset="files", data_root=Path(options.data))
    name = options.backbone or ("tiny" if of_scenes else "ViT-L/14")

    from czsl_sac.files import save_json  # these load torch
    from czsl_sac.training.diagnosis import diagnose

    answers = diagnose(
        data,
        BackboneConfig(backbone=name, train_backbone="none", patch_features=options.patch_features),
        split=options.split,
        images=options.images,
        template=options.template,
        batch_size=options.batch_size,
    )
    print(answers_table(answers, f"{name} on {options.data}, {options.split} split, zero-shot"))
    if options.json is not None:
        save_json(options.json, asdict(answers))
    return 0


def answers_table(answers: "TokenAnswers", heading: str) -> str:
    """Return the figures in percent, with a sentence on each."""
    from tabulate import tabulate

    names = {"class_token": "class token", "tokens": "all tokens", "patches": "patches alone"}
    rows = [(names[kind], f"{100 * value:.2f}") for kind, value in answers.auc.items()]
    gap = answers.modality_gap
    lines = [
        f"{heading}, {answers.images} images, in percent:",
        "",
        tabulate(rows, ("texts meet", "AUC"), colalign=("left", "right"), disable_numparse=True),
        "",
        f"The best of all tokens for the true composition is a patch in "
        f"{100 * answers.patch_wins:.1f} % of the images.",
        f"Relative modality gap: class token {gap['class_token']:.4f}, best patch "
        f"{gap['patches']:.4f}.",
    ]
    pointing = answers.pointing
    if pointing is None:
        lines.append("Where the objects are is not known, so that pointing cannot be measured.")
    else:
        lines.append(
            f"The best patch lies on the object in {100 * pointing.accuracy:.1f} % of the images; "
            f"a random one would in {100 * pointing.chance:.1f} %."
        )
    return "\n".join(lines)
