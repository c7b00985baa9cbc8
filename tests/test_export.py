"""`czsl-sac export`: files that predict as the run does, without this package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_runs import tiny_run, write_scenes

from czsl_sac import load_run
from czsl_sac.cli import main
from czsl_sac.methods.registry import method_names
from czsl_sac.predict import exporting
from czsl_sac.space import CompositionSpace

PAGE = Path(__file__).parent.parent / "docs" / "deploy.md"
IN_CI = [("sac", {"bank": "dynamic"}), ("troika", {"alignment": "patch_max"})]
SLOW = [
    (name, {"alignment": alignment, **({"views": 0} if name == "plid" else {})})
    for name in method_names()
    for alignment in ("cls", "patch_max")
    if (name, {"alignment": alignment}) not in IN_CI
]


def script(path: Path) -> Path:
    """The page's own program."""
    code = re.findall(r"```py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    path.write_text(code[0], "utf-8")
    return path


def outputs(file: Path, images: np.ndarray) -> tuple[dict, list[np.ndarray]]:
    """What a file says of itself and of images."""
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        told = session.get_modelmeta().custom_metadata_map["czsl_sac"]
        return json.loads(told), session.run(None, {"images": images})
    extra = {"czsl_sac.json": ""}
    program = torch.export.load(file, extra_files=extra)
    found = program.module()(torch.from_numpy(images))
    return json.loads(extra["czsl_sac.json"]), [output.numpy() for output in found]


@pytest.mark.parametrize(
    ("method", "options"),
    [*IN_CI, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_a_file_says_what_predict_says(
    method: str, options: dict, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tiny_run(method, **options), tmp_path / f"model.{ending}"
    capsys.readouterr()  # what the training printed
    assert main(["export", str(run), "--to", str(file), "--top", "4"]) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(rf"{file}: [\d.]+ MiB, predicts as the run does to 0.0001\n", printed.out)
    paths = write_scenes(tmp_path / "images", 5)
    expected = load_run(run).predict(paths, top=12)
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    for count in (5, 1):
        told, (indices, probabilities, attributes, objects) = outputs(file, pixels[:count])
        assert indices.shape == probabilities.shape == (count, 4)
        for row, prediction in enumerate(expected[:count]):
            for place, ranked in enumerate(prediction.compositions[:4]):
                assert abs(probabilities[row, place] - ranked.probability) < 1e-4
            best = tuple(told["compositions"][indices[row, 0]])
            first, second = prediction.compositions[:2]
            if first.probability - second.probability > 1e-3:
                assert best == first.pair
            for found, names, ranks in (
                (attributes, told["attributes"], prediction.attributes),
                (objects, told["objects"], prediction.objects),
            ):
                for name, share in ranks:
                    assert abs(found[row, names.index(name)] - share) < 1e-4


@pytest.mark.slow
def test_views_made_for_each_image_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tiny_run("plid"), tmp_path / "model.pt2"
    capsys.readouterr()
    assert main(["export", str(run), "--to", str(file)]) == 2
    assert "the prediction of plid cannot be written as one program" in capsys.readouterr().err
    assert not file.exists()


def test_the_pages_program_needs_neither_pytorch_nor_this_package(tmp_path: Path) -> None:
    run, file = tiny_run(bank="dynamic"), tmp_path / "model.onnx"
    assert main(["export", str(run), "--to", str(file)]) == 0
    paths = write_scenes(tmp_path / "images", 3)
    refuse = (
        "import sys\nfor name in ('torch', 'czsl_sac', 'torchvision'): sys.modules[name] = None"
    )
    program = script(tmp_path / "serve.py")
    program.write_text(f"{refuse}\n{program.read_text('utf-8')}", "utf-8")
    command = [sys.executable, str(program), str(file), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    for line, path, prediction in zip(lines, paths, load_run(run).predict(paths), strict=True):
        best = prediction.compositions[0]
        assert line == f"{path}: {' '.join(best.pair)}, {100 * best.probability:.1f} %"


def test_candidates_are_those_that_were_asked_for(tmp_path: Path) -> None:
    run, file = tiny_run(bank="dynamic"), tmp_path / "model.pt2"
    assert main(["export", str(run), "--to", str(file), "--candidates", "seen"]) == 0
    told, _ = outputs(file, np.zeros((2, 64, 64, 3), np.uint8))
    space: CompositionSpace = load_run(run).method.space
    seen = space.seen_mask.tolist()
    assert told["compositions"] == [
        list(p) for p, own in zip(space.pairs, seen, strict=True) if own
    ]
    assert all(told["seen"])


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("model.pth", "to is model.pth but must be a file that ends in .onnx or .pt2."),
        ("", "to is . but must be a file that ends in .onnx or .pt2."),
    ],
)
def test_another_ending_is_refused(
    to: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny_run(bank="dynamic")), "--to", to]) == 2
    assert capsys.readouterr().err == f"czsl-sac: error: {message}\n"


def test_a_file_that_says_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.pt2"
    file.write_text("before", "utf-8")
    agree = exporting._agree
    monkeypatch.setattr(
        exporting, "_agree", lambda found, expected, by: by == 0 and agree(found, expected, by)
    )
    assert main(["export", str(tiny_run(bank="dynamic")), "--to", str(file)]) == 2
    assert "does not predict as the run does" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert file.read_text("utf-8") == "before"


def test_without_the_packages_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporting, "_ONNX", ("onnx", "no_such_package"))
    assert main(["export", "nowhere", "--to", str(tmp_path / "model.onnx")]) == 2
    assert "no_such_package is not installed" in capsys.readouterr().err
