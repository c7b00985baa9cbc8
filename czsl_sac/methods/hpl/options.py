"""Options of HPL; its published settings are MIT-States', the other data sets' are CSP's."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from czsl_sac.checks import check_range
from czsl_sac.methods.csp.options import CSPOptions
from czsl_sac.methods.options import Published, Settings, WordOptions, printed


@dataclass(frozen=True)
class HPLOptions(WordOptions):
    """Prompts of compositions, of attributes of a thing, and of the objects."""

    name: ClassVar[str] = "hpl"
    label: ClassVar[str] = "HPL"
    implementation: ClassVar[str] = "czsl_sac.methods.hpl.method:HPL"
    citation: ClassVar[str] = "Wang et al., IJCAI 2023"
    published: ClassVar[Published] = printed(
        """
        closed | 63.0 68.8 48.2 35.0 | 47.5 50.6 37.3 20.2 | 30.8 28.4 22.4 7.2
        open   | 63.4 48.1 40.2 24.6 | 46.4 18.9 19.8 6.9  | 30.1 5.8 7.5 1.4
        """
    )
    settings: ClassVar[Settings] = CSPOptions.settings
    inference: ClassVar[frozenset[str]] = WordOptions.inference | {"primitive_share"}
    looks_at: ClassVar[Literal["aligned"]] = "aligned"
    train_primitives: ClassVar[bool] = True

    train_context: bool = False
    """Learn the context words, which the three prompts share."""
    train_fillers: bool = True
    """Learn "the" and "thing" as the published code does; the paper fixes them."""
    primitive_share: float = 0.5
    """Share α of attribute and object in the score: (1 - α) pair + α (attribute + object)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("primitive_share", self.primitive_share, low=0, high=1)
