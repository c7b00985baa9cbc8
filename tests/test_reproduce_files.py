"""`czsl-sac reproduce` on data sets of files: small copies of scenes under the paper's names."""

import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from scenes_on_disk import write_scenes
from tiny_runs import tiny_run

from czsl_sac.cli import main
from czsl_sac.cli.train import parse
from czsl_sac.data.sources.standard import METADATA, read_records
from czsl_sac.data.standard import StandardLayout
from czsl_sac.evaluation import PatchShares
from czsl_sac.experiments import gallery
from czsl_sac.experiments.estimate import SECONDS_A_PASS, images_of, seconds_needed
from czsl_sac.experiments.plan import STUDIES, Row, Study, studies_named
from czsl_sac.experiments.quick_data import write_quick_data
from czsl_sac.experiments.runner import measure, missing, planned
from czsl_sac.experiments.setting import Setting, configuration, run_dir
from czsl_sac.experiments.tables import frame, markdown
from czsl_sac.methods.logiczsl.options import LogiCZSLOptions

NAMES = ("ut-zappos", "mit-states", "cgqa")
pytestmark = pytest.mark.filterwarnings("ignore:.*is not the .* of the paper's Tab. 7")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("copy") / "data", images_per_pair=2)


def reproduce(studies: list[str], name: str, root: Path, out: Path) -> dict[str, pd.DataFrame]:
    """The CSV of each study, made by the command line."""
    given = ["--dataset", name, "--data-root", str(root), "--backbone", "tiny", "--quick"]
    assert main(["reproduce", *studies, *given, "--out", str(out)]) == 0
    made = studies_named(studies)
    for study in made:
        picture = out / f"{study.name}-{name}-quick.png"
        assert picture.is_file() == bool(study.x or study.looks)
        page = picture.with_suffix(".md").read_text("utf-8")
        assert "**Quick: one epoch on few images." in page
        trained = [line for line in page.splitlines() if line.startswith("czsl-sac train")]
        setting = Setting(name, 1, out, root, True, {"backbone": "tiny"})
        parsed = [parse(shlex.split(line)[2:]) for line in trained]
        assert {one.run_dir: one.configuration for one in parsed if one} == planned(
            [study], setting
        )
    return {study.name: pd.read_csv(out / f"{study.name}-{name}-quick.csv") for study in made}


@pytest.mark.parametrize(
    "name", ["cgqa", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[:2])]
)
def test_a_curve_runs_on_files(name: str, root: Path, tmp_path: Path) -> None:
    table = reproduce(["fig9"], name, root, tmp_path)["fig9"]
    assert table["row"].tolist() == [f"β={b:g}" for b in (0, 0.1, 0.3, 0.5, 0.7, 0.9)]
    assert table["auc"].between(0, 1).all()
    assert table["quick"].all()
    assert set(table["machine"].str.contains("cores")) == {True}
    assert table["command"][0].startswith(f"czsl-sac reproduce fig9 --dataset {name} --seeds 1 ")
    listed = read_records(tmp_path / "quick-data" / name / METADATA)
    assert len(listed) == len(read_records(root / METADATA)) / 2


