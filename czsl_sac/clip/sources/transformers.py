"""CLIPModel of Hugging Face's transformers, as the package's own backbone."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from czsl_sac.clip.backbone import OPENAI_MEAN, OPENAI_STD, CLIPBackbone
from czsl_sac.clip.checkpoints import plain_model, plain_weights
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.sources import import_library
from czsl_sac.clip.tokenizer import PaddedTokenizer

# transformers' names and OpenAI's, tried in this order; all but attention and projections.
_NAMES = (
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding", "visual.conv1"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm", "ln_final"),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    (".self_attn.", ".attn."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)


def from_transformers(
    model: nn.Module, tokenizer: Any, *, name: str = "transformers"
) -> CLIPBackbone:
    """Make a backbone of a `transformers.CLIPModel`, with the same weights.

    Args:
        model: a `transformers.CLIPModel`, also inside `DataParallel` or `torch.compile`.
        tokenizer: the model's `CLIPTokenizer`; or its `CLIPProcessor`, which also says how images
            are normalised (otherwise as OpenAI does).
        name: for printouts and checkpoints.

    Returns:
        The backbone, a copy in float32 and evaluation mode. Its class token is
        `model.get_image_features` and its text features are `model.get_text_features` for the
        same weights, to float32 rounding.

    Raises:
        ValueError: the model is another one, or has an option that CLIP lacks, or the
            tokenizer is not the model's.
        ImportError: transformers is not installed.

    Examples:
        For some 600 MB of weights::

            name = "openai/clip-vit-base-patch32"
            backbone = from_transformers(CLIPModel.from_pretrained(name),
                                         CLIPProcessor.from_pretrained(name))
    """
    library = import_library("transformers", "transformers")
    model = plain_model(model)
    if not isinstance(model, library.CLIPModel):
        raise ValueError(
            f"model is a {type(model).__name__} but must be a transformers.CLIPModel, which has "
            "both of CLIP's towers and their projections: load that."
        )
    config = _config(model.config)
    images = getattr(tokenizer, "image_processor", None)
    return CLIPBackbone.from_openai_state_dict(
        _openai_weights(plain_weights(model.state_dict())),
        _wrap_tokenizer(getattr(tokenizer, "tokenizer", tokenizer), model.config.text_config),
        name=name,
        config=config,
        mean=OPENAI_MEAN if images is None else tuple(images.image_mean),
        std=OPENAI_STD if images is None else tuple(images.image_std),
    )


def load_transformers(name: str) -> CLIPBackbone:
    """Load a CLIPModel by its name on the Hugging Face hub, or from a folder.

    Args:
        name: such as "openai/clip-vit-large-patch14".

    Raises:
        ConnectionError: there is no such model, or the download fails.
        ValueError: it is not a CLIP with a vision transformer.
        ImportError: transformers is not installed.
    """
    library = import_library("transformers", "transformers")
    try:
        model = library.CLIPModel.from_pretrained(name)
        processor = library.CLIPProcessor.from_pretrained(name)
    except OSError as error:
        raise ConnectionError(
            f"transformers could not load {name!r} ({str(error).splitlines()[0]}): give the name "
            "of a CLIPModel on the Hugging Face hub, or a folder with one"
        ) from error
    return from_transformers(model, processor, name=f"transformers:{name}")


def _config(config: Any) -> CLIPConfig:
    vision, text = config.vision_config, config.text_config
    for option, wanted in (
        ("hidden_act", ("quick_gelu", "gelu")),
        ("layer_norm_eps", (1e-5,)),
        ("num_channels", (3,)),
    ):
        for tower in (vision, text):
            value = getattr(tower, option, wanted[0])
            if value not in wanted:
                raise ValueError(
                    f"model has {option}={value!r} in its {type(tower).__name__} but must have "
                    f"{' or '.join(map(str, wanted))}, as CLIP does: take another."
                )
    if vision.hidden_act != text.hidden_act:
        raise ValueError(
            f"model has hidden_act {vision.hidden_act!r} in the vision tower and "
            f"{text.hidden_act!r} in the text tower but must have one in both: take another."
        )
    if text.intermediate_size != 4 * text.hidden_size:
        raise ValueError(
            f"model has a text tower with intermediate_size {text.intermediate_size} but must have "
            f"4 × hidden_size = {4 * text.hidden_size}, as CLIP does: take another."
        )
    inner = vision.intermediate_size
    return CLIPConfig(
        embed_dim=config.projection_dim,
        image_size=_side(vision.image_size, "image_size"),
        patch_size=_side(vision.patch_size, "patch_size"),
        vision_width=vision.hidden_size,
        vision_layers=vision.num_hidden_layers,
        vision_heads=vision.num_attention_heads,
        vision_mlp_width=None if inner == 4 * vision.hidden_size else inner,
        context_length=text.max_position_embeddings,
        vocab_size=text.vocab_size,
        text_width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        activation=vision.hidden_act,
    )


def _side(size: Any, name: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"model has {name}={size} but must have squares: take another.")
    return int(sides.pop())


def _openai_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights, stack query, key and value, and transpose the projections."""
    weights = {}
    for key, value in state_dict.items():
        if key.endswith("position_ids"):  # a buffer of transformers < 4.31
            continue
        for theirs, ours in _NAMES:
            key = key.replace(theirs, ours)
        weights[key] = value
    for key in [key for key in weights if ".attn.q_proj." in key]:
        parts = [weights.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        owner, _, kind = key.rpartition(".attn.q_proj.")
        weights[f"{owner}.attn.in_proj_{kind}"] = torch.cat(parts)
    for theirs, ours in (
        ("visual_projection.weight", "visual.proj"),
        ("text_projection.weight", "text_projection"),
    ):
        if theirs in weights:
            weights[ours] = weights.pop(theirs).T
    return weights


def _wrap_tokenizer(tokenizer: Any, config: Any) -> PaddedTokenizer:
    parts = ("encode", "bos_token_id", "eos_token_id")
    if not all(hasattr(tokenizer, part) for part in parts):
        raise ValueError(
            f"tokenizer is a {type(tokenizer).__name__} but must be the model's CLIPTokenizer or "
            "CLIPProcessor: load it from the same place."
        )
    # 2 is what configurations said before transformers 4.31, whatever the tokenizer; the model
    # then reads a text at its largest id, which is the tokenizer's end-of-text.
    if config.eos_token_id not in (2, tokenizer.eos_token_id):
        raise ValueError(
            f"tokenizer ends texts with the id {tokenizer.eos_token_id} but must end them with "
            f"{config.eos_token_id}, at which the model reads: take that of the same model."
        )
    if tokenizer.eos_token_id >= config.vocab_size:
        raise ValueError(
            f"tokenizer has the id {tokenizer.eos_token_id} but must be within the "
            f"{config.vocab_size} ids that the model knows: take that of the same model."
        )
    return PaddedTokenizer(
        partial(tokenizer.encode, add_special_tokens=False),
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        config.max_position_embeddings,
    )
