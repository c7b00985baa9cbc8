"""Options of CSP, and its published settings per data set; those for C-GQA are MIT-States'."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from czsl_sac.methods.options import Published, Settings, WordOptions, printed

PUBLISHED: dict[str, Any] = {
    "train_backbone": "none",
    "epochs": 20,
    "batch_size": 128,
    "lr_step": 20,  # one learning rate for all of training
}
"""Optimisation on every data set."""


@dataclass(frozen=True)
class CSPOptions(WordOptions):
    """One learned vector per attribute and object, in a fixed prompt."""

    name: ClassVar[str] = "csp"
    label: ClassVar[str] = "CSP"
    implementation: ClassVar[str] = "czsl_sac.methods.csp.method:CSP"
    citation: ClassVar[str] = "Nayak et al., ICLR 2023"
    published: ClassVar[Published] = printed(
        """
        closed | 64.2 66.2 46.6 33.0 | 46.6 49.9 36.3 19.4 | 28.8 26.8 20.6 6.2
        open   | 64.1 44.1 38.9 22.7 | 46.3 15.7 17.4 5.7  | 28.7 5.2 6.9 1.2
        """
    )
    settings: ClassVar[Settings] = {
        "scenes": {"train_backbone": "none", "lr": 1e-3},
        "ut-zappos": {**PUBLISHED, "lr": 5e-4, "prompt_dropout": 0.2},
        "mit-states": {**PUBLISHED, "lr": 5e-5},
        "cgqa": {**PUBLISHED, "lr": 5e-5},
        "fruit-ripeness": {"prompt_dropout": 0.1},
    }
    looks_at: ClassVar[Literal["aligned"]] = "aligned"
    train_context: ClassVar[bool] = False
    train_primitives: ClassVar[bool] = True
