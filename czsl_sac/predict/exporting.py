"""A run as one file that predicts without this package: ONNX, or PyTorch's own form."""

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from czsl_sac._version import __version__
from czsl_sac.files import write_atomically
from czsl_sac.methods.base import Predictor
from czsl_sac.predict.candidates import candidate_space
from czsl_sac.predict.graph import OUTPUTS, PixelPredictor, decomposed, trace
from czsl_sac.predict.run_predictor import ReadyToPredict

ENDINGS = (".onnx", ".pt2")
METADATA = "czsl_sac"
"""Under which name a file keeps what is to be known of it, as JSON."""
TOLERANCE = 1e-4
"""How far a probability of the file may be from the run's."""
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_IMAGES = 3


def export(ready: ReadyToPredict, path: Path, *, candidates: str = "all", top: int = 5) -> Path:
    """Write a run as one file; it is compared with the run before it takes its place.

    The texts are constants of the file, and so is what a memory holds. Images are RGB pixels of the
    backbone's size; `METADATA` says the size and the names of all outputs.

    Args:
        ready: with options under which predicting changes nothing; it is good for nothing else
            afterwards.
        path: file to make or replace, ending in `.onnx` or `.pt2`.
        candidates: what may be named, see `czsl_sac.predict.candidates`.
        top: compositions to name of each image.

    Returns:
        The path.

    Raises:
        ValueError: the path has another ending, the prediction learns, is random or no program, or
            the file does not predict what the run does.
        ImportError: a package is missing.
    """
    check_path(path)
    if ready.config.method.is_transductive:
        raise ValueError(
            f"the method {ready.config.method.name} learns from what it predicts but must not, to "
            "be exported: load the run with the options of on_new_images(False)."
        )
    method = ready.method.cpu().float().eval()
    predictor = method.predictor(candidate_space(method.space, candidates))
    size = method.backbone.image_size
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (_IMAGES, size, size, 3), dtype=torch.uint8, generator=drawn)
    model = PixelPredictor(predictor, method.backbone, top=top).eval()
    with torch.no_grad():
        expected = [model(images[: _IMAGES - 1]), model(images)]
        if not _agree(model(images), expected[1], 0.0):
            raise ValueError(
                f"the prediction of {ready.config.method.name} is random but must be fixed to be "
                "exported: train it without what is random in prediction."
            )
    told = json.dumps(_metadata(ready, predictor), ensure_ascii=False)
    try:
        program = trace(method, model, images)
    except RuntimeError as error:  # torch.export's own, of many lines
        why = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the prediction of {ready.config.method.name} cannot be written as one program "
            f"({why}) but must be, to be exported: train it without views, or choices, made for "
            f"each image anew; where it has none, take a newer torch than {torch.__version__}."
        ) from error

    def write(temporary: Path) -> None:
        convert = _write_onnx if path.suffix == ".onnx" else _write_pt2
        run = convert(program, temporary, told)
        for few in expected:
            if not _agree(run(images[: len(few[0])]), few, TOLERANCE):
                raise ValueError(
                    f"to is {path} but what was made for it does not predict as the run does: "
                    "export to the other form, and report this as an error of czsl-sac."
                )

    write_atomically(path, write)
    return path


def check_path(path: Path) -> None:
    """Refuse a file that cannot be written in its form.

    Raises:
        ValueError: it has another ending, or is a folder.
        ImportError: a package is missing.
    """
    if path.suffix not in ENDINGS or path.is_dir():
        raise ValueError(f"to is {path} but must be a file that ends in {' or '.join(ENDINGS)}.")
    if path.suffix == ".onnx":
        lacking = [name for name in _ONNX if find_spec(name) is None]
        if lacking:
            raise ImportError(
                f"to is {path} but {lacking[0]} is not installed, which ONNX files need: "
                'pip install "czsl-sac[export]", or write a .pt2 file.'
            )


def _metadata(ready: ReadyToPredict, predictor: Predictor) -> dict[str, Any]:
    space, backbone = predictor.space, ready.method.backbone
    return {
        "made_by": f"czsl-sac {__version__}",
        "method": ready.config.method.name,
        "backbone": backbone.name,
        "image_size": backbone.image_size,
        "resize": "shorter side to image_size, bicubic, then the centre",
        "input": f"images [B, {backbone.image_size}, {backbone.image_size}, 3] uint8, RGB",
        "outputs": list(OUTPUTS),
        "compositions": [list(pair) for pair in space.pairs],
        "seen": space.seen_mask.tolist(),
        "attributes": list(space.attributes),
        "objects": list(space.objects),
    }


def _write_pt2(program: ExportedProgram, path: Path, told: str) -> Any:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{METADATA}.json": told})
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(program: ExportedProgram, path: Path, told: str) -> Any:
    import onnx
    import onnxruntime

    with _hushed():
        try:
            made = torch.onnx.export(program, dynamo=True, **_NAMES)
        except torch.onnx.errors.OnnxExporterError:
            made = torch.onnx.export(decomposed(program), dynamo=True, **_NAMES)
    assert made is not None
    proto = made.model_proto
    graph = proto.graph
    for value in (*graph.input, *graph.output):  # PyTorch's own name of the size says nothing
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]  # shapes within, which every reader infers again
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, told
    onnx.save(proto, os.fspath(path))
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = session.run(list(OUTPUTS), {"images": images.numpy()})
        return tuple(torch.from_numpy(output) for output in outputs)

    return run


_NAMES: dict[str, Any] = {
    "input_names": ["images"],
    "output_names": list(OUTPUTS),
    "verbose": False,
}


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep a converter's remarks on what it leaves as it is from the user."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _agree(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> bool:
    """Whether all probabilities are the same; two likeliest within the tolerance may change."""
    return all(
        torch.allclose(one, other, rtol=0.0, atol=tolerance)
        for one, other in zip(found[1:], expected[1:], strict=True)
    )
