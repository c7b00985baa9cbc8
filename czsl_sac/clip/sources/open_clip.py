"""open_clip's CLIPs with a plain vision transformer, as the package's own backbone."""

from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from czsl_sac.clip.backbone import OPENAI_MEAN, OPENAI_STD, CLIPBackbone
from czsl_sac.clip.config import infer_config
from czsl_sac.clip.tokenizer import PaddedTokenizer
from czsl_sac.clip.transformer import Activation

__all__ = ["from_open_clip", "load_open_clip"]


def from_open_clip(model: nn.Module, tokenizer: Any, *, name: str = "open_clip") -> CLIPBackbone:
    """Makes a backbone of a model of `open_clip`, with the same weights.

    Args:
        model: an `open_clip.CLIP`, or an `open_clip.CustomTextCLIP` with open_clip's own text
            tower, whose vision tower is a plain vision transformer: ViT-B-32 to ViT-bigG-14 and
            their quickgelu variants. The activation is the model's, QuickGELU or GELU, and so are
            mean and standard deviation of the images, where `create_model` has set them.
        tokenizer: `open_clip.get_tokenizer(...)` of the same model.
        name: for printouts and checkpoints.

    Returns:
        The backbone, a copy in float32 and evaluation mode. Its class token is
        `model.encode_image` and its text features are `model.encode_text` for the same weights,
        to float32 rounding.

    Raises:
        ValueError: if the model is none of these (CoCa, SigLIP, a ResNet or a tower of timm, a
            text tower of transformers), or the tokenizer is not open_clip's or not the model's.
        ImportError: if open_clip is not installed.

    Example, for some 600 MB of weights::

        model, _, _ = open_clip.create_model_and_transforms("ViT-B-32", "laion2b_s34b_b79k")
        backbone = from_open_clip(model, open_clip.get_tokenizer("ViT-B-32"))
    """
    library = _import_open_clip()
    if not isinstance(model, library.CLIP | library.CustomTextCLIP):
        raise _refusal(f"it is a {type(model).__name__}")
    visual: Any = model.visual
    text: Any = model.text if isinstance(model, library.CustomTextCLIP) else model
    if not isinstance(visual, library.transformer.VisionTransformer):
        raise _refusal(f"its vision tower is a {type(visual).__name__}")
    if not isinstance(text, library.CLIP | library.transformer.TextTransformer):
        raise _refusal(f"its text tower is a {type(text).__name__}")
    if visual.attn_pool is not None or visual.pool_type != "tok":
        raise _refusal("its image feature is not that of the class token")
    if getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax")) not in (
        "argmax",
        "eos",
    ):
        raise _refusal("its text feature is not that of the end-of-text token")
    if text.attn_mask is None:
        raise _refusal("its text tower is not causal")
    if visual.grid_size[0] != visual.grid_size[1]:
        raise _refusal(f"its images are not square but {visual.image_size} pixels")
    weights = {key.removeprefix("text."): value for key, value in model.state_dict().items()}
    weights["logit_scale"] = weights["logit_scale"].reshape(())
    config = replace(
        infer_config(weights),
        vision_heads=visual.transformer.resblocks[0].attn.num_heads,
        text_heads=text.transformer.resblocks[0].attn.num_heads,
        activation=_activation(model),
    )
    preprocess = getattr(visual, "preprocess_cfg", {})
    return CLIPBackbone.from_openai_state_dict(
        weights,
        _wrap_tokenizer(tokenizer, config.context_length, config.vocab_size),
        name=name,
        config=config,
        mean=tuple(preprocess.get("mean", OPENAI_MEAN)),
        std=tuple(preprocess.get("std", OPENAI_STD)),
    )


def load_open_clip(name: str) -> CLIPBackbone:
    """Loads a model of open_clip by name.

    Args:
        name: "MODEL/PRETRAINED" as `open_clip.list_pretrained()` has them, such as
            "ViT-B-32/laion2b_s34b_b79k"; PRETRAINED may be the path of a checkpoint; or
            "hf-hub:ORGANISATION/MODEL".

    Raises:
        ValueError: if the name is unknown, or the model is not a CLIP with a vision transformer.
        ImportError: if open_clip is not installed.
    """
    library = _import_open_clip()
    if name.startswith("hf-hub:"):
        architecture, pretrained = name, None
    else:
        architecture, _, pretrained = name.partition("/")
        if not pretrained:
            raise ValueError(
                f"backbone open_clip:{name} names no weights: write open_clip:MODEL/PRETRAINED, "
                f"PRETRAINED being one of {library.list_pretrained_tags_by_model(architecture)}"
            )
    try:
        model = library.create_model(architecture, pretrained)
    except RuntimeError as error:
        raise ValueError(
            f"open_clip could not make {name!r} ({error}): open_clip.list_pretrained() lists the "
            "names and weights that there are"
        ) from error
    return from_open_clip(model, library.get_tokenizer(architecture), name=f"open_clip:{name}")


def _import_open_clip() -> ModuleType:
    try:
        return import_module("open_clip")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this backbone needs the package {error.name!r}, which is not installed: "
            'pip install "czsl-sac[open-clip]"'
        ) from error


def _refusal(reason: str) -> ValueError:
    return ValueError(
        f"model is not a CLIP whose tokens live in the joint space, {reason}: take an "
        "open_clip.CLIP with a plain vision transformer, such as ViT-B-32 or ViT-L-14"
    )


def _activation(model: nn.Module) -> Activation:
    quick = import_module("open_clip.transformer").QuickGELU
    found = set()
    for name, part in model.named_modules():
        if name.endswith("mlp.gelu"):
            plain = isinstance(part, nn.GELU) and part.approximate == "none"
            found.add("quick_gelu" if isinstance(part, quick) else "gelu" if plain else repr(part))
        elif isinstance(part, nn.LayerNorm) and part.eps != 1e-5:
            raise _refusal(f"its layer norms have eps={part.eps:g} instead of 1e-5")
    if found == {"quick_gelu"}:
        return "quick_gelu"
    if found == {"gelu"}:
        return "gelu"
    raise _refusal(f"its activations are {' and '.join(sorted(found)) or 'not to be found'}")


def _wrap_tokenizer(tokenizer: Any, context_length: int, vocab_size: int) -> PaddedTokenizer:
    parts = ("encode", "sot_token_id", "eot_token_id")
    if not all(hasattr(tokenizer, part) for part in parts):
        raise ValueError(
            f"tokenizer must be one of open_clip's for CLIP, with {', '.join(parts)}, got "
            f"{type(tokenizer).__name__}: take open_clip.get_tokenizer(MODEL)"
        )
    if max(tokenizer.sot_token_id, tokenizer.eot_token_id) >= vocab_size:
        raise ValueError(
            f"tokenizer has the id {tokenizer.eot_token_id} but the model knows {vocab_size} ids: "
            "take open_clip.get_tokenizer(MODEL) of the same model"
        )
    return PaddedTokenizer(
        tokenizer.encode, tokenizer.sot_token_id, tokenizer.eot_token_id, context_length
    )
