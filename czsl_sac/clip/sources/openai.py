"""OpenAI's CLIP: its weights, by name, file or model, and its tokenizer."""

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from czsl_sac.checks import check_choice
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.checkpoints import plain_model, plain_weights, read_checkpoint
from czsl_sac.clip.config import ARCHIVE_CONSTANTS, CLIPConfig, infer_config
from czsl_sac.clip.tokenizer import PaddedTokenizer
from czsl_sac.clip.transformer import Activation


def import_clip() -> ModuleType:
    """Import OpenAI's `clip`, also beside a setuptools that has no `pkg_resources` any more.

    openai-clip 1.0.1 begins with `from pkg_resources import packaging`. setuptools ≥ 70 keeps no
    `packaging` there and setuptools ≥ 82 has no `pkg_resources` at all, so in a new environment
    a plain `import clip` fails. All that clip wants is `packaging.version.parse`. So while clip
    is imported, and no longer, a stand-in of that one attribute takes the place of
    `pkg_resources`; what was there before, or nothing, is put back.

    Returns:
        The module `clip`.

    Raises:
        ImportError: openai-clip is not installed, or another package named clip is.
    """
    stand_in = ModuleType("pkg_resources")
    before = sys.modules.get("pkg_resources")
    try:
        import packaging.version

        stand_in.packaging = packaging  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in
        import clip
    except ModuleNotFoundError as error:
        raise ImportError(
            f"OpenAI's CLIP needs the package {error.name!r}, which is not installed: "
            "pip install openai-clip torchvision packaging"
        ) from error
    finally:
        if before is not None:
            sys.modules["pkg_resources"] = before
        elif sys.modules.get("pkg_resources") is stand_in:
            del sys.modules["pkg_resources"]
    if not hasattr(clip, "available_models"):
        raise ImportError(
            f"the module clip at {clip.__file__} is not OpenAI's: pip install openai-clip"
        )
    return clip


class OpenAITokenizer(PaddedTokenizer):
    """CLIP's byte-pair tokenizer, which knows every text.

    Args:
        context_length: ids a text, start and end included.

    Examples:
        >>> tokenizer = OpenAITokenizer()
        >>> tokenizer.encode("a photo of")
        [320, 1125, 539]
        >>> tokenizer(["a photo of"])[0, :6]
        tensor([49406,   320,  1125,   539, 49407,     0])
    """

    def __init__(self, context_length: int = 77) -> None:
        import_clip()
        from clip.simple_tokenizer import SimpleTokenizer

        bpe = SimpleTokenizer()
        ids = bpe.encoder
        super().__init__(bpe.encode, ids["<|startoftext|>"], ids["<|endoftext|>"], context_length)


def load_openai(
    source: str | os.PathLike[str] | nn.Module, *, activation: Activation | None = None
) -> CLIPBackbone:
    """Load OpenAI's CLIP with a vision transformer, in float32, in evaluation mode.

    Its class token is `model.encode_image` and its text features are `model.encode_text` for the
    same weights, to float32 rounding. Errors and warnings are those of `load_backbone`.

    Args:
        source: a model name of `clip.available_models()`, which `clip` downloads into
            ~/.cache/clip and checks; or the path of OpenAI's archive (TorchScript), of a state
            dict, or of a fine-tuning's checkpoint that holds one (see
            `czsl_sac.clip.checkpoints.plain_weights`); or a model of `clip`, also one inside
            `DataParallel` or `torch.compile`, whose weights are copied.
        activation: as for `load_backbone`; None takes OpenAI's QuickGELU.
    """
    if isinstance(source, nn.Module):
        return _from_model(plain_model(source), name="clip")
    name = os.fspath(source)
    path = Path(name)
    if name in import_clip().available_models():
        return _from_model(_download(name), name=name)
    if path.is_file():
        return _from_file(path, activation)
    if path.suffix or isinstance(source, os.PathLike):
        raise FileNotFoundError(f"there is no file {name} to read CLIP's weights from")
    others = ("tiny", "open_clip:MODEL/PRETRAINED", "transformers:NAME", "the path of a .pt file")
    check_choice("backbone", name, (*_vision_transformers(), *others))
    raise FileNotFoundError(f"there is no file {name} to read CLIP's weights from")


def _vision_transformers() -> list[str]:
    return [name for name in import_clip().available_models() if name.startswith("ViT")]


def _download(name: str) -> nn.Module:
    if not name.startswith("ViT"):  # say so before gigabytes are on the disk
        raise ValueError(
            f"backbone is {name!r}, a ResNet CLIP, whose features are not tokens of the joint "
            f"space, but must be a vision transformer: take one of "
            f"{', '.join(_vision_transformers())}."
        )
    try:
        model, _ = import_clip().load(name, device="cpu")
    except (OSError, RuntimeError) as error:  # the latter for a wrong checksum
        raise ConnectionError(
            f"could not download the weights of {name} ({error}): fetch the .pt file elsewhere "
            "and give its path"
        ) from error
    return model


def _from_model(model: nn.Module, *, name: str) -> CLIPBackbone:
    library = type(model).__module__.split(".")[0]
    if library in ("open_clip", "transformers"):  # its weights do not show its activation
        raise ValueError(
            f"source is a model of {library} but must be one of clip: call "
            f"czsl_sac.from_{library}(model, tokenizer)."
        )
    state_dict = plain_weights(model.state_dict())
    config = infer_config(state_dict)
    if not isinstance(model, torch.jit.ScriptModule):
        # One built by hand may have other than 64 channels a head, which its weights do not show.
        config = replace(
            config,
            vision_heads=_heads(plain_model(model.get_submodule("visual"))),
            text_heads=_heads(model),
        )
    return _build(state_dict, config, name)


def _heads(tower: nn.Module) -> int:
    attention = plain_model(tower.get_submodule("transformer")).get_submodule("resblocks.0.attn")
    return int(attention.num_heads)  # type: ignore[arg-type]


def _from_file(path: Path, activation: Activation | None) -> CLIPBackbone:
    state_dict, is_archive = read_checkpoint(path)
    try:
        config = infer_config(state_dict)
        if activation is not None:
            config = replace(config, activation=activation)
        elif not is_archive and not state_dict.keys() & ARCHIVE_CONSTANTS:
            warnings.warn(
                f"{path} does not say whether its weights were trained with QuickGELU (OpenAI's, "
                "which is taken) or GELU (most of open_clip's), and the other gives wrong "
                'features: pass activation="quick_gelu" or "gelu" to load_backbone, or give '
                f"open_clip:MODEL/{path}.",
                stacklevel=4,
            )
        return _build(state_dict, config, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _build(state_dict: Mapping[str, Tensor], config: CLIPConfig, name: str) -> CLIPBackbone:
    return CLIPBackbone.from_openai_state_dict(
        state_dict, OpenAITokenizer(config.context_length), name=name, config=config
    )
