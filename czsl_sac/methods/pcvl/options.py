"""Options of PCVL; where the paper's values could not be read, its settings are CSP's."""

from dataclasses import dataclass
from typing import ClassVar

from czsl_sac.methods.csp.options import CSPOptions
from czsl_sac.methods.options import Published, printed


@dataclass(frozen=True)
class PCVLOptions(CSPOptions):
    """A learned vector per attribute and object, in a learned context."""

    name: ClassVar[str] = "pcvl"
    label: ClassVar[str] = "PCVL"
    implementation: ClassVar[str] = "czsl_sac.methods.pcvl.method:PCVL"
    citation: ClassVar[str] = "Xu et al., arXiv 2211.05077"
    published: ClassVar[Published] = printed(
        """
        closed | 64.4 64.0 46.1 32.2 | 48.5 47.2 35.3 18.3
        open   | 64.6 44.0 37.1 21.6 | 48.5 16.0 17.7 6.1
        """
    )
    train_context: ClassVar[bool] = True
