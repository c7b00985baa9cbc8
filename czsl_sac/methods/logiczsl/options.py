"""Options of LogiCZSL; all but the logic is Troika's, its published settings included."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import Published, Settings, printed
from czsl_sac.methods.troika.options import TroikaOptions

BUILT_IN = ("scenes", "ut-zappos")
"""Concept trees that come with the package: a stand-in for the scenes, and UT-Zappos's."""


@dataclass(frozen=True)
class LogiCZSLOptions(TroikaOptions):
    """Troika with losses for broken rules about attributes, objects and their concepts."""

    name: ClassVar[str] = "logiczsl"
    label: ClassVar[str] = "LogiCZSL"
    implementation: ClassVar[str] = "czsl_sac.methods.logiczsl.method:LogiCZSL"
    questionnaire: ClassVar[str] = "czsl_sac.methods.logiczsl.question:ConceptQuestion"
    citation: ClassVar[str] = "Wu et al., CVPR 2025 (re-interpreted)"
    published: ClassVar[Published] = printed(
        """
        closed | 69.6 74.9 57.8 45.8 | 50.8 53.9 40.5 23.4 | 44.4 39.4 33.3 15.3
        open   | 69.6 63.7 50.8 36.2 | 50.7 21.4 22.4 8.7  | 43.7 9.3 12.6 3.4
        """
    )
    settings: ClassVar[Settings] = {
        **TroikaOptions.settings,
        "scenes": {**TroikaOptions.settings["scenes"], "lr": 8e-3, "concepts": "scenes"},
        "ut-zappos": {**TroikaOptions.settings["ut-zappos"], "concepts": "ut-zappos"},
    }

    concepts: str | None = None
    """File of concepts, as czsl-sac describe makes it, or scenes or ut-zappos, which come with the
    package; None has no concepts, which leaves the rule about compositions."""
    parents: Literal["text", "sum"] = "text"
    """How true a concept is of an image: by a text of its own, or the sum of its members."""
    logic_weight: float = 0.3
    """Weight of the broken rules in the loss, and of the concepts' own cross-entropy."""
    logic_exponent: float = 2.0
    """Exponent p of the mean over rules; the larger, the more the worst rule counts."""
    logic_ramp: int = 1
    """Epochs over which the rules come in: none in the first, all after so many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "logic_weight", "logic_ramp", low=0)
        check_range("logic_exponent", self.logic_exponent, above=0)

    def unread(self) -> dict[str, str]:
        """Return what is idle without concepts, or without logic."""
        idle = super().unread()
        if self.concepts is None:
            idle |= {"parents": "concepts is None"}
        if self.logic_weight == 0:
            names = ("concepts", "parents", "logic_exponent", "logic_ramp")
            idle |= dict.fromkeys(names, "logic_weight is 0")
        return idle
