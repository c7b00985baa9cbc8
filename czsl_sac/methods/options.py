"""Options of a method, and all that can be said of it without loading torch.

The docstring under each field is also its help on the command line, so it says what the option
does, its unit or range, and where it comes from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from czsl_sac.checks import check_range
from czsl_sac.schema import check_types

DATA_SETS = {"ut-zappos": "UT-Zappos", "mit-states": "MIT-States", "cgqa": "C-GQA"}
"""The paper's data sets, in the order of its tables."""

Reads: TypeAlias = Literal["class_token", "tokens", "states"]
"""What a method takes of an image: the class token, all tokens in the joint space, or the states
of the vision tower. The first two can be kept in a feature cache."""

Settings: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Options by name for each data set, whatever their group, as on the command line."""

Figures: TypeAlias = tuple[float, float, float, float]
"""S, U, HM and AUC in percent."""

Published: TypeAlias = Mapping[str, Mapping[str, Figures]]
"""Figures by world ("closed", "open") and data set."""


def printed(table: str) -> dict[str, dict[str, Figures]]:
    """Return figures by row and data set, of a table as the paper prints it.

    Args:
        table: a line is a label, then S, U, HM and AUC on each of `DATA_SETS` or nothing.

    Examples:
        >>> printed("closed | | 46.9 52.0 37.3 20.6")
        {'closed': {'mit-states': (46.9, 52.0, 37.3, 20.6)}}
    """
    found: dict[str, dict[str, Figures]] = {}
    for line in table.strip().splitlines():
        label, *cells = (part.strip() for part in line.split("|"))
        found[label] = {}
        for name, cell in zip(DATA_SETS, cells, strict=False):
            if cell:
                seen, unseen, hm, auc = map(float, cell.split())
                found[label][name] = (seen, unseen, hm, auc)
    return found


@dataclass(frozen=True)
class MethodOptions:
    """What every method can be told: how images and texts are compared.

    A method's own options derive from this class, name the method and say where it is.

    Raises:
        ValueError: an option has the wrong type or is out of its range.

    Examples:
        >>> @dataclass(frozen=True)
        ... class MyOptions(MethodOptions):
        ...     name: ClassVar[str] = "mine"
        ...     label: ClassVar[str] = "My method"
        ...     implementation: ClassVar[str] = "my_package.mine:MyMethod"
        ...
        ...     margin: float = 0.2
        >>> MyOptions(margin=0.3).alignment
        'cls'
    """

    name: ClassVar[str] = ""
    """How `--method` calls it."""
    label: ClassVar[str] = ""
    """How tables and reports call it."""
    implementation: ClassVar[str] = ""
    """`MODULE:CLASS` of the method, a `CZSLMethod`."""
    citation: ClassVar[str] = ""
    """Where it was published."""
    settings: ClassVar[Settings] = {}
    """What it sets on top of a data set's preset: as published, and on the scenes as chosen on
    validation."""
    published: ClassVar[Published] = {}
    """What the SAC paper prints for it (Tab. 8, 9), with ViT-L/14; none of it is measured here."""
    inference: ClassVar[frozenset[str]] = frozenset({"class_weight"})
    """Options that prediction may change after training."""
    memory: ClassVar[frozenset[str]] = frozenset()
    """Those of them that decide what the memory holds after training."""
    looks_at: ClassVar[Reads | Literal["aligned"]] = "tokens"
    """What the method takes of an image; "aligned": what its alignment looks at, and no more."""
    questionnaire: ClassVar[str] = ""
    """`MODULE:CLASS` of the `Questionnaire` that `czsl-sac describe` puts to a language model."""

    alignment: Literal["patch_max", "cls"] = "cls"
    """Sparse alignment (Eq. 1, 2), or the class token alone as most methods use."""
    reduction: Literal["max", "mean", "attention", "linear", "linear_positions"] = "max"
    """How patch_max turns token similarities into one (Tab. 5); "linear" weighs tokens by what they
    hold, "linear_positions" by where they stand."""
    token_choice: Literal["all", "patches"] = "all"
    """Tokens that patch_max looks at: class token included (Eq. 2), or patches only."""
    class_weight: float = 0.0
    """Weight W of the class token in (1 - W) SA + W CLS (Fig. 4), 0 to 1."""
    temperature: float | None = None
    """Temperature τ of every softmax; None takes the backbone's own (0.01 for OpenAI CLIP)."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range("class_weight", self.class_weight, low=0, high=1)
        check_range("temperature", self.temperature, above=0)

    def unread(self) -> dict[str, str]:
        """Return the options that nothing reads with the others as they are, and the reason."""
        if self.alignment == "patch_max":
            return {}
        return dict.fromkeys(("reduction", "token_choice", "class_weight"), 'alignment is "cls"')

    def on_new_images(self, adapt: bool) -> dict[str, Any]:
        """Return what changes where a user's images are predicted, of `inference`'s options.

        Args:
            adapt: let what is predicted change the predictions that follow.

        Raises:
            ValueError: the method keeps nothing that could change.
        """
        if adapt:
            raise ValueError(
                f"adapt is on but {self.label} must have a memory for it, and this run has none: "
                "leave out --adapt."
            )
        return {}

    @property
    def reads(self) -> Reads:
        """What the method takes of an image."""
        if self.looks_at == "aligned":
            return "class_token" if self.alignment == "cls" else "tokens"
        return self.looks_at

    @property
    def is_transductive(self) -> bool:
        """Whether test images change what is predicted for those after them."""
        return False


@dataclass(frozen=True)
class WordOptions(MethodOptions):
    """A prompt with a learned vector for each attribute and object."""

    template: str = "a photo of"
    """Words of the prompts' context; where it is learned, it starts from them."""
    prompt_dropout: float = 0.3
    """Dropout on attribute and object embeddings in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("prompt_dropout", self.prompt_dropout, low=0, below=1)


@dataclass(frozen=True)
class PromptOptions(WordOptions):
    """Learnable prompts: context words, and a vector for each attribute and object."""

    train_context: bool = True
    """Learn the context words of the prompts."""
    train_primitives: bool = True
    """Learn the attribute and object words of the prompts."""
