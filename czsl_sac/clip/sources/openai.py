"""OpenAI's CLIP: its weights, by name, file or model, and its tokenizer."""

import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.config import infer_config
from czsl_sac.clip.tokenizer import PaddedTokenizer

__all__ = ["OpenAITokenizer", "import_clip", "load_openai"]


def import_clip() -> ModuleType:
    """Imports OpenAI's `clip`, also beside a setuptools that has no `pkg_resources` any more.

    openai-clip 1.0.1 begins with `from pkg_resources import packaging`. setuptools ≥ 70 keeps no
    `packaging` there and setuptools ≥ 82 has no `pkg_resources` at all, so in a new environment
    a plain `import clip` fails. All that clip wants is `packaging.version.parse`. So while clip
    is imported, and no longer, a stand-in of that one attribute takes the place of
    `pkg_resources`; what was there before, or nothing, is put back.

    Returns:
        The module `clip`.

    Raises:
        ImportError: if openai-clip is not installed, or another package named clip is.
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


def load_openai(source: str | os.PathLike[str] | nn.Module) -> CLIPBackbone:
    """Loads OpenAI's CLIP with a vision transformer, in float32, in evaluation mode.

    Args:
        source: a model name of `clip.available_models()`, which `clip` downloads into
            ~/.cache/clip and checks; or the path of a .pt file, OpenAI's archive (TorchScript) or
            a state dict; or a model of `clip`, whose weights are copied.

    Returns:
        The backbone. Its class token is `model.encode_image` and its text features are
        `model.encode_text` for the same weights, to float32 rounding.

    Raises:
        ValueError: if the name is unknown, or the weights are not of a CLIP with a vision
            transformer.
        FileNotFoundError: if there is no such file.
        ConnectionError: if the download fails.
    """
    if isinstance(source, nn.Module):
        return _from_model(source, name="clip")
    name = os.fspath(source)
    path = Path(name)
    if name in import_clip().available_models():
        return _from_model(_download(name), name=name)
    if path.is_file():
        return _from_state_dict(_read(path), name=path.stem)
    if path.suffix or isinstance(source, os.PathLike):
        raise FileNotFoundError(f"there is no file {name} to read CLIP's weights from")
    raise ValueError(
        f"unknown backbone {name!r}: give one of {', '.join(_vision_transformers())}, 'tiny', "
        "open_clip:MODEL/PRETRAINED, transformers:NAME (those three to load_backbone), the path "
        "of a .pt file of OpenAI's CLIP, or a model of clip"
    )


def _vision_transformers() -> list[str]:
    return [name for name in import_clip().available_models() if name.startswith("ViT")]


def _download(name: str) -> nn.Module:
    if not name.startswith("ViT"):  # say so before gigabytes are on the disk
        raise ValueError(
            f"backbone {name!r} is a ResNet CLIP, whose features are not tokens of the joint "
            f"space: take one of {', '.join(_vision_transformers())}"
        )
    try:
        model, _ = import_clip().load(name, device="cpu")
    except (OSError, RuntimeError) as error:  # the latter for a wrong checksum
        raise ConnectionError(
            f"could not download the weights of {name} ({error}): fetch the .pt file elsewhere "
            "and give its path"
        ) from error
    return model


def _read(path: Path) -> Mapping[str, Tensor]:
    """Reads the weights in a TorchScript archive or in a saved state dict."""
    if _is_torchscript(path):
        # Torch deprecates the format, but OpenAI's files stay what they are.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            archive: Any = torch.jit.load(path, map_location="cpu")
        return archive.state_dict()
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is neither an archive of OpenAI's CLIP nor a state dict saved by torch.save"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f"{path} must hold a state dict, names to tensors, and nothing else")
    return weights


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _from_model(model: nn.Module, *, name: str) -> CLIPBackbone:
    library = type(model).__module__.split(".")[0]
    if library in ("open_clip", "transformers"):  # its weights do not show its activation
        raise ValueError(
            f"model is one of {library}, not of clip: call czsl_sac.from_{library}(model, "
            "tokenizer)"
        )
    state_dict = model.state_dict()
    if isinstance(model, torch.jit.ScriptModule):
        return _from_state_dict(state_dict, name=name)
    # A model built by hand may have other than 64 channels a head, which its weights do not show.
    config = replace(
        infer_config(state_dict),
        vision_heads=_heads(model.get_submodule("visual.transformer.resblocks.0.attn")),
        text_heads=_heads(model.get_submodule("transformer.resblocks.0.attn")),
    )
    return CLIPBackbone.from_openai_state_dict(
        state_dict, OpenAITokenizer(config.context_length), name=name, config=config
    )


def _heads(attention: nn.Module) -> int:
    return int(attention.num_heads)  # type: ignore[arg-type]


def _from_state_dict(state_dict: Mapping[str, Tensor], *, name: str) -> CLIPBackbone:
    config = infer_config(state_dict)
    return CLIPBackbone.from_openai_state_dict(
        state_dict, OpenAITokenizer(config.context_length), name=name, config=config
    )
