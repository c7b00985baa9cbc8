"""Plans: each table and figure of the paper as rows, a row as options of a run.

A row says what is trained and what inference changes of it. Rows that are trained alike share a
run, in one table or in several.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from czsl_sac.experiments import paper
from czsl_sac.experiments.paper import Figures
from czsl_sac.methods.options import MethodOptions
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
        published: the paper's figures by data set.
        against: label of the row that this one is compared with, seed by seed.
    """

    label: str
    method: str = "sac"
    training: Mapping[str, Any] = field(default_factory=dict)
    inference: Mapping[str, Any] = field(default_factory=dict)
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
    """

    name: str
    title: str
    rows: Callable[[str], list[Row]]
    world: World = "closed"
    x: str = ""


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
    bank = {"train": "+ Memory Bank", "dynamic": "+ Dynamically Update"}
    return [
        Row("Baseline", training=BASELINE, published=paper.TAB4["Baseline"]),
        Row("+ L_base", training=SPARSE, published=paper.TAB4["+ L_base"]),
        Row(
            "+ L_base^q",
            training={"alpha": 0.0, "bank": "off"},
            published=paper.TAB4["+ L_base^q"],
        ),
        Row("+ L_kl", inference={"bank": "off"}, published=paper.TAB4["+ L_kl"]),
        *(
            Row(label, inference={"bank": name}, published=paper.TAB4[label])
            for name, label in bank.items()
        ),
        Row(
            "SAC on the class token", training={"alignment": "cls"}, against="+ Dynamically Update"
        ),
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
    dropped = [Row(f"drop {rate:.0%}", training={**BASELINE, "patch_drop": rate}) for rate in RATES]
    return [*dropped, Row("SA", training=SPARSE), Row("SAC")]


def _blend(data_set: str) -> list[Row]:
    return [
        Row(f"W={share:g}", training=SPARSE, inference={"class_weight": share}) for share in SHARES
    ]


def _weights(option: str, symbol: str, *, trained: bool) -> Callable[[str], list[Row]]:
    values = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)

    def rows(data_set: str) -> list[Row]:
        given = [{option: value} for value in values]
        return [
            Row(
                f"{symbol}={value:g}",
                training=one if trained else {},
                inference={} if trained else one,
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
        Study("fig4", "Sparse alignment blended with the class token", _blend, x="W"),
        Study("tab5", "Reductions of the token similarities", _tab5),
        Study("tab6", "Sparse alignment in Troika", _tab6),
        Study("tab8", "All methods in the closed world", _methods("closed")),
        Study("tab9", "All methods in the open world", _methods("open"), world="open"),
        Study("newer", "Methods published since", _methods("closed", newer=True)),
        Study("alignments", "All methods with either alignment", _alignments),
        Study("fig8", "Weight α of the distillation", _weights("alpha", "α", trained=True), x="α"),
        Study("fig9", "Weight β of the alignment", _weights("beta", "β", trained=False), x="β"),
        Study("fig10", "Weight γ of the bank", _weights("gamma", "γ", trained=False), x="γ"),
        Study("tab10", "Blocks K of the condenser", _tab10),
        Study("tab11", "Samples N of the memory bank", _tab11),
    )
}
"""Every table and curve, by name."""
