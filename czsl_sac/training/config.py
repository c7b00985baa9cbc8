"""Typed configuration of a run: four groups of options, checked, with a JSON round trip.

The docstring under each field is also its help on the command line, so it says what the option
does, its unit or range, and where it comes from.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from czsl_sac.schema import check_range, check_types, from_json, to_json

__all__ = [
    "BackboneConfig",
    "DataConfig",
    "MethodName",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
]

MethodName: TypeAlias = Literal["sac", "troika", "csp", "coop", "dfsp", "zero-shot"]
"""Names of the methods, as `--method` takes them."""


@dataclass(frozen=True)
class DataConfig:
    """Which images to learn from."""

    dataset: Literal["scenes", "ut-zappos", "mit-states", "cgqa", "fruit-ripeness", "files"] = (
        "scenes"
    )
    """Data set; scenes are generated and need no files; "files" are images of your own."""
    data_root: Path | None = None
    """Folder of the data set, or for files a CSV or Parquet table; not used by scenes."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """A missing or damaged image: stop with its path, or open all images before training, name
    and count the bad ones and leave them out, of evaluation too."""
    augment: bool = False
    """Distort the training images at random (flip, perspective, small rotation)."""
    num_workers: int = 0
    """Processes that read or draw images; 0 does it in the main process."""
    clutter: float = 0.75
    """Scenes: share of the image that the label does not speak of, 0 to 1."""
    images_per_pair: int = 24
    """Scenes: training images per seen composition."""
    eval_images_per_pair: int = 20
    """Scenes: validation and test images per composition of the split."""
    split_seed: int = 0
    """Scenes: seed that decides which compositions are seen; the tiny CLIP was pretrained for 0."""
    feature_cache: Path | None = None
    """Folder that keeps the image features of a frozen vision tower (--train-backbone none), so
    that images are encoded once for all epochs and runs; not with --augment, not for DFSP."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "num_workers", low=0)
        check_range(self, "clutter", low=0, high=1)
        for name in ("images_per_pair", "eval_images_per_pair"):
            check_range(self, name, low=1)


