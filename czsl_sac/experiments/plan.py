"""Plans: each table and figure of the paper as rows, a row as options of a run.

A row says what is trained and what inference changes of it. Rows that are trained alike share a
run, in one table or in several.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from czsl_sac.checks import check_choice
from czsl_sac.experiments import paper
from czsl_sac.methods.options import Figures, MethodOptions
from czsl_sac.methods.registry import method_names, method_options

World = Literal["closed", "open"]


@dataclass(frozen=True)
class Row:
    """One row of a table, or one point of a curve.

    Attributes:
        label: as the paper has it, where it has the row.
        method: what is trained.
        training: options that differ from the method's preset.
        inference: options that inference changes after training.
        at: place on the axis of a curve; None stands beside the curve.
        published: the paper's figures by data set.
        against: label of the row that this one is compared with, seed by seed.
    """

    label: str
    method: str = "sac"
    training: Mapping[str, Any] = field(default_factory=dict)
    inference: Mapping[str, Any] = field(default_factory=dict)
    at: float | None = None
    published: Mapping[str, Figures] = field(default_factory=dict)
    against: str = ""


@dataclass(frozen=True)
class Study:
    """A table or figure.

    Attributes:
        name: as `czsl-sac reproduce` takes it.
        title: what it shows.
        rows: for a data set.
        world: candidates of the evaluation.
        x: what a curve's rows are points of; empty for a table.
        shares: columns on patches, of `CZSLResult.patch_shares`.
        looks: what is drawn of single images: where the first row's CLIP and the second row's
            condenser look, or what both rows predict.
        images: how many of them.
    """

    name: str
    title: str
    rows: Callable[[str], list[Row]]
    world: World = "closed"
    x: str = ""
    shares: tuple[str, ...] = ()
    looks: Literal["", "attention", "predictions"] = ""
    images: int = 0


BASELINE = {"alignment": "cls", "condense": False, "bank": "off"}
SPARSE = {"alignment": "patch_max", "condense": False, "bank": "off"}
RATES = (0.0, 0.25, 0.5, 0.75)
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def _methods(world: World, *, newer: bool = False) -> Callable[[str], list[Row]]:
    """Every installed method that the paper's tables have, or those that came after."""

    def rows(data_set: str) -> list[Row]:
        found = [method_options(name) for name in method_names()]
        chosen = [o for o in found if bool(o.published.get(world)) != newer or o.name == "sac"]
        return [_whole(options, world) for options in sorted(chosen, key=_order)]

    return rows


def _alignments(data_set: str) -> list[Row]:
    """Every installed method with the class token and with sparse alignment."""
    found = sorted((method_options(name) for name in method_names()), key=_order)
    return [
        Row(
            f"{options.label}, {alignment}",
            options.name,
            training={"alignment": alignment},
            against=f"{options.label}, cls" if alignment == "patch_max" else "",
        )
        for options in found
        for alignment in ("cls", "patch_max")
    ]


def _order(options: type[MethodOptions]) -> float:
    """By the paper's AUC on UT-Zappos, as its tables stand; what it has not comes last."""
    published = options.published.get("closed", {})
    return published["ut-zappos"][3] if "ut-zappos" in published else 100.0


def _whole(options: type[MethodOptions], world: World) -> Row:
    return Row(options.label, options.name, published=options.published.get(world, {}))


def _tab4(data_set: str) -> list[Row]:
    cls = "SAC on the class token"
    bank = (("train", "+ Memory Bank", ""), ("dynamic", "+ Dynamically Update", cls))
    return [
        Row("Zero-shot CLIP", "zero-shot"),
        Row("Baseline", training=BASELINE, published=paper.TAB4["Baseline"]),
        Row("+ L_base", training=SPARSE, published=paper.TAB4["+ L_base"]),
        Row(
            "+ L_base^q",
            training={"alpha": 0.0, "bank": "off"},
            published=paper.TAB4["+ L_base^q"],
        ),
        Row("+ L_kl", inference={"bank": "off"}, published=paper.TAB4["+ L_kl"]),
        *(
            Row(label, inference={"bank": name}, published=paper.TAB4[label], against=other)
            for name, label, other in bank
        ),
        Row(cls, training={"alignment": "cls"}),
    ]


def _tab5(data_set: str) -> list[Row]:
    return [
        Row(name, training={**SPARSE, "reduction": name}, published=paper.TAB5[name])
        for name in ("mean", "attention", "linear", "max")
    ]


def _tab6(data_set: str) -> list[Row]:
    return [
        Row(
            label,
            "troika",
            training={"alignment": alignment},
            published=paper.TAB6[label],
            against="w/o SA" if alignment == "patch_max" else "",
        )
        for label, alignment in (("w/o SA", "cls"), ("w SA", "patch_max"))
    ]


def _tab10(data_set: str) -> list[Row]:
    blocks = (1, 2, 3) if data_set == "cgqa" else (1, 3, 5)
    return [
        Row(
            f"K={k}",
            training={"num_blocks": k},
            inference={"bank": "off"},
            published=paper.TAB10[f"K={k}"],
        )
        for k in blocks
    ]


