"""Every method on the presets of the three benchmarks: train, evaluate, predict, report."""

import itertools
import json
from pathlib import Path

import pytest
from scenes_on_disk import write_scenes

from czsl_sac.cli import main
from czsl_sac.experiments.plan import Row
from czsl_sac.experiments.setting import Setting, configuration
from czsl_sac.methods.registry import method_names
from czsl_sac.training.run import train

PRESETS = ("ut-zappos", "mit-states", "cgqa")
CASES = list(itertools.product(method_names(), PRESETS, ("cls", "patch_max")))
QUICK = [("csp", "mit-states", "patch_max")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the scenes in the standard layout."""
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes")


@pytest.mark.filterwarnings("ignore:.*is not the .* of the paper's Tab. 7")
@pytest.mark.parametrize(
    ("method", "preset", "alignment"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_a_run_of_each_preset_is_all_that_a_run_is(
    method: str, preset: str, alignment: str, root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = {"backbone": "tiny", "epochs": 1, "num_workers": 0}
    training = {"alignment": alignment}
    if method == "logiczsl":
        training["concepts"] = "scenes"  # its own are those of the shoes of UT-Zappos
    setting = Setting(preset, 1, tmp_path, root, options=options)
    run = tmp_path / "run"
    trained = train(configuration(Row(method, method, training=training), setting, 0), run)
    assert 0 < trained.test.auc < 1
    assert main(["evaluate", str(run)]) == 0
    assert main(["evaluate", str(run), "--world", "open"]) == 0
    picture = next((root / "images").rglob("test*.png"))
    maps, output = tmp_path / "maps", tmp_path / "out.jsonl"
    command = ["predict", str(run), str(picture), "--format", "jsonl", "--output", str(output)]
    assert main([*command, "--heatmaps", str(maps)]) == 0
    (line,) = output.read_text("utf-8").splitlines()
    assert json.loads(line)
    assert len(list(maps.glob("*.png"))) == 1
    assert main(["report", str(run)]) == 0
    assert list(run.rglob("*.html"))
    assert "error" not in capsys.readouterr().err
