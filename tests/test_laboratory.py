"""The laboratory: its criterion, its cells, and the pairing of their differences."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import laboratory
from benchmarks.lab import cells
from benchmarks.lab.cells import BUDGETS, SEEN, WAYS, Cell, finish_cell, grid
from benchmarks.lab.criterion import chosen_policy, verdicts
from benchmarks.lab.map import MapOptions, run_map
from benchmarks.lab.pictures import BASE, OTHERS, differences
from czsl_sac.training.presets import preset_for


def candidates(**changes):
    """Rows of the CLIPs: today's, one that passes, and one that knows more but points nowhere."""
    figures = {
        "today": {"auc_class_token": 0.3, "auc_patches": 0.9, "point": 0.15, "small": 0.03},
        "good": {"auc_class_token": 0.4, "auc_patches": 0.2, "point": 0.5, "small": 0.3},
        "better": {"auc_class_token": 0.3, "auc_patches": 0.3, "point": 0.31, "small": 0.09},
        "blind": {"auc_class_token": 0.5, "auc_patches": 0.8, "point": 0.5, "small": 0.05},
    }
    for name, values in changes.items():
        figures[name] |= values
    rows = []
    for policy, values in figures.items():
        for clutter in (0.5, 0.75):
            for context in ("labels", "foreign"):
                row = {"policy": policy, "seed": 0, "clutter": clutter, "context": context}
                row |= {"point_chance": 0.15, "small_chance": 0.04, **values}
                if context == "foreign":  # must not be looked at
                    row |= {"auc_class_token": 0.0, "small": np.nan, "small_chance": np.nan}
                rows.append({**row, "features": "last"})
                rows.append({**row, "features": "value", "auc_patches": 1.0})
    return pd.DataFrame(rows)


def test_the_criterion_chooses_among_those_that_pass():
    assert chosen_policy(candidates()) == "better"
    assert not verdicts(candidates()).loc["blind", "points"]


@pytest.mark.parametrize(
    "change",
    [{"auc_class_token": 0.29}, {"point": 0.29}, {"small": 0.07}, {"auc_patches": 0.19}],
)
def test_each_condition_of_the_criterion_counts(change):
    assert chosen_policy(candidates(better=change)) == "good"


def test_the_class_token_must_hold_at_both_clutters():
    rows = candidates()
    plain = (rows["policy"] == "better") & (rows["clutter"] == 0.5)
    rows.loc[plain, "auc_class_token"] = 0.1
    assert chosen_policy(rows) == "good"


def test_todays_clip_stays_if_none_passes():
    nowhere = {"point": 0.1}
    assert chosen_policy(candidates(good=nowhere, better=nowhere)) == "today"


def test_budgets_are_what_they_are_called():
    for budget, (images, epochs) in BUDGETS.items():
        assert SEEN * images * epochs == budget


def test_a_cell_is_the_preset_but_for_its_axes():
    preset = preset_for("scenes", "sac")
    cell = Cell("today", "labels", 0.75, 11_520, "SAC", 0)
    config = cell.configuration(None)
    assert config.method == preset.method
    assert config.optim == preset.optim
    assert config.backbone == preset.backbone
    other = Cell("x", "foreign", 0.5, 92_160, "patches alone", 3).configuration(Path("/w"))
    assert (other.data.context, other.data.clutter, other.data.images_per_pair) == (
        "foreign",
        0.5,
        96,
    )
    assert (other.method.alignment, other.method.token_choice) == ("patch_max", "patches")
    assert not other.method.condense
    assert (other.optim.epochs, other.optim.lr_step, other.seed) == (10, 4, 3)
    assert other.backbone.backbone == "tiny:/w"
    value = Cell("x", "foreign", 0.5, 92_160, "value features", 3).configuration(None)
    assert value.backbone.patch_features == "value"


