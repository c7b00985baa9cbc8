"""Typed configuration of a run: groups of options, checked, with a JSON round trip.

The docstring under each field is also its help on the command line, so it says what the option
does, its unit or range, and where it comes from. The group `method` holds the options of whatever
method is trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_type_hints

from czsl_sac.checks import check_choice, check_range, check_ranges, suggestion
from czsl_sac.data.sources.hub import HUB_PREFIX
from czsl_sac.methods.options import MethodOptions
from czsl_sac.methods.registry import method_options, reference
from czsl_sac.methods.sac.options import SACOptions
from czsl_sac.schema import check_types, from_json, to_json, typed
from czsl_sac.training.cacheable import check_cacheable

TrackerName: TypeAlias = Literal[
    "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]
"""Trackers of the library accelerate; which of them shows a run is not part of what it is."""

_DATA_SETS = ("scenes", "ut-zappos", "mit-states", "cgqa", "fruit-ripeness", "files")


@dataclass(frozen=True)
class DataConfig:
    """Which images to learn from."""

    dataset: str = "scenes"
    """Data set: scenes, which are generated and need no files; ut-zappos, mit-states, cgqa,
    fruit-ripeness; files, which are images of your own; or hf:NAME, a Hugging Face data set in a
    folder or on the hub."""
    data_root: Path | None = None
    """Folder of the data set, or for files a CSV or Parquet table; for hf:NAME the table that
    czsl-sac split wrote, if any; not used by scenes."""
    attribute_column: str | None = None
    """hf:NAME: column of the attributes, text or class labels."""
    object_column: str | None = None
    """hf:NAME: column of the objects, text or class labels."""
    image_column: str | None = None
    """hf:NAME: column of the images; None takes the only one."""
    split_column: str | None = None
    """hf:NAME: column that says train, val or test; None takes the data set's own splits."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """A missing or damaged image: stop with its path, or open all images before training, name
    and count the bad ones and leave them out, of evaluation too."""
    exif: Literal["follow", "ignore"] | None = None
    """Orientation that a photograph's EXIF names: follow or ignore it; None ignores it for
    ut-zappos, mit-states and cgqa, as the published loaders do, and follows it for others."""
    augment: bool = False
    """Distort the training images at random (flip, perspective, small rotation)."""
    image_reader: Literal["pil", "torch"] | None = None
    """Who resizes image files: pil, as the published loaders do, to the last bit; torch, several
    times faster and a gray level or two off, which leaves --augment to the device; None takes
    torch for files and pil for the others."""
    num_workers: int | None = None
    """Processes that read or draw images; 0 does it in the main process, and None takes one for
    each core but one, 8 at most, for image files, and 0 for scenes."""
    clutter: float = 0.75
    """Scenes: share of the image that the label does not speak of, 0 to 1."""
    context: Literal["labels", "foreign"] = "labels"
    """Scenes: where the small objects' shapes come from: the labels' twelve objects, or eight
    other shapes that no text speaks of."""
    context_objects: int | None = None
    """Scenes: how many small objects an image has, 0 to 8; None: clutter decides."""
    images_per_pair: int = 24
    """Scenes: training images per seen composition."""
    eval_images_per_pair: int = 20
    """Scenes: validation and test images per composition of the split."""
    split_seed: int = 0
    """Scenes: seed that decides which compositions are seen; the tiny CLIP was pretrained for 0."""
    keep_images: bool = False
    """Scenes: keep drawn images in memory, 12 kB each at 64×64, so that later epochs draw none."""
    feature_cache: Path | None = None
    """Folder that keeps what the vision tower makes of each image, up to the first layer that
    learns (--train-backbone none, or --lora-layers without layer 0), so that it is computed once
    for all epochs and runs; not with --augment, nor for a method that reads inner states."""

    def __post_init__(self) -> None:
        check_types(self)
        if not self.of_hub:
            check_choice("dataset", self.dataset, (*_DATA_SETS, f"{HUB_PREFIX}NAME"))
        elif self.attribute_column is None or self.object_column is None:
            missing = "attribute_column" if self.attribute_column is None else "object_column"
            raise ValueError(
                f"{missing} is None but must be a column of {self.dataset}: name it with "
                f"--{missing.replace('_', '-')}."
            )
        check_range("num_workers", self.num_workers, low=0)
        check_range("clutter", self.clutter, low=0, high=1)
        check_range("context_objects", self.context_objects, low=0, high=8)
        check_ranges(self, "images_per_pair", "eval_images_per_pair", low=1)

    @property
    def of_hub(self) -> bool:
        """Whether the data set is a Hugging Face one."""
        return self.dataset.startswith(HUB_PREFIX) and self.dataset != HUB_PREFIX


@dataclass(frozen=True)
class BackboneConfig:
    """CLIP and what of its vision tower is trained."""

    backbone: str = "tiny"
    """CLIP to start from: tiny or tiny-patches (built in), tiny:FILE of the laboratory's
    weights, an OpenAI name such as ViT-L/14, a .pt file of theirs, open_clip:MODEL/PRETRAINED, or
    transformers:NAME."""
    train_backbone: Literal["lora", "adaptformer", "none", "last_block", "full"] = "lora"
    """What of the vision tower learns: LoRA (the paper), AdaptFormer's adapters (Troika), nothing
    (CSP, CoOp, DFSP), the last layer (PLID), or every weight."""
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
    adapter_layers: tuple[int, ...] | None = None
    """Vision layers that get adapters, counted from 0; None means all (Troika)."""
    activation: Literal["quick_gelu", "gelu"] | None = None
    """What weights at a path were trained with: quick_gelu (OpenAI's) or gelu (most of
    open_clip's); None takes what the source says."""
    patch_features: Literal["last", "value"] = "last"
    """Patch tokens: as the last layer leaves them (the paper), or its value features, which stay
    near their place (MaskCLIP)."""
    patch_drop: float = 0.0
    """Share of patches left out at the input, drawn anew for each image (the pilot, Tab. 1)."""
    patch_drop_eval: bool = False
    """Leave them out in evaluation, too."""
    text_chunk_size: int | None = None
    """Prompts that the text tower encodes at once; None chooses by the device."""
    checkpoint_vision: bool = False
    """Recompute the vision tower's blocks in the backward pass: less memory, more time."""
    frozen_precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """How the frozen matrices of both towers are kept; products stay in --precision, which auto
    follows. fp16 is how OpenAI published their weights, so that it changes nothing for these."""

    def __post_init__(self) -> None:
        check_types(self)
        check_ranges(self, "lora_rank", "adapter_bottleneck", "text_chunk_size", low=1)
        check_ranges(self, "lora_alpha", "adapter_scale", above=0)
        check_ranges(self, "adapter_dropout", "patch_drop", low=0, below=1)
        if not self.lora_targets:
            raise ValueError(
                "lora_targets is empty but must name at least one of q, k, v, o, mlp: name one, "
                "or set train_backbone to none."
            )

    @property
    def first_trained_layer(self) -> int | None:
        """Vision layer below which nothing learns, -1 for the last; None where none learns."""
        chosen = {
            "lora": self.lora_layers or (0,),
            "adaptformer": self.adapter_layers or (0,),
            "last_block": (-1,),
            "full": (0,),
        }.get(self.train_backbone)
        return None if chosen is None else min(chosen)


@dataclass(frozen=True)
class OptimConfig:
    """Optimisation (Adam with StepLR) and numerical precision."""

    epochs: int = 15
    """Epochs; of each stage where a method has several."""
    batch_size: int = 64
    """Images per training step and process."""
    lr: float = 2e-4
    """Learning rate of all that the method gives no other."""
    weight_decay: float = 1e-5
    """Adam's weight decay, added to the gradient (Troika's)."""
    lr_step: int = 5
    """Epochs between two cuts of the learning rate (StepLR)."""
    lr_gamma: float = 0.5
    """Factor of each cut of the learning rate (StepLR)."""
    eval_batch_size: int = 64
    """Images per batch in evaluation."""
    precision: Literal["auto", "no", "tf32", "bf16", "fp16"] = "auto"
    """Precision of training and evaluation: no is float32, tf32 lets a GPU round the factors of its
    products, bf16 and fp16 are mixed; auto is bf16 on a GPU that has it, else float32."""
    compile: bool = False
    """Train with the vision tower and the alignment head compiled by torch.compile: equal to
    rounding, after a minute or more of compiling; needs a C++ compiler."""

    def __post_init__(self) -> None:
        check_types(self)
        check_ranges(self, "epochs", "batch_size", "lr_step", "eval_batch_size", low=1)
        check_ranges(self, "lr", "lr_gamma", above=0)
        check_range("weight_decay", self.weight_decay, low=0)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run.

    Raises:
        ValueError: an option is out of its range, or two options contradict each other.

    Examples:
        >>> config = TrainConfig(method=SACOptions(beta=0.7), seed=1)
        >>> TrainConfig.from_dict(config.to_dict()) == config
        True
    """

    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: MethodOptions = field(default_factory=SACOptions)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    """Seed of initialisation, order of the images, and augmentation."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range("seed", self.seed, low=0)
        groups = (self, self.data, self.backbone, self.optim)
        taken = {option.name for group in groups for option in fields(group)}
        for option in fields(self.method):
            if option.name in taken:
                raise ValueError(
                    f"{self.method.label} has the option {option.name} but must not, since every "
                    "run has one of that name: rename it."
                )
        if self.data.feature_cache is not None:
            check_cacheable(self)

    def unread(self) -> dict[str, str]:
        """Return the options that nothing reads in this configuration, each with the reason.

        Examples:
            >>> TrainConfig().unread()["adapter_scale"]
            'train_backbone is "lora"'
        """
        of_scenes = self.data.dataset == "scenes"
        idle = (*_FILES, *_HUB) if of_scenes else _SCENES if self.data.of_hub else (*_SCENES, *_HUB)
        found = dict.fromkeys(idle, f'dataset is "{self.data.dataset}"')
        for adapter, prefix in (("lora", "lora_"), ("adaptformer", "adapter_")):
            if self.backbone.train_backbone != adapter:
                names = [f.name for f in fields(self.backbone) if f.name.startswith(prefix)]
                found |= dict.fromkeys(names, f'train_backbone is "{self.backbone.train_backbone}"')
        if self.method.reads == "states":
            found["compile"] = f"{self.method.label} reads inner states of the vision tower"
        return found | self.method.unread()

    def with_options(self, **changes: Any) -> "TrainConfig":
        """Return the configuration with some options changed, whatever their group.

        Args:
            changes: options by name, as on the command line.

        Raises:
            ValueError: an option is unknown, or a value is out of its range.

        Examples:
            >>> config = TrainConfig().with_options(beta=0.7, lr=1e-3, seed=1)
            >>> config.method.beta, config.optim.lr, config.seed
            (0.7, 0.001, 1)
        """
        groups = ("data", "backbone", "method", "optim")
        new: dict[str, Any] = {"seed": changes.get("seed", self.seed)}
        known = {"seed"}
        for group in groups:
            own = {f.name for f in fields(getattr(self, group))}
            known |= own
            given = {name: value for name, value in changes.items() if name in own}
            new[group] = replace(getattr(self, group), **given)
        for name in changes.keys() - known:
            raise ValueError(
                f"{name} is given but must be an option of data, backbone, optimisation or "
                f"{self.method.name}: {suggestion(name, known) or 'leave it out.'}"
            )
        return replace(self, **new)

    def with_json(self, values: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration with some options changed to values of JSON types.

        Args:
            values: options by name, as `options` returns them.

        Raises:
            ValueError: an option is unknown, or a value does not fit.

        Examples:
            >>> config = TrainConfig().with_json({"lora_targets": ["q"], "condenser_lr": "None"})
            >>> config.backbone.lora_targets, config.method.condenser_lr
            (('q',), None)
        """
        annotations = self.annotations()
        changes = {name: typed(value, annotations.get(name)) for name, value in values.items()}
        return self.with_options(**changes)

    def annotations(self) -> dict[str, Any]:
        """Return the type of every option, by name.

        Examples:
            >>> TrainConfig().annotations()["epochs"]
            <class 'int'>
        """
        found: dict[str, Any] = {}
        for group in (self, self.data, self.backbone, self.method, self.optim):
            found |= get_type_hints(type(group))
        return found

    def options(self) -> dict[str, Any]:
        """Return the method and every option that something reads, by name, as JSON types.

        Examples:
            >>> options = TrainConfig(seed=1).options()
            >>> options["beta"], options["seed"], "adapter_scale" in options
            (0.5, 1, False)
        """
        values = self.to_dict()
        found = {"method": values["method"].pop("method")}
        for group in ("data", "backbone", "method", "optim"):
            found |= values[group]
        unread = self.unread()
        return {
            name: value
            for name, value in {**found, "seed": self.seed}.items()
            if name not in unread
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON types: one dictionary per group of options."""
        values: dict[str, Any] = to_json(self)
        values["method"] = {"method": reference(self.method), **values["method"]}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Build a configuration from `to_dict`'s form; options left out keep their default.

        Args:
            values: groups of options by name.

        Raises:
            ValueError: a group or an option is unknown, or a value has the wrong type.
        """
        groups = {"data": DataConfig, "backbone": BackboneConfig, "optim": OptimConfig}
        found = dict(values) if isinstance(values, dict) else values
        if isinstance(found, dict):
            for name, group in groups.items():
                if name in found:
                    found[name] = from_json(group, found[name], name)
            if "method" in found:
                found["method"] = _method_from(found["method"])
        return from_json(cls, found, "configuration")


def _method_from(values: object) -> MethodOptions:
    if not isinstance(values, dict) or not isinstance(values.get("method"), str):
        raise ValueError(
            "method is without a name but must say which method its options are of: "
            'add "method" to them.'
        )
    options = method_options(values["method"])
    own = {name: value for name, value in values.items() if name != "method"}
    return from_json(options, own, f"method {options.name}")


_SCENES = (
    *("clutter", "context", "context_objects", "images_per_pair", "eval_images_per_pair"),
    *("split_seed", "keep_images"),
)
_FILES = ("data_root", "on_bad_image", "exif", "image_reader")
_HUB = ("attribute_column", "object_column", "image_column", "split_column")
