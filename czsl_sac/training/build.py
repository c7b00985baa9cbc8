"""From a configuration to the parts of a run: data, backbone and method."""

from typing import Any

import torch

from czsl_sac.clip import CLIPBackbone, apply_adaptformer, apply_lora, load_backbone, store_frozen
from czsl_sac.data import CZSLData, Scenes
from czsl_sac.data.transforms import ImageReader
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.registry import method_class
from czsl_sac.space import CompositionSpace
from czsl_sac.training.config import BackboneConfig, DataConfig, TrainConfig

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_backbone(config: BackboneConfig, *, precision: str = "no") -> CLIPBackbone:
    """Return CLIP with the part that learns adapted and marked.

    Args:
        config: which CLIP, and what of it learns.
        precision: of products, which frozen matrices follow with `frozen_precision="auto"`.

    Returns:
        The backbone; `requires_grad` is set on the parameters of LoRA or of the adapters alone,
        on the vision tower or its last block (`"full"`, `"last_block"`), or nowhere.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: the file does not exist.
    """
    backbone = load_backbone(
        config.backbone,
        activation=config.activation,
        patch_features=config.patch_features,
        patch_drop=config.patch_drop,
        patch_drop_eval=config.patch_drop_eval,
    )
    return adapt_backbone(backbone, config, precision=precision)


def adapt_backbone(
    backbone: CLIPBackbone, config: BackboneConfig, *, precision: str = "no"
) -> CLIPBackbone:
    """Adapt and mark the part of a CLIP that learns, in place.

    Args:
        backbone: as it was loaded.
        config: what of it learns, and how the rest is kept.
        precision: of products, which frozen matrices follow with `frozen_precision="auto"`.

    Returns:
        The same backbone.
    """
    backbone.text.chunk_size = config.text_chunk_size
    backbone.requires_grad_(False)
    if config.train_backbone == "full":
        backbone.visual.requires_grad_(True)
    elif config.train_backbone == "last_block":
        backbone.visual.transformer.resblocks[-1].requires_grad_(True)
    kept = precision if config.frozen_precision == "auto" else config.frozen_precision
    if kept in _HALF:
        store_frozen(backbone, _HALF[kept])
    backbone.visual.transformer.gradient_checkpointing = config.checkpoint_vision
    if config.train_backbone == "lora":
        apply_lora(
            backbone.visual,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            targets=config.lora_targets,
            layers=config.lora_layers,
            scaling=config.lora_scaling,
        )
    elif config.train_backbone == "adaptformer":
        apply_adaptformer(
            backbone.visual,
            bottleneck=config.adapter_bottleneck,
            scale=config.adapter_scale,
            dropout=config.adapter_dropout,
            layers=config.adapter_layers,
        )
    return backbone


def check_data_root(config: DataConfig) -> None:
    """Refuse a data set that cannot be there, before anything large is loaded.

    Raises:
        ValueError: the data set needs `data_root`.
        FileNotFoundError: there is nothing at `data_root`.
    """
    if config.dataset == "scenes" or (config.of_hub and config.data_root is None):
        return
    if config.data_root is None:
        raise ValueError(
            f"data_root is missing but dataset is {config.dataset!r}, which must be read from "
            "files: pass --data-root FOLDER, or take the scenes, which need none."
        )
    if not config.data_root.exists():
        raise FileNotFoundError(
            f"data_root is {config.data_root} but {config.data_root.resolve()} does not exist: "
            "correct the path."
        )


def image_reader(config: DataConfig) -> ImageReader:
    """Return who resizes image files: as the user says, or else torch for `files` alone."""
    return config.image_reader or ("torch" if config.dataset == "files" else "pil")


def build_data(config: DataConfig, backbone: CLIPBackbone) -> CZSLData:
    """Return the data set, with images of the backbone's size and normalisation.

    Raises:
        ValueError: the data set needs `data_root`, or has a fault.
        FileNotFoundError: the data set is not there.

    Warns:
        UserWarning: counts differ from the paper's, or bad images are left out.
    """
    check_data_root(config)
    look: dict[str, Any] = {
        "image_size": backbone.image_size,
        "mean": backbone.mean,
        "std": backbone.std,
    }
    if config.dataset == "scenes":
        return Scenes(
            clutter=config.clutter,
            context=config.context,
            context_objects=config.context_objects,
            images_per_pair=config.images_per_pair,
            eval_images_per_pair=config.eval_images_per_pair,
            split_seed=config.split_seed,
            keep=config.keep_images,
            **look,
        )
    # These load pandas, which scenes do without.
    from czsl_sac.data.sources.hub import HubSource
    from czsl_sac.data.standard import StandardLayout, is_standard_layout
    from czsl_sac.data.table import ImageTable

    look |= {"on_bad_image": config.on_bad_image, "image_reader": image_reader(config)}
    if config.exif is not None:
        look["exif"] = config.exif
    if config.of_hub or config.data_root is None:
        columns = (config.attribute_column or "", config.object_column or "")
        source = HubSource(
            config.dataset,
            *columns,
            image_column=config.image_column,
            split_column=config.split_column,
            table=config.data_root,
        )
        return ImageTable(source, **look)
    own = config.dataset == "files"
    if own and not is_standard_layout(config.data_root):
        return ImageTable(config.data_root, **look)
    name = config.data_root.resolve().name if own else config.dataset
    return StandardLayout(config.data_root, name=name, **look)


def build_method(
    config: TrainConfig, backbone: CLIPBackbone, space: CompositionSpace
) -> CZSLMethod:
    """Return the method that the configuration names, on `backbone` and `space`.

    Parameters are initialised from `config.seed`.
    """
    torch.manual_seed(config.seed)
    return method_class(config.method).build(config.method, backbone, space)
