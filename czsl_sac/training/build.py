"""From a configuration to the parts of a run: data, backbone and method."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from czsl_sac.blocks.alignment import Aligner, build_aligner
from czsl_sac.blocks.condensation import VisualCondenser
from czsl_sac.clip import (
    CLIPBackbone,
    apply_adaptformer,
    apply_lora,
    load_backbone,
    store_frozen,
)
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.data import CZSLData, Scenes
from czsl_sac.methods import (
    CSP,
    DFSP,
    SAC,
    BankOptions,
    CoOp,
    CZSLMethod,
    Troika,
    ZeroShotCLIP,
)
from czsl_sac.space import CompositionSpace
from czsl_sac.training.config import (
    BackboneConfig,
    DataConfig,
    MethodName,
    ModelConfig,
    TrainConfig,
)

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_backbone(config: BackboneConfig) -> CLIPBackbone:
    """Return CLIP with the part that learns adapted and marked.

    Args:
        config: which CLIP, and what of it learns.

    Returns:
        The backbone; `requires_grad` is set on the parameters of LoRA or of the adapters alone,
        on the whole vision tower (`"full"`), or nowhere.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: the file does not exist.
    """
    backbone = load_backbone(config.backbone)
    backbone.requires_grad_(False)
    if config.train_backbone == "full":
        backbone.visual.requires_grad_(True)
    if config.frozen_precision != "float32":
        store_frozen(backbone, _HALF[config.frozen_precision])
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
        )
    return backbone


def build_data(config: DataConfig, backbone: CLIPBackbone) -> CZSLData:
    """Return the data set, with images of the backbone's size and normalisation.

    Args:
        config: which data.
        backbone: who will look at it.

    Raises:
        ValueError: the data set needs `data_root`, or has a fault.
        FileNotFoundError: the data set is not there.

    Warns:
        UserWarning: counts differ from the paper's, or bad images are left out.
    """
    look: dict[str, Any] = {
        "image_size": backbone.image_size,
        "mean": backbone.mean,
        "std": backbone.std,
    }
    if config.dataset == "scenes":
        return Scenes(
            clutter=config.clutter,
            images_per_pair=config.images_per_pair,
            eval_images_per_pair=config.eval_images_per_pair,
            split_seed=config.split_seed,
            **look,
        )
    if config.data_root is None:
        raise ValueError(
            f"data_root is missing but dataset {config.dataset!r} is read from files: "
            "pass --data-root FOLDER, or use --preset scenes, which needs none"
        )
    # These load torchvision and pandas, which scenes do without.
    from czsl_sac.data.standard import StandardLayout, is_standard_layout
    from czsl_sac.data.table import ImageTable

    if config.dataset == "files" and not is_standard_layout(config.data_root):
        return ImageTable(config.data_root, on_bad_image=config.on_bad_image, **look)
    return StandardLayout(
        config.data_root,
        name=config.data_root.name if config.dataset == "files" else config.dataset,
        on_bad_image=config.on_bad_image,
        **look,
    )


def build_method(
    config: TrainConfig, backbone: CLIPBackbone, space: CompositionSpace
) -> CZSLMethod:
    """Return the method that the configuration names, on `backbone` and `space`.

    Parameters are initialised from `config.seed`.

    Args:
        config: the run.
        backbone: CLIP, adapted.
        space: the data set's compositions.
    """
    torch.manual_seed(config.seed)
    model = config.model
    aligner = build_aligner(
        model.alignment,
        _temperature(model, backbone),
        reduction=model.reduction,
        token_choice=model.tokens,
        class_weight=model.cls_weight,
        dim=backbone.embed_dim,
    )
    return _METHODS[model.method](config, backbone, space, aligner)


def _zero_shot(
    config: TrainConfig, backbone: CLIPBackbone, space: CompositionSpace, aligner: Aligner
) -> ZeroShotCLIP:
    return ZeroShotCLIP(backbone, space, alignment=aligner, template=config.model.template)


def _coop(
    config: TrainConfig, backbone: CLIPBackbone, space: CompositionSpace, aligner: Aligner
) -> CoOp:
    return CoOp(backbone, space, alignment=aligner, template=config.model.template)


def _csp(
    config: TrainConfig, backbone: CLIPBackbone, space: CompositionSpace, aligner: Aligner
) -> CSP:
    model = config.model
    return CSP(
        backbone,
        space,
        alignment=aligner,
        template=model.template,
        dropout=model.prompt_dropout,
    )


def _dfsp(
    config: TrainConfig, backbone: CLIPBackbone, space: CompositionSpace, aligner: Aligner
) -> DFSP:
    model = config.model
    weight = model.primitive_loss_weight
    return DFSP(
        backbone,
        space,
        alignment=aligner,
        fusion=model.fusion,
        prompts=_prompts(model, backbone, space, shared_context=True),
        primitive_loss_weight=0.01 if weight is None else weight,
        chunk_size=model.chunk_size,
    )


def _troika(
    config: TrainConfig, backbone: CLIPBackbone, space: CompositionSpace, aligner: Aligner
) -> Troika:
    model = config.model
    weight = model.primitive_loss_weight
    return Troika(
        backbone,
        space,
        alignment=aligner,
        prompts=_prompts(model, backbone, space),
        disentangle=model.disentangle,
        text=model.text_side,
        traction_layers=model.traction_layers,
        traction_dropout=model.traction_dropout,
        primitive_loss_weight=1.0 if weight is None else weight,
        legacy_patch_norm=model.legacy_patch_norm,
        legacy_eval_mode=model.legacy_eval_mode,
        chunk_size=model.chunk_size,
    )


def _sac(
    config: TrainConfig, backbone: CLIPBackbone, space: CompositionSpace, aligner: Aligner
) -> SAC:
    model = config.model
    return SAC(
        backbone,
        space,
        alignment=aligner,
        prompts=_prompts(model, backbone, space),
        condenser=_condenser(model, backbone.embed_dim) if model.condense else None,
        bank=_bank(model),
        temperature=_temperature(model, backbone),
        alpha=model.alpha,
        beta=model.beta,
        gamma=model.gamma,
        schedule=config.optim.schedule,
    )


_METHODS: Mapping[
    MethodName, Callable[[TrainConfig, CLIPBackbone, CompositionSpace, Aligner], CZSLMethod]
] = {
    "sac": _sac,
    "troika": _troika,
    "csp": _csp,
    "coop": _coop,
    "dfsp": _dfsp,
    "zero-shot": _zero_shot,
}


def _temperature(model: ModelConfig, backbone: CLIPBackbone) -> float:
    return backbone.temperature if model.temperature is None else model.temperature


def _prompts(
    model: ModelConfig,
    backbone: CLIPBackbone,
    space: CompositionSpace,
    *,
    shared_context: bool = False,
) -> SoftPrompts:
    return SoftPrompts(
        backbone.text,
        backbone.tokenizer,
        space.attributes,
        space.objects,
        template=model.template,
        dropout=model.prompt_dropout,
        train_context=model.train_context,
        train_primitives=model.train_primitives,
        shared_context=shared_context,
    )


def _condenser(model: ModelConfig, dim: int) -> VisualCondenser:
    return VisualCondenser(
        dim,
        num_blocks=model.num_blocks,
        num_heads=model.num_heads,
        mlp_ratio=model.mlp_ratio,
        dropout=model.condenser_dropout,
    )


def _bank(model: ModelConfig) -> BankOptions | None:
    if model.bank == "off":
        return None
    return BankOptions(
        capacity=model.capacity,
        retrieval_temperature=model.retrieval_temperature,
        text_slot=model.text_slot,
        empty_slots=model.empty_slots,
        dynamic=model.bank == "dynamic",
    )
