"""The ablation's figures: mean and deviation over seeds, and the paired interval."""

import re

import pandas as pd
import pytest
from scipy import stats

from benchmarks.ablation import ROWS, VARIANTS, paired_difference, table
from czsl_sac.training.presets import preset_for

OURS, OTHER = "+ Dynamically Update (SAC)", "SAC trained on the class token"
FRAME = pd.DataFrame(
    [
        {"row": row, "seed": seed, "seen": auc, "unseen": auc, "hm": auc, "auc": auc}
        for row, values in ((OURS, (0.50, 0.47, 0.52)), (OTHER, (0.49, 0.48, 0.49)))
        for seed, auc in enumerate(values)
    ]
)


def test_interval_is_that_of_the_paired_t_test() -> None:
    ours, other = (FRAME[FRAME.row == row].auc.to_numpy() for row in (OURS, OTHER))
    expected = stats.ttest_rel(100 * ours, 100 * other).confidence_interval(0.95)
    numbers = [float(x) for x in re.findall(r"[+-]\d+\.\d+", paired_difference(FRAME))]
    assert numbers == pytest.approx([1.0, expected.low, expected.high], abs=0.005)


def test_table_gives_mean_and_sample_deviation() -> None:
    assert "| + Dynamically Update (SAC)     | 49.7 ± 2.5" in table(FRAME)


def test_every_row_is_a_matter_of_options() -> None:
    presets = {"zero-shot": preset_for("scenes", "zero-shot")}
    ours = preset_for("scenes")
    for variant, options in VARIANTS.items():
        changed = presets.get(variant, ours).with_options(**options)
        assert changed.method != ours.method or variant == "sac"
    for variant, evaluation in ROWS.values():
        assert presets.get(variant, ours).with_options(**VARIANTS[variant], **evaluation)