@pytest.mark.parametrize("name", NAMES)
def test_the_open_world_runs_on_files(name: str, root: Path, tmp_path: Path) -> None:
    study = Study("open", "CLIP", lambda data_set: [Row("CLIP", "zero-shot")], world="open")
    setting = Setting(name, 1, tmp_path, root, True, {"backbone": "tiny"})
    (measured,) = measure(study, setting)
    assert measured.result.world == "open"
    assert 0 < measured.result.auc < 1
    assert measured.result.threshold is not None
    table = frame(study, [measured], setting)
    assert table.loc[0, "auc"] == measured.result.auc
    assert f"{name}, open world, 1 seed" in markdown(study, [measured], setting)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_study_runs_on_files(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the folder has the scenes' words under the data set's name, so it takes their concepts
    monkeypatch.setitem(LogiCZSLOptions.settings["ut-zappos"], "concepts", "scenes")
    tables = reproduce(["all"], name, root, tmp_path)
    assert tables.keys() == STUDIES.keys()
    for study, table in tables.items():
        assert table["row"].tolist() == [row.label for row in STUDIES[study].rows(name)]
        assert table[["seen", "unseen", "hm", "auc"]].stack().between(0, 1).all()
    assert tables["fig4-right"]["active_patches"].between(0.01, 0.99).all()
    setting = Setting(name, 1, tmp_path, root, True, {"backbone": "tiny"})
    assert not missing(planned(STUDIES.values(), setting))


def test_a_quick_run_takes_the_first_images_of_each_composition(root: Path, tmp_path: Path) -> None:
    write_quick_data(root, tmp_path / "few", 1)
    look = {"image_size": 64, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "name": "scenes"}
    few, whole = StandardLayout(tmp_path / "few", **look), StandardLayout(root, **look)
    assert few.space == whole.space
    for split, records in whole.records.items():
        firsts = {column: (path, column) for path, column in reversed(records)}
        assert set(few.records[split]) == set(firsts.values())
        assert len(few.records[split]) == len(records) / 2
    assert torch.equal(few.split("val")[0][0], whole.split("val")[0][0])


def test_images_are_counted_in_the_data_set(root: Path, tmp_path: Path) -> None:
    study = STUDIES["tab6"]
    tiny = Setting("cgqa", 2, tmp_path, root, options={"backbone": "tiny"})
    config = configuration(study.rows("cgqa")[0], tiny, 0)
    assert images_of(config, tiny) == {"train": 192, "val": 96, "test": 96}
    quick = Setting("cgqa", 1, tmp_path, root, quick=True)
    assert images_of(config, quick) == {"train": 96, "val": 48, "test": 48}
    assert images_of(config, Setting("scenes", 1, tmp_path)) == {
        "train": 24 * 96,
        "val": 20 * 48,
        "test": 20 * 48,
    }
    passes = config.optim.epochs * (3 * 192 + 96) + 192 + 96
    assert seconds_needed([study], tiny) == pytest.approx(4 * passes * SECONDS_A_PASS)
    assert seconds_needed([study], Setting("cgqa", 2, tmp_path, root)) is None  # ViT-L/14


def test_a_run_is_the_same_wherever_its_data_lies(tmp_path: Path) -> None:
    row = STUDIES["tab6"].rows("cgqa")[0]
    here, there = (Setting("cgqa", 1, tmp_path, tmp_path / name) for name in "ab")
    quick = Setting("cgqa", 1, tmp_path, tmp_path / "a", options={"epochs": 1}, quick=True)
    folders = {run_dir(configuration(row, each, 0), each) for each in (here, there)}
    assert len(folders) == 1
    whole = Setting("cgqa", 1, tmp_path, tmp_path / "a", options={"epochs": 1})
    assert run_dir(configuration(row, quick, 0), quick) != run_dir(
        configuration(row, whole, 0), whole
    )


def test_layers_that_a_preset_names_are_not_asked_of_another_clip(tmp_path: Path) -> None:
    cams, own = Row("CAMS", "cams"), Setting("cgqa", 1, tmp_path, tmp_path)
    assert configuration(cams, own, 0).backbone.adapter_layers == tuple(range(12, 24))
    tiny = Setting("cgqa", 1, tmp_path, tmp_path, options={"backbone": "tiny"})
    config = configuration(cams, tiny, 0)
    assert config.backbone.adapter_layers is None
    assert config.method.extraction_layers is None
    again = Setting("cgqa", 1, tmp_path, tmp_path, options={"backbone": "ViT-L/14"})
    assert configuration(cams, again, 0) == configuration(cams, own, 0)


def test_single_images_are_drawn_with_what_both_say() -> None:
    baseline = tiny_run(alignment="cls", condense=False, bank="off")
    figure = gallery._predictions(baseline, tiny_run(), None, 2)
    titles = [part.get_suptitle() for part in figure.subfigs]
    counts = [int(title.split(": ")[1].split(" of ")[0]) for title in titles]
    assert sum(counts) == 48
    for title, part in zip(titles, figure.subfigs, strict=True):
        for axis in part.axes:
            said = [text.get_text().partition(": ")[2] for text in axis.texts]
            right = [words == axis.get_title() for words in said]
            assert [text.get_color() == "green" for text in axis.texts] == right
            if title.startswith("SAC alone") and said:
                assert right == [False, True]
    figure = gallery._attention(baseline, tiny_run(), None, 3)
    names = [axis.get_title().partition("\n")[0] for axis in figure.subfigs[0].axes]
    assert names[:3] == ["image", "condenser's attention", "class token's attention"]
    assert len([part for part in figure.subfigs if part.axes]) == 3


def test_patches_above_the_middle_of_an_images_range_are_active() -> None:
    shares = PatchShares()
    shares.update(similarity=torch.tensor([[1.0, 0.4, 0.6, 0.0], [0.2, 0.3, 0.28, 0.22]]))
    assert shares.compute() == pytest.approx({"active_patches": (1 / 4 + 2 / 4) / 2})
    with pytest.raises(ValueError, match="similarity has shape"):
        shares.update(similarity=torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        shares.update(similarity=torch.full((1, 3), torch.nan))


def test_a_name_that_no_run_makes_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "tab7"]) == 2
    assert "czsl-sac check-data DATA counts" in capsys.readouterr().err


def test_no_time_is_told_of_a_clip_that_is_not_known(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", "cgqa", "--data-root", str(root), "--out", str(tmp_path), "--dry-run"]
    assert main(["reproduce", "tab6", "--seeds", "1", *given]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(
        "2 of them to be trained: the time is known once one of them has ended here."
    )
    assert not list(tmp_path.iterdir())
