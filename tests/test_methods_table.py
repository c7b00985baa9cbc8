"""The table of methods: which runs it wants, what it takes from the CSV, and its figures."""

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from benchmarks import methods_table
from benchmarks.methods_table import ALIGNMENTS, METHODS, Options, configuration, measure, table
from czsl_sac.training.presets import preset_for


def frame(auc: dict[str, list[float]], method: str = "CSP") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"method": method, "alignment": alignment, "seed": seed}
            | {"seen": 0.5, "unseen": 0.25, "hm": 0.1, "auc": value}
            for alignment, values in auc.items()
            for seed, value in enumerate(values)
        ]
    )


def test_the_table_pairs_the_runs_by_their_seed() -> None:
    cls, patch_max = [0.40, 0.44, 0.41], [0.43, 0.44, 0.45]
    shown = table(frame({"cls": cls, "patch_max": patch_max}))
    low, high = stats.ttest_rel(patch_max, cls).confidence_interval(0.95)
    assert f"| +2.33 [{100 * low:+.2f}, {100 * high:+.2f}]" in shown
    assert "50.0 ± 0.0 | 25.0 ± 0.0 | 10.0 ± 0.0 | 41.7 ± 2.1" in shown


def test_a_method_without_training_has_neither_spread_nor_interval() -> None:
    shown = table(frame({"cls": [0.352], "patch_max": [0.330]}, "zero-shot CLIP"))
    assert "| 35.2 " in shown
    assert "| -2.20" in shown
    assert "±" not in shown


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_runs_share_the_budget_and_keep_the_rest_of_their_preset(name, alignment) -> None:
    options = Options()
    config = configuration(options, name, alignment, 2)
    own = preset_for("scenes", METHODS[name][0])
    assert (config.optim.epochs, config.data.images_per_pair, config.seed) == (3, 8, 2)
    assert config.method.alignment == alignment
    assert config.optim.batch_size == preset_for("scenes").optim.batch_size
    assert (config.optim.lr, config.backbone) == (own.optim.lr, own.backbone)
    assert configuration(options, name, alignment, 2, lr=0.5).optim.lr == 0.5


def test_what_has_a_row_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--images-per-pair", "1", "--epochs", "1", "--seeds", "1"]
    options = Options(
        seeds=1,
        epochs=1,
        images_per_pair=1,
        methods=("zero-shot CLIP",),
        runs=tmp_path / "runs",
        csv=tmp_path / "rows.csv",
    )
    first = measure(options)
    assert first["alignment"].tolist() == list(ALIGNMENTS)
    assert first["auc"].between(0.2, 0.5).all()  # the tiny CLIP's 35, of 100

    def refuse(*arguments: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(methods_table, "finish_run", refuse)
    pd.testing.assert_frame_equal(measure(options), first)
    with pytest.raises(ValueError, match="methods has 'CPS': known are zero-shot CLIP, CoOp"):
        methods_table.main([*small, "--methods", "CPS"])
