"""Studies written out: CSV with every measurement, a Markdown table in the paper's form."""

import shlex
from collections.abc import Collection, Mapping, Sequence

import pandas as pd
from scipy import stats
from tabulate import tabulate

from czsl_sac.experiments.plan import Study
from czsl_sac.experiments.runner import Measurement, planned
from czsl_sac.experiments.setting import Setting, command
from czsl_sac.methods.options import DATA_SETS
from czsl_sac.report.page import SHARES as OF_PATCHES
from czsl_sac.training.run_folder import RunFolder

METRICS = {"S": "seen", "U": "unseen", "HM": "hm", "AUC": "auc"}
SHARES = {**OF_PATCHES, "active_patches": "active patches"}
"""Columns on patches, as `PatchShares` has them."""


def frame(study: Study, measured: Sequence[Measurement], setting: Setting) -> pd.DataFrame:
    """Return one row a measurement: label, seed, metrics as fractions, gap, command of the run."""
    return pd.DataFrame(
        [
            {
                "study": study.name,
                "dataset": setting.dataset,
                "row": m.row.label,
                "method": m.row.method,
                "seed": m.seed,
                **{field: getattr(m.result, field) for field in METRICS.values()},
                "rmg": _gap(m),
                **{share: m.result.patch_shares.get(share) for share in SHARES},
                "quick": setting.quick,
                "run": m.run_dir.name,
                **_made(m),
                "command": again(study, setting),
            }
            for m in measured
        ]
    )


def again(study: Study, setting: Setting) -> str:
    """Return the command that makes a study."""
    words = ["czsl-sac", "reproduce", study.name, "--dataset", setting.dataset]
    words += ["--seeds", str(setting.seeds)]
    if setting.data_root is not None:
        words += ["--data-root", str(setting.data_root)]
    for name, value in setting.options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--quick"] if setting.quick else words)


def _made(measurement: Measurement) -> dict[str, str]:
    """By what the run was trained, and by what it was measured."""
    record = RunFolder(measurement.run_dir).read_record()
    return {
        "trained": record.created,
        "trained_by": record.versions["czsl-sac"],
        "torch": record.versions.get("torch", ""),
        "measured_by": measurement.made["version"],
        "machine": measurement.made["machine"],
    }


def _gap(measurement: Measurement) -> float | None:
    """The relative modality gap of what the method compares with texts."""
    gaps = measurement.result.modality_gap
    chosen = gaps.get("aligned") or gaps.get("class_token")
    return None if chosen is None else chosen["relative_modality_gap"]


def markdown(study: Study, measured: Sequence[Measurement], setting: Setting) -> str:
    """Return a study as a page: table, the paper's figures beside, and the commands of its runs."""
    table = frame(study, measured, setting)
    paper = {m.row.label: _published(m, setting.dataset) for m in measured}
    auc = {label: group.set_index("seed")["auc"] for label, group in table.groupby("row")}
    against = {m.row.label: m.row.against for m in measured if m.row.against}
    rows = []
    for label, group in table.groupby("row", sort=False):
        cells = [spread(100 * group[field]) for field in METRICS.values()]
        if table["rmg"].notna().any():
            cells.append(f"{group['rmg'].mean():.4f}" if group["rmg"].notna().all() else "")
        cells += [
            spread(100 * group[share]) if group[share].notna().all() else ""
            for share in study.shares
        ]
        if against:
            other = against.get(str(label))
            cells.append(paired_difference(100 * auc[label], 100 * auc[other]) if other else "")
        rows.append([label, *cells, paper[str(label)]])
    gap = ["RMG"] if table["rmg"].notna().any() else []
    own = setting.dataset in DATA_SETS
    there = "S / U / HM / AUC" if own else f"AUC on {' / '.join(DATA_SETS.values())}"
    compared = ["AUC against the row it belongs to [95 % t-interval]"] if against else []
    shares = [SHARES[share] for share in study.shares]
    headers = ["", *METRICS, *gap, *shares, *compared, f"the paper's {there}"]
    text = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
    seeds = table["seed"].nunique()
    said = (
        f"# {study.name}: {study.title}\n\n"
        f"{setting.dataset}, {study.world} world, {seeds} seed{'s' if seeds > 1 else ''}, test "
        "split, best validation epoch, exact protocol, in %: mean ± standard deviation. The last "
        "column is what the paper prints (ViT-L/14), not measured here.\n"
    )
    if setting.quick:
        said += "\n**Quick: one epoch on few images. The figures show that it runs, no more.**\n"
    configs = planned([study], setting).values()
    commands = "\n".join(command(config, setting) for config in configs)
    made = f"Made by `{again(study, setting)}`; its runs:"
    return f"{said}\n{text}\n\n{made}\n\n```bash\n{commands}\n```\n"


def gathered(pages: Mapping[str, str], pictures: Collection[str], setting: Setting) -> str:
    """Return all studies as one page, without the commands of their runs.

    Args:
        pages: what `markdown` returned, by study.
        pictures: studies that have one.
        setting: on what they were measured.
    """
    parts = [f"# Every table and figure on {setting.dataset}\n"]
    for name, page in pages.items():
        told, _, rest = page.partition("\nMade by ")
        file = setting.page(name).name
        picture = f"![{name}]({file}.png)\n\n" if name in pictures else ""
        made = rest.partition("; its runs:")[0]
        parts.append(
            f"#{told}\n{picture}Made by {made}; every seed is in [{file}.csv]({file}.csv).\n"
        )
    return "\n".join(parts)


def _published(measurement: Measurement, dataset: str) -> str:
    """The paper's figures on the data set, or where it has none, its AUC on each of its own."""
    published = measurement.row.published
    if dataset in DATA_SETS:
        return " / ".join(map(str, published.get(dataset, ())))
    found = [str(published[name][3]) if name in published else "-" for name in DATA_SETS]
    return " / ".join(found) if published else ""


def spread(values: "pd.Series[float]") -> str:
    """Return mean ± standard deviation of one value a seed.

    Examples:
        >>> spread(pd.Series([40.0, 42.0])), spread(pd.Series([40.0]))
        ('41.0 ± 1.4', '40.0')
    """
    if len(values) < 2:
        return f"{values.mean():.1f}"
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def paired_difference(ours: "pd.Series[float]", theirs: "pd.Series[float]") -> str:
    """Return the mean difference of values paired by seed, with its 95 % t-interval.

    Args:
        ours: one value a seed.
        theirs: likewise, in the same order.

    Examples:
        >>> paired_difference(pd.Series([41.0, 43.0]), pd.Series([40.0, 41.0]))
        '+1.50 [-4.85, +7.85]'
    """
    mean = (ours - theirs).mean()
    if len(ours) < 2:
        return f"{mean:+.2f}"
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
