"""Options of CDS-CZSL; its optimisation is Troika's, for its own could not be read."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.methods.options import PromptOptions, Published, Settings, printed

_NONE: dict[str, Any] = {"train_backbone": "none"}


@dataclass(frozen=True)
class CDSCZSLOptions(PromptOptions):
    """Three branches, and attributes preferred that say more of their object."""

    name: ClassVar[str] = "cds-czsl"
    label: ClassVar[str] = "CDS-CZSL"
    implementation: ClassVar[str] = "czsl_sac.methods.cds_czsl.method:CDSCZSL"
    citation: ClassVar[str] = "Li et al., CVPR 2024 (re-interpreted)"
    published: ClassVar[Published] = printed(
        """
        closed | 63.9 74.8 52.7 39.5 | 50.3 52.9 39.2 22.4 | 38.3 34.2 28.1 11.1
        open   | 64.7 61.3 48.2 32.3 | 49.4 21.8 22.1 8.5  | 37.6 8.2 11.6 2.7
        """
    )
    settings: ClassVar[Settings] = {
        "scenes": {**_NONE, "lr": 1e-3, "prompt_dropout": 0.1},
        "ut-zappos": {**_NONE, "lr": 5e-4, "batch_size": 128},
        "mit-states": {**_NONE, "lr": 1e-4},
        # 16 images a batch rarely show one of 413 attributes twice, which clusters ask for.
        "cgqa": {**_NONE, "lr": 5e-5, "diversity": "objects"},
        "fruit-ripeness": {"prompt_dropout": 0.1},
    }
    inference: ClassVar[frozenset[str]] = PromptOptions.inference | {"refinement"}
    looks_at: ClassVar[Literal["aligned"]] = "aligned"

    branch_reduction: int = 4
    """How many times narrower than the joint space the adapters of attribute and object are."""
    branch_dropout: float = 0.1
    """Dropout inside these adapters."""
    denoiser: Literal["gate", "projection", "none"] = "gate"
    """How the object is taken out of the attribute's view: a learned gate, an orthogonal
    projection, or not at all."""
    diversity: Literal["clusters", "objects"] = "clusters"
    """What an attribute's diversity is measured by: clusters of a batch's objects, or how many
    objects it is seen with."""
    clusters: int = 10
    """Clusters of a batch."""
    diversity_momentum: float = 0.9
    """Share of the diversity so far in the moving average over batches."""
    refinement: float = 0.5
    """Weight of an attribute's log specificity beside its logit; evaluation may change it."""
    specificity_margin: float = 0.1
    """By how much diversities must differ to be ranked, and specificities shall."""
    specificity_loss_weight: float = 0.1
    """Weight of the ranking loss."""
    primitive_loss_weight: float = 1.0
    """Weight of the attribute's and the object's loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("branch_reduction", self.branch_reduction, low=1)
        check_ranges(self, "branch_dropout", "diversity_momentum", low=0, below=1)
        check_range("specificity_margin", self.specificity_margin, low=0, below=1)
        check_range("clusters", self.clusters, low=2)
        check_ranges(self, "refinement", "specificity_loss_weight", "primitive_loss_weight", low=0)

    def unread(self) -> dict[str, str]:
        """Return what is idle where no batch is clustered."""
        if self.diversity == "clusters":
            return super().unread()
        names = ("clusters", "diversity_momentum")
        return super().unread() | dict.fromkeys(names, 'diversity is "objects"')
