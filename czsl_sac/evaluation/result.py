"""The result of an evaluation."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from czsl_sac.evaluation.chance import Chance, chance_row, small_sample_warnings
from czsl_sac.evaluation.curve import Protocol
from czsl_sac.evaluation.patch_shares import patch_notes

if TYPE_CHECKING:
    import pandas as pd

World = Literal["closed", "open"]

COLUMNS = {
    "S": "seen",
    "U": "unseen",
    "HM": "hm",
    "AUC": "auc",
    "attribute": "attribute",
    "object": "object",
}
"""Column of a table: field of a result."""

_DETAILS = ("attribute_recall", "object_recall", "curve")

_WORTH_A_NOTE = 0.005
"""Share of the images from which on ties and lost biases are spoken of."""


@dataclass(frozen=True)
class CZSLResult:
    """Seen-unseen metrics of one evaluation; every accuracy a fraction in [0, 1].

    Attributes:
        seen: S, best accuracy on samples of seen compositions. Exact protocol: at bias -inf;
            legacy: at the lowest bias that is tried.
        unseen: U, best accuracy on samples of unseen compositions (at bias +inf; legacy: 1e3).
        hm: HM, the best harmonic mean of the two accuracies over the biases.
        auc: AUC, area under the curve of seen over unseen accuracy.
        attribute: share of samples whose attribute is right in the predicted composition, bias 0.
        object: likewise the object.
        curve: arrays `bias`, `seen`, `unseen`, one entry a point; `pandas.DataFrame(curve)` works.
        bias: the bias of the best harmonic mean, the first one at ties.
        protocol: "exact" or "legacy".
        seen_samples: number of samples of seen compositions.
        unseen_samples: number of samples of unseen compositions.
        ties: share of samples whose label ties with its strongest rival, so that the order of the
            columns decides (legacy: at bias 1e3, where float32 resolves steps of 6e-5).
        bias_lost: share of samples that the legacy protocol's last bias of 1e3 decides otherwise
            than an infinite one: scores of a small scale tie in float32, large ones exceed it.
        candidates: number of compositions that could be predicted, seen and unseen, without the
            infeasible ones.
        unseen_candidates: how many of these are unseen.
        unseen_compositions: number of unseen compositions with samples.
        threshold: feasibility below which unseen compositions were left out; None: none was.
        attribute_recall: accuracy of the predicted attribute among the samples of each attribute.
        object_recall: likewise for objects.
        world: "closed": candidates are the compositions of the data set; "open": all attributes
            with all objects.
        modality_gap: `relative_modality_gap` and `modality_gap_l2` of each kind of image feature,
            by its name; empty where no features were seen.
        patch_shares: how much of the work patches do, see `PatchShares`; empty where a method
            compares none.

    Examples:
        >>> import numpy as np
        >>> curve = {name: np.array([0.5, 0.0]) for name in ("bias", "seen", "unseen")}
        >>> result = CZSLResult(0.5, 0.25, 0.2, 0.1, 0.6, 0.7, curve, 1.5, "exact", 8, 4)
        >>> print(result)
        S 50.00  U 25.00  HM 20.00  AUC 10.00  attribute 60.00  object 70.00  (%, exact protocol)
        >>> print(result.table())
        protocol        S      U     HM    AUC    attribute    object
        ----------  -----  -----  -----  -----  -----------  --------
        exact       50.00  25.00  20.00  10.00        60.00     70.00
    """

    seen: float
    unseen: float
    hm: float
    auc: float
    attribute: float
    object: float
    curve: dict[str, NDArray[np.float64]] = field(repr=False, compare=False)
    bias: float
    protocol: Protocol
    seen_samples: int
    unseen_samples: int
    ties: float = 0.0
    bias_lost: float = 0.0
    candidates: int | None = None
    unseen_candidates: int | None = None
    unseen_compositions: int | None = None
    threshold: float | None = None
    attribute_recall: dict[str, float] = field(default_factory=dict, repr=False)
    object_recall: dict[str, float] = field(default_factory=dict, repr=False)
    world: World = "closed"
    modality_gap: dict[str, dict[str, float]] = field(default_factory=dict, repr=False)
    patch_shares: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def hm_seen(self) -> float:
        """Seen accuracy at the best harmonic mean."""
        return float(self.curve["seen"][self._best])

    @property
    def hm_unseen(self) -> float:
        """Unseen accuracy at the best harmonic mean."""
        return float(self.curve["unseen"][self._best])

    @property
    def _best(self) -> int:
        return int(np.argmax(self.curve["bias"] == self.bias))

    def chance(self) -> Chance | None:
        """Return what random scores reach on this split by this protocol, see `chance_row`.

        None if the number of candidates is not known.
        """
        if self.candidates is None or self.unseen_candidates is None:
            return None
        return chance_row(
            seen_candidates=self.candidates - self.unseen_candidates,
            unseen_candidates=self.unseen_candidates,
            seen_images=self.seen_samples,
            unseen_images=self.unseen_samples,
            protocol=self.protocol,
        )

    def notes(self) -> list[str]:
        """Return sentences on what the figures hide: patches that do nothing, a small split, …"""
        sentences = patch_notes(self.patch_shares)
        if self.bias_lost > _WORTH_A_NOTE:
            sentences.append(
                f"The legacy protocol's bias of 1000 decides {100 * self.bias_lost:.1f} % of the "
                "images wrongly: these scores are lost beside it in float32, or exceed it. U, HM "
                "and AUC are off: use the exact protocol, or logits of a scale of 1 to 100."
            )
        if self.protocol == "legacy" and self.ties > _WORTH_A_NOTE:
            sentences.append(
                f"At the legacy protocol's bias of 1000 the label ties with a rival in "
                f"{100 * self.ties:.1f} % of the images, as float32 resolves steps of 6e-5 there, "
                "and the order of the columns decides. The exact protocol has no such limit."
            )
        if self.unseen_compositions is not None:
            sentences += small_sample_warnings(
                unseen_compositions=self.unseen_compositions,
                seen_images=self.seen_samples,
                unseen_images=self.unseen_samples,
            )
        return sentences

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """Return the result as plain JSON types; an infinite bias becomes "inf" or "-inf".

        Args:
            details: whether to put in the curve, as three lists, and both recalls.
        """
        shown = [f.name for f in fields(self) if details or f.name not in _DETAILS]
        values: dict[str, Any] = {name: deepcopy(getattr(self, name)) for name in shown}
        values |= {"bias": _finite(self.bias), "hm_seen": self.hm_seen, "hm_unseen": self.hm_unseen}
        if details:
            values["curve"] = {
                name: [_finite(value) for value in points.tolist()]
                for name, points in self.curve.items()
            }
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CZSLResult":
        """Return the result that `to_dict(details=True)` described.

        Raises:
            KeyError: a value is missing.
            TypeError: there is an unknown one.
        """
        own = {
            name: value for name, value in values.items() if name not in ("hm_seen", "hm_unseen")
        }
        curve = {name: np.asarray(points, dtype=float) for name, points in own["curve"].items()}
        return cls(**{**own, "curve": curve, "bias": float(own["bias"])})

    def to_frame(self) -> "pd.DataFrame":
        """Return one row of fractions as a `pandas.DataFrame`; concatenate those of many runs."""
        import pandas as pd

        names = ("protocol", "world", "seen", "unseen", "hm", "auc", "attribute", "object", "bias")
        return pd.DataFrame(
            {name: [getattr(self, name)] for name in (*names, "candidates", "threshold")}
        )

    def table(self) -> str:
        """Return the metrics in percent as a table, chance below; ties if there are any."""
        from tabulate import tabulate

        row: dict[str, str] = {"protocol": self.protocol}
        row.update({name: f"{100 * value:.2f}" for name, value in self._named().items()})
        if self.threshold is not None:
            row["threshold"] = f"{self.threshold:.4f}"
        if self.ties:
            row["ties"] = f"{100 * self.ties:.2f}"
        rows, chance = [row], self.chance()
        if chance is not None:
            figures = {name: f"{100 * value:.2f}" for name, value in chance.named().items()}
            rows.append({"protocol": "chance", **figures})
        align = ["left"] + ["right"] * (len(row) - 1)
        return tabulate(rows, headers="keys", colalign=align, disable_numparse=True)

    def __str__(self) -> str:
        metrics = "  ".join(f"{name} {100 * value:.2f}" for name, value in self._named().items())
        threshold = "" if self.threshold is None else f", feasibility >= {self.threshold:.4f}"
        lost = self.bias_lost > _WORTH_A_NOTE
        warning = f", bias steps lost in {100 * self.bias_lost:.1f} % of the images" if lost else ""
        return f"{metrics}  (%, {self.protocol} protocol{threshold}{warning})"

    def _named(self) -> dict[str, float]:
        return {name: getattr(self, field) for name, field in COLUMNS.items()}


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
