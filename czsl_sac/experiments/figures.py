"""Curves of studies as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from czsl_sac.experiments.plan import Study
from czsl_sac.experiments.runner import Measurement
from czsl_sac.experiments.setting import Setting
from czsl_sac.experiments.tables import frame
from czsl_sac.pictures import require_matplotlib

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def draw(study: Study, measured: Sequence[Measurement], setting: Setting, path: Path) -> None:
    """Draw AUC, and the relative modality gap where the paper does, over the rows of a curve.

    Rows that are no point of the curve stand to its right.

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
    places = {m.row.label: m.row.at for m in measured}
    on_curve = [label for label, at in places.items() if at is not None]
    beside = [label for label, at in places.items() if at is None]
    ticks = [*(f"{places[label]:g}" for label in on_curve), *beside]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    auc, deviation = 100 * grouped["auc"].mean(), 100 * grouped["auc"].std().fillna(0.0)

    def plot(
        on: "Axes",
        mean: "pd.Series[float]",
        deviation: "pd.Series[float]",
        marker: str,
        colour: str,
    ) -> None:
        for labels, start, line in ((on_curve, 0, "-"), (beside, len(on_curve), "")):
            places = range(start, start + len(labels))
            errors = deviation[labels]
            look: dict[str, Any] = {
                "marker": marker,
                "color": colour,
                "linestyle": line,
                "capsize": 3,
            }
            on.errorbar(places, mean[labels], yerr=errors, **look)

    plot(axes, auc, deviation, "o", "tab:blue")
    axes.set_xticks(range(len(ticks)), ticks)
    quick = ", quick: shows that it runs, no more" if setting.quick else ""
    axes.set(xlabel=study.x, ylabel="AUC in % (circles)")
    axes.set_title(f"{study.title}\n{setting.dataset}{quick}", fontsize=10)
    if beside and table["rmg"].notna().all():
        gap, rmg = axes.twinx(), grouped["rmg"]
        plot(gap, rmg.mean(), rmg.std().fillna(0.0), "s", "tab:orange")
        gap.set_ylabel("relative modality gap (squares)")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
