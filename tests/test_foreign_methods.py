"""A third party's method, of which this package knows nothing, in predict, report and compare."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Page
from tiny_runs import tiny_config, tiny_run, write_scenes

from czsl_sac.cli import main
from czsl_sac.methods.registry import method_options
from czsl_sac.run import load_run
from czsl_sac.training.run import train

EXAMPLE = Path(__file__).parent.parent / "examples" / "visprod"

BARE = '''
from dataclasses import dataclass
from typing import ClassVar

import visprod
from czsl_sac.methods.base import Predictor


@dataclass(frozen=True)
class BareOptions(visprod.VisProdOptions):
    name: ClassVar[str] = "bare"
    label: ClassVar[str] = "Bare <i>"
    implementation: ClassVar[str] = "bare:Bare"


class Bare(visprod.VisProd):
    """Scores images and says no more."""

    Options = BareOptions

    def predictor(self, space, stage=None):
        scores = visprod.VisProdPredictor(self, space)

        class BarePredictor(Predictor):
            def __call__(self, images):
                return scores(images)

        return BarePredictor(space)
'''


@pytest.fixture(scope="module", params=["visprod:VisProd", "bare:Bare"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "bare.py").write_text(BARE, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        patch.syspath_prepend(folder)
        options = method_options(request.param)(alignment="patch_max")
        train(replace(tiny_config(), method=options), folder / "run")
        yield folder / "run"
    for name in ("visprod", "bare"):
        sys.modules.pop(name, None)


def test_heat_maps_show_what_the_method_tells(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images = write_scenes(tmp_path / "images", 2)
    maps = tmp_path / "maps"
    capsys.readouterr()
    assert main(["predict", str(run), *map(str, images), "--heatmaps", str(maps)]) == 0
    said = capsys.readouterr().err
    silent = "BarePredictor does not say what it compares" in said
    assert silent == (load_run(run).config.method.name == "bare")
    assert len(list(maps.iterdir())) == 2


def test_a_page_is_made(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["report", str(run), "--examples", "1"]) == 0
    assert capsys.readouterr().err == ""
    result, label = load_run(run).evaluate(), load_run(run).config.method.label
    rows = Page((run / "report.html").read_text("utf-8")).rows
    assert [label, "exact", f"{100 * result.seen:.2f}"] in [row[:3] for row in rows]
    counted = [row for row in rows if len(row) == 3 and row[0] == label and "." in row[1]]
    assert bool(counted) == bool(result.patch_shares) == (label == "VisProd")


def test_it_stands_beside_others(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "page.html"
    capsys.readouterr()
    assert main(["compare", str(tiny_run("csp")), str(run), "--output", str(output)]) == 0
    label = load_run(run).config.method.label
    assert f"\n{label} " in capsys.readouterr().out
    assert f"CSP right, {label} wrong" in " ".join(Page(output.read_text("utf-8")).words)
