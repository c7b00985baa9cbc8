"""Curves of studies as pictures."""

from collections.abc import Sequence
from pathlib import Path

from czsl_sac.experiments.plan import Study
from czsl_sac.experiments.runner import Measurement, Setting
from czsl_sac.experiments.tables import frame
from czsl_sac.pictures import require_matplotlib


def draw(study: Study, measured: Sequence[Measurement], setting: Setting, path: Path) -> None:
    """Draw AUC, and the relative modality gap where there is one, over the rows of a curve.

    Args:
        study: whose `x` is not empty.
        measured: its rows.
        setting: on what they were measured.
        path: PNG to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib("figures")
    from matplotlib.figure import Figure

    from czsl_sac.files import write_atomically

    table = frame(study, measured, setting)
    grouped = table.groupby("row", sort=False)
    labels = [str(label).rpartition("=")[2] for label in grouped.groups]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    mean = 100 * grouped["auc"].mean()
    axes.errorbar(
        labels,
        mean,
        yerr=100 * grouped["auc"].std().fillna(0.0),
        marker="o",
        capsize=3,
        label="AUC",
    )
    axes.set(xlabel=study.x, ylabel="AUC in %", title=f"{study.title}, {setting.dataset}")
    if study.name == "fig2" and table["rmg"].notna().all():
        gap = axes.twinx()
        gap.plot(labels, grouped["rmg"].mean(), "s--", color="tab:orange")
        gap.set_ylabel("relative modality gap (dashed)")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