@dataclass(frozen=True)
class BackboneConfig:
    """CLIP and what of its vision tower is trained."""

    backbone: str = "tiny"
    """CLIP to start from: tiny (built in), an OpenAI name such as ViT-L/14, a .pt file of theirs,
    open_clip:MODEL/PRETRAINED, or transformers:NAME."""
    train_backbone: Literal["lora", "adaptformer", "none", "full"] = "lora"
    """What of the vision tower learns: LoRA (the paper), AdaptFormer's adapters (Troika), nothing
    (CSP, CoOp, DFSP), or every weight."""
    lora_rank: int = 2
    """Rank of LoRA (CLIP-LoRA's default)."""
    lora_alpha: float = 1.0
    """Strength of LoRA (CLIP-LoRA's default)."""
    lora_targets: tuple[Literal["q", "k", "v", "o", "mlp"], ...] = ("q", "k", "v")
    """What of each vision layer gets LoRA: projections of the attention, and the MLP."""
    lora_layers: tuple[int, ...] | None = None
    """Vision layers that get LoRA, counted from 0; None means all."""
    lora_scaling: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r"
    """Factor on the low-rank update: loralib's or CLIP-LoRA's."""
    adapter_bottleneck: int = 64
    """Hidden size of each adapter (Troika's)."""
    adapter_scale: float = 0.1
    """Factor of each adapter's output (Troika's)."""
    adapter_dropout: float = 0.1
    """Dropout inside each adapter (Troika's)."""
    checkpoint_vision: bool = False
    """Recompute the vision tower's blocks in the backward pass: less memory, more time."""
    frozen_precision: Literal["float32", "bf16", "fp16"] = "float32"
    """How the frozen matrices of both towers are kept; products stay in float32, or --precision.
    fp16 is how OpenAI published their weights, so that it changes nothing for these."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "lora_rank", low=1)
        check_range(self, "lora_alpha", above=0)
        check_range(self, "adapter_bottleneck", low=1)
        check_range(self, "adapter_scale", above=0)
        check_range(self, "adapter_dropout", low=0, below=1)
        if not self.lora_targets:
            raise ValueError(
                "lora_targets is empty: name at least one of q, k, v, o, mlp, "
                "or set train_backbone to none"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The method: alignment, prompts, condensation, memory bank and fusion."""

    method: MethodName = "sac"
    """Method to train, which also decides the defaults of a preset; zero-shot only evaluates the
    backbone."""
    alignment: Literal["patch_max", "cls"] = "patch_max"
    """Sparse alignment (Eq. 1, 2), or the class token alone as most methods use."""
    reduction: Literal["max", "mean", "attention", "linear"] = "max"
    """How patch_max turns token similarities into one (Tab. 5)."""
    tokens: Literal["all", "patches"] = "all"
    """Tokens that patch_max looks at: class token included (Eq. 2), or patches only."""
    cls_weight: float = 0.0
    """Weight W of the class token in (1 - W) SA + W CLS (Fig. 4), 0 to 1."""
    temperature: float | None = None
    """Temperature τ of every softmax; None takes the backbone's own (0.01 for OpenAI CLIP)."""
    template: str = "a photo of"
    """Words that start the prompts' learnable context."""
    prompt_dropout: float = 0.3
    """Dropout on attribute and object embeddings in training."""
    train_context: bool = True
    """Learn the context words of the prompts."""
    train_primitives: bool = True
    """Learn the attribute and object words of the prompts."""
    condense: bool = True
    """Visual adaptive condensation (Eq. 5, 6) on top of the alignment."""
    num_blocks: int = 3
    """Blocks K of the condenser."""
    num_heads: int | None = None
    """Attention heads of the condenser; None means one per 64 dimensions."""
    mlp_ratio: float = 4.0
    """Hidden size of the condenser's feed-forward network, as a multiple of D."""
    condenser_dropout: float = 0.0
    """Dropout inside the condenser."""
    alpha: float = 0.5
    """Weight α of the distillation from alignment to condenser (Eq. 8), 0 to 1; 0 turns it off."""
    bank: Literal["off", "train", "dynamic"] = "dynamic"
    """Memory bank at test time: none, filled from training images, or updated on the stream too."""
    capacity: int = 16
    """Samples N that the bank keeps per composition."""
    retrieval_temperature: float = 0.1
    """Temperature τ_mb of the bank's retrieval (Eq. 10)."""
    text_slot: Literal["first_replaced", "until_full", "permanent"] = "first_replaced"
    """How long the bank keeps the text embedding that each composition starts from."""
    empty_slots: Literal["masked", "zeros"] = "masked"
    """Empty slots of the bank: left out of Eq. 10's softmax, or zero vectors in it."""
    beta: float = 0.5
    """Weight β of the alignment's prediction against the condenser's and the bank's (Eq. 12)."""
    gamma: float = 0.5
    """Weight γ of the bank's prediction (Eq. 12)."""
    disentangle: Literal["per_patch", "none"] = "per_patch"
    """Troika: disentanglers on every token the alignment looks at, or none."""
    text_side: Literal["tracted", "plain"] = "tracted"
    """Troika: texts pulled towards each image, or as they are."""
    traction_layers: int = 3
    """Troika: layers of the cross-modal traction (MIT-States 3, UT-Zappos and C-GQA 2)."""
    traction_dropout: float = 0.1
    """Troika: dropout in the traction (MIT-States 0.1, UT-Zappos and C-GQA 0)."""
    legacy_patch_norm: bool = False
    """Troika: normalise the patches once, twice, three times for the branches, as published."""
    legacy_eval_mode: bool = False
    """Troika: no dropout, and frozen BatchNorm, after the first epoch, as published."""
    primitive_loss_weight: float | None = None
    """Troika, DFSP: weight of the attribute's and the object's loss; None: Troika 1, DFSP 0.01."""
    fusion: Literal["txt2img", "img2txt"] = "txt2img"
    """DFSP: image tokens attend to prompts (MIT-States, C-GQA), or prompts to image tokens."""
    chunk_size: int = 128
    """Troika, DFSP img2txt: compositions whose texts of a batch are held in memory at once."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("cls_weight", "alpha", "beta"):
            check_range(self, name, low=0, high=1)
        for name in ("prompt_dropout", "condenser_dropout", "traction_dropout"):
            check_range(self, name, low=0, below=1)
        for name in ("num_blocks", "num_heads", "capacity", "traction_layers", "chunk_size"):
            check_range(self, name, low=1)
        for name in ("temperature", "retrieval_temperature", "mlp_ratio"):
            check_range(self, name, above=0)
        check_range(self, "gamma", low=0)
        check_range(self, "primitive_loss_weight", low=0)
        if self.method == "sac" and self.bank != "off" and not self.condense:
            raise ValueError(
                f'bank is "{self.bank}" but condense is off, and the bank stores condensed '
                'features: turn condense on or set bank to "off"'
            )


@dataclass(frozen=True)
class OptimConfig:
    """Optimisation (Adam with StepLR) and numerical precision."""

    schedule: Literal["joint", "staged", "end_to_end"] = "joint"
    """One loop with each loss training its own parts (Eq. 11), Alg. 1's two loops, or one loop in
    which the condenser's loss also trains backbone and prompts."""
    epochs: int = 15
    """Epochs; of stage I if the schedule is staged."""
    condenser_epochs: int | None = None
    """Epochs of stage II if the schedule is staged; None means as many as epochs."""
    batch_size: int = 64
    """Images per training step and process."""
    lr: float = 2e-4
    """Learning rate of backbone and prompts."""
    condenser_lr: float | None = None
    """Learning rate of the condenser; None means lr."""
    weight_decay: float = 1e-5
    """Adam's weight decay, added to the gradient (Troika's)."""
    lr_step: int = 5
    """Epochs between two cuts of the learning rate (StepLR)."""
    lr_gamma: float = 0.5
    """Factor of each cut of the learning rate (StepLR)."""
    eval_batch_size: int = 64
    """Images per batch in evaluation."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of training and evaluation; no means float32."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("epochs", "condenser_epochs", "batch_size", "lr_step", "eval_batch_size"):
            check_range(self, name, low=1)
        for name in ("lr", "condenser_lr", "lr_gamma"):
            check_range(self, name, above=0)
        check_range(self, "weight_decay", low=0)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run.

    Raises:
        ValueError: If an option is out of its range, or two options contradict each other.

    Examples:
        >>> config = TrainConfig(model=ModelConfig(alignment="cls"), seed=1)
        >>> TrainConfig.from_dict(config.to_dict()) == config
        True
    """

    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    """Seed of initialisation, order of the images, and augmentation."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "seed", low=0)
        if self.data.feature_cache is None:
            return
        for conflict, remedy in (
            (self.backbone.train_backbone != "none", "set train_backbone to none"),
            (self.data.augment, "turn augment off"),
            (self.model.method == "dfsp", "take another method: DFSP reads inner states"),
        ):
            if conflict:
                raise ValueError(
                    "feature_cache keeps the joint-space tokens of a frozen vision tower, one set "
                    f"an image: {remedy}, or leave feature_cache out"
                )

    @property
    def is_transductive(self) -> bool:
        """Whether test images change what is predicted for those after them."""
        return self.model.method == "sac" and self.model.bank == "dynamic"

    def with_model(self, **changes: Any) -> "TrainConfig":
        """Return the configuration with some options of the method changed.

        Args:
            changes: Fields of `ModelConfig`.

        Raises:
            ValueError: If a value is out of its range.
        """
        return replace(self, model=replace(self.model, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON types: one dictionary per group of options."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Build a configuration from `to_dict`'s form; options left out keep their default.

        Args:
            values: Groups of options by name.

        Raises:
            ValueError: If a group or an option is unknown, or a value has the wrong type.
        """
        return from_json(cls, values, "configuration")

    def save(self, path: Path) -> None:
        """Write the configuration to a JSON file.

        Args:
            path: File to write; its folder exists.
        """
        path.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> "TrainConfig":
        """Read a configuration that `save` wrote.

        Args:
            path: JSON file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not JSON or does not hold a configuration.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"no configuration at {path}: the folder is not one that czsl-sac train made"
            )
        try:
            return cls.from_dict(json.loads(path.read_text("utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} does not hold a configuration: {error}") from error