def test_the_grid_goes_seed_by_seed():
    members = grid(("a", "b"), ("labels",), (0.5,), (11_520,), tuple(WAYS), 3)
    assert len(set(members)) == len(members) == 2 * 5 * 3
    assert [cell.seed for cell in members] == sorted(cell.seed for cell in members)
    assert len({cell.name for cell in members}) == len(members)


def map_rows(seeds=5):
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            **{"clip": "today", "context": "labels", "clutter": 0.5, "budget": 11_520},
            **{"way": way, "seed": seed, "test_auc": generator.random()},
        }
        for seed in range(seeds)
        for way in WAYS
    )


def test_differences_are_paired_over_seeds():
    rows = map_rows()
    found = differences(rows).set_index("way")
    base = rows[rows["way"] == BASE].set_index("seed")["test_auc"]
    for way in OTHERS:
        other = rows[rows["way"] == way].set_index("seed")["test_auc"]
        expected = stats.ttest_rel(other, base).confidence_interval(0.95)
        assert found.loc[way, "low"] == pytest.approx(expected.low)
        assert found.loc[way, "high"] == pytest.approx(expected.high)
        assert found.loc[way, "mean"] == pytest.approx((other - base).mean())
        assert found.loc[way, "seeds"] == 5


def test_a_seed_without_its_class_token_is_no_pair():
    rows = map_rows()
    rows = rows[(rows["way"] != BASE) | (rows["seed"] != 2)]
    assert set(differences(rows)["seeds"]) == {4}
    single = differences(map_rows(seeds=1))
    assert single["low"].isna().all()
    assert (single["seeds"] == 1).all()


def test_pictures_and_tables_of_what_is_there(tmp_path, capsys):
    rows = map_rows()
    names = ("point", "point_chance", "wins", "attention", "auc_class_token", "auc_patches")
    rows = rows.assign(**dict.fromkeys(names, 0.25))
    rows.to_csv(tmp_path / "map.csv")
    arguments = ["draw", "--map", str(tmp_path / "map.csv"), "--clips", str(tmp_path / "none.csv")]
    laboratory.main([*arguments, "--folder", str(tmp_path)])
    assert (tmp_path / "laboratory_map.png").stat().st_size > 5000
    assert (tmp_path / "laboratory_pointing.png").is_file()
    assert not (tmp_path / "laboratory_clips.png").is_file()
    mean = 100 * differences(rows).set_index("way").loc["SAC", "mean"]
    assert f"{mean:+.1f} [" in capsys.readouterr().out


def test_a_cell_that_has_a_row_is_not_trained_again(tmp_path, capsys):
    cell = Cell("today", "labels", 0.5, 11_520, "SAC", 0)
    names = ("clip", "context", "clutter", "budget", "way", "seed")
    pd.DataFrame([dict(zip(names, cell.key, strict=True))]).to_csv(tmp_path / "map.csv")
    csv, runs = tmp_path / "map.csv", tmp_path / "runs"
    options = MapOptions(contexts=("labels",), clutters=(0.5,), budgets=(11_520,), ways=("SAC",))
    run_map(MapOptions(**{**vars(options), "seeds": 1, "csv": csv, "runs": runs}))
    assert "0 cells to do, 1 rows are there" in capsys.readouterr().out
    assert not runs.exists()


@pytest.mark.slow
def test_a_cell_is_trained_measured_and_continued(tmp_path, monkeypatch):
    monkeypatch.setitem(BUDGETS, 96, (1, 1))
    cell = Cell("today", "foreign", 0.5, 96, "SAC", 0)
    row = finish_cell(cell, None, tmp_path)
    assert 0.5 < float(row["test_auc"]) < 1.0
    assert 0 < float(row["attention"]) <= 1
    assert row["small"] == "nan"
    monkeypatch.setattr(cells, "train", lambda config, folder, resume: _never(resume))
    with pytest.raises(AssertionError, match="resumed"):
        finish_cell(cell, None, tmp_path)


def _never(resume):
    raise AssertionError("resumed" if resume else "begun anew")
