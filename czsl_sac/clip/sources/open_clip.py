"""open_clip's CLIPs with a plain vision transformer, as the package's own backbone."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from czsl_sac.checks import check_choice
from czsl_sac.clip.backbone import OPENAI_MEAN, OPENAI_STD, CLIPBackbone, check_weights
from czsl_sac.clip.checkpoints import plain_model, plain_weights, read_checkpoint
from czsl_sac.clip.config import infer_config
from czsl_sac.clip.sources import import_library
from czsl_sac.clip.tokenizer import PaddedTokenizer
from czsl_sac.clip.transformer import Activation


def from_open_clip(model: nn.Module, tokenizer: Any, *, name: str = "open_clip") -> CLIPBackbone:
    """Make a backbone of a model of `open_clip`, with the same weights.

    Args:
        model: an `open_clip.CLIP`, or an `open_clip.CustomTextCLIP` with open_clip's own text
            tower, whose vision tower is a plain vision transformer: ViT-B-32 to ViT-bigG-14 and
            their quickgelu variants; also inside `DataParallel` or `torch.compile`. The activation
            is the model's, QuickGELU or GELU, and so are mean and standard deviation of the
            images, where `create_model` has set them.
        tokenizer: `open_clip.get_tokenizer(...)` of the same model.
        name: for printouts and checkpoints.

    Returns:
        The backbone, a copy in float32 and evaluation mode. Its class token is
        `model.encode_image` and its text features are `model.encode_text` for the same weights,
        to float32 rounding.

    Raises:
        ValueError: the model is none of these (CoCa, SigLIP, a ResNet or a tower of timm, a
            text tower of transformers), or the tokenizer is not open_clip's or not the model's.
        ImportError: open_clip is not installed.

    Examples:
        For some 600 MB of weights::

            model, _, _ = open_clip.create_model_and_transforms("ViT-B-32", "laion2b_s34b_b79k")
            backbone = from_open_clip(model, open_clip.get_tokenizer("ViT-B-32"))
    """
    library = import_library("open_clip", "open-clip")
    model = plain_model(model)
    if not isinstance(model, library.CLIP | library.CustomTextCLIP):
        raise _refusal(f"it is a {type(model).__name__}")
    visual: Any = plain_model(model.visual)
    text: Any = plain_model(model.text) if isinstance(model, library.CustomTextCLIP) else model
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
    weights = plain_weights(model.state_dict())
    weights = {key.removeprefix("text."): value for key, value in weights.items()}
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


def load_open_clip(name: str, *, activation: Activation | None = None) -> CLIPBackbone:
    """Load a model of open_clip by name.

    Args:
        name: "MODEL/PRETRAINED" as `open_clip.list_pretrained()` has them, such as
            "ViT-B-32/laion2b_s34b_b79k"; PRETRAINED may be the path of a checkpoint; or
            "hf-hub:ORGANISATION/MODEL".
        activation: as for `load_backbone`; None takes the model's, with a warning unless its name
            says quickgelu.

    Raises:
        ValueError: the name is unknown, the weights at the path are damaged or another model's, or
            the model is not a CLIP with a vision transformer.
        ImportError: open_clip is not installed.
    """
    library = import_library("open_clip", "open-clip")
    if name.startswith("hf-hub:"):
        return _create(library, name, name, None)
    architecture, _, pretrained = name.partition("/")
    check_choice("model of open_clip", architecture, library.list_models())
    tags = library.list_pretrained_tags_by_model(architecture)
    if not pretrained:
        raise ValueError(
            f"backbone is open_clip:{name} but must name weights too: write "
            f"open_clip:{name}/PRETRAINED, PRETRAINED being one of {', '.join(tags)}, or a path."
        )
    if not Path(pretrained).is_file():
        check_choice(f"weights of {architecture}", pretrained, (*tags, "the path of a file"))
        # open_clip takes the model's activation, whatever the weights were trained with.
        quick = library.get_pretrained_cfg(architecture, pretrained).get("quick_gelu", False)
        return _create(library, name, architecture, pretrained, force_quick_gelu=quick)
    if activation is None and not architecture.endswith("-quickgelu"):
        warnings.warn(
            f"{pretrained} does not say whether its weights were trained with GELU (that of "
            f"{architecture}, which is taken) or QuickGELU (OpenAI's), and the other gives wrong "
            'features: pass activation="gelu" or "quick_gelu" to load_backbone, or name '
            f"{architecture}-quickgelu.",
            stacklevel=3,
        )
    return _create(
        library,
        name,
        architecture if activation is None else architecture.removesuffix("-quickgelu"),
        Path(pretrained),
        force_quick_gelu=activation == "quick_gelu",
    )


def _create(
    library: ModuleType, name: str, architecture: str, weights: str | Path | None, **options: bool
) -> CLIPBackbone:
    """Build a model with the weights of a tag, or with those at a path."""
    try:
        if isinstance(weights, Path):
            with _quiet():  # which warns that the weights are random: they are not for long
                model = library.create_model(architecture, **options)
        else:
            model = library.create_model(architecture, weights, **options)
    except RuntimeError as error:
        raise ValueError(
            f"open_clip could not make {name!r} ({error}): open_clip.list_pretrained() lists the "
            "names and weights that there are."
        ) from error
    if isinstance(weights, Path):
        state_dict, _ = read_checkpoint(weights)
        try:
            check_weights(model, state_dict)
        except ValueError as error:
            raise ValueError(f"{weights}: {error}") from error
        model.load_state_dict(state_dict)
    return from_open_clip(model, library.get_tokenizer(architecture), name=f"open_clip:{name}")


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _refusal(reason: str) -> ValueError:
    return ValueError(
        f"model must be a CLIP whose tokens live in the joint space, but {reason}: take an "
        "open_clip.CLIP with a plain vision transformer, such as ViT-B-32 or ViT-L-14."
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
            f"tokenizer is a {type(tokenizer).__name__} but must be one of open_clip's for CLIP, "
            f"with {', '.join(parts)}: take open_clip.get_tokenizer(MODEL)."
        )
    if max(tokenizer.sot_token_id, tokenizer.eot_token_id) >= vocab_size:
        raise ValueError(
            f"tokenizer has the id {tokenizer.eot_token_id} but must be within the {vocab_size} "
            "ids that the model knows: take open_clip.get_tokenizer(MODEL) of the same model."
        )
    return PaddedTokenizer(
        tokenizer.encode, tokenizer.sot_token_id, tokenizer.eot_token_id, context_length
    )