def _tab11(data_set: str) -> list[Row]:
    sizes = (2, 4, 8, 16, 24)
    masked = [
        Row(f"N={n}", inference={"capacity": n}, published=paper.TAB11[f"N={n}"]) for n in sizes
    ]
    zeros = [
        Row(f"N={n}, empty slots zero", inference={"capacity": n, "empty_slots": "zeros"})
        for n in sizes
    ]
    return masked + zeros


def _pilot(data_set: str) -> list[Row]:
    dropped = [
        Row(f"drop {rate:.0%}", training={**BASELINE, "patch_drop": rate}, at=rate)
        for rate in RATES
    ]
    return [*dropped, Row("SA", training=SPARSE), Row("SAC")]


def _blend(data_set: str) -> list[Row]:
    return [
        Row(f"W={share:g}", training=SPARSE, inference={"class_weight": share}, at=share)
        for share in SHARES
    ]


def _sparsity(data_set: str) -> list[Row]:
    return [
        Row("before training", "zero-shot", training={"alignment": "patch_max"}),
        Row("SA", training=SPARSE),
        Row("SAC"),
    ]


def _against_baseline(data_set: str) -> list[Row]:
    return [Row("Baseline", training=BASELINE), Row("SAC", against="Baseline")]


def _weights(option: str, symbol: str, *, trained: bool) -> Callable[[str], list[Row]]:
    values = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)

    def rows(data_set: str) -> list[Row]:
        given = [{option: value} for value in values]
        return [
            Row(
                f"{symbol}={value:g}",
                training=one if trained else {},
                inference={} if trained else one,
                at=value,
            )
            for value, one in zip(values, given, strict=True)
        ]

    return rows


STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study("tab1", "Patches dropped at the input", _pilot),
        Study("fig1", "Patches dropped at the input", _pilot, x="drop rate"),
        Study("fig2", "Drop rate, AUC and relative modality gap", _pilot, x="drop rate"),
        Study("tab2", "Methods in the closed world", _methods("closed")),
        Study("tab3", "Methods in the open world", _methods("open"), world="open"),
        Study("tab4", "What each part of SAC adds", _tab4),
        Study("fig4-left", "Sparse alignment blended with the class token", _blend, x="W"),
        Study(
            "fig4-right",
            "Patches that are active, and that win",
            _sparsity,
            shares=("active_patches", "patch_wins"),
        ),
        Study("tab5", "Reductions of the token similarities", _tab5),
        Study("tab6", "Sparse alignment in Troika", _tab6),
        Study("fig5", "Where the condenser looks", _against_baseline, looks="attention", images=4),
        Study(
            "fig6",
            "Predictions beside the baseline's",
            _against_baseline,
            looks="predictions",
            images=4,
        ),
        Study("tab8", "All methods in the closed world", _methods("closed")),
        Study("tab9", "All methods in the open world", _methods("open"), world="open"),
        Study("newer", "Methods published since", _methods("closed", newer=True)),
        Study("alignments", "All methods with either alignment", _alignments),
        Study("fig8", "Weight α of the distillation", _weights("alpha", "α", trained=True), x="α"),
        Study("fig9", "Weight β of the alignment", _weights("beta", "β", trained=False), x="β"),
        Study("fig10", "Weight γ of the bank", _weights("gamma", "γ", trained=False), x="γ"),
        Study("tab10", "Blocks K of the condenser", _tab10),
        Study("tab11", "Samples N of the memory bank", _tab11),
        Study(
            "fig11",
            "More predictions beside the baseline's",
            _against_baseline,
            looks="predictions",
            images=8,
        ),
        Study(
            "fig12",
            "More of where the condenser looks",
            _against_baseline,
            looks="attention",
            images=12,
        ),
    )
}
"""Every table and figure, by name; the halves of a figure are studies of their own."""

NOT_MEASURED = {
    "tab7": "the statistics of the data sets, which czsl-sac check-data DATA counts",
    "fig3": "a drawing of the method",
    "fig7": "a drawing of the method",
}
"""What of the paper no run makes, and why."""


def studies_named(names: Iterable[str]) -> list[Study]:
    """Return studies by name, each once; a figure's name stands for all its parts.

    Args:
        names: as `czsl-sac reproduce` takes them, or `all`.

    Raises:
        ValueError: there is no such study.

    Examples:
        >>> [study.name for study in studies_named(["fig4", "tab4", "fig4-left"])]
        ['fig4-left', 'fig4-right', 'tab4']
    """
    found: dict[str, Study] = {}
    for name in names:
        if name in NOT_MEASURED:
            raise ValueError(
                f"what is {name!r} but must be made of runs, and that is {NOT_MEASURED[name]}: "
                "leave it out."
            )
        parts = [s for s in STUDIES.values() if name in (s.name, s.name.partition("-")[0], "all")]
        if not parts:
            check_choice("what", name, [*STUDIES, "all"])
        found |= {study.name: study for study in parts}
    return list(found.values())
