"""`czsl-sac describe`: what a method wants to know of a language model, as the file it reads."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from czsl_sac.checks import check_not_folder, check_range
from czsl_sac.cli.options import parse_options
from czsl_sac.methods.registry import method_names, method_options
from czsl_sac.words import counted, visible

if TYPE_CHECKING:
    from czsl_sac.methods.language_models import LanguageModel
    from czsl_sac.space import CompositionSpace


@dataclass(frozen=True)
class DescribeOptions:
    """Ask a language model what a method wants to know of a data set, and write the file it reads.

    PLID takes sentences about compositions, LogiCZSL concepts above attributes and objects. Each
    answer is kept at once; what was interrupted goes on where it stopped, and what the file has
    already is not asked again.
    """

    data: tyro.conf.Positional[str]
    """Folder in the standard layout, folder of folders attribute_object, CSV or Parquet table, or
    scenes; no image is opened."""
    method: str
    """Method that reads the file."""
    output: Path
    """File to make, JSON; if it is there, what it lacks is added."""
    model: str
    """Causal language model of transformers, a folder or a name on the Hugging Face hub; with --url
    what the server calls its model."""
    url: str | None = None
    """Server that answers chats in OpenAI's format, such as http://localhost:8000/v1; None loads
    the model here."""
    key_variable: str | None = None
    """Environment variable that holds the server's key; None sends none."""
    world: Literal["closed", "open"] = "closed"
    """Compositions asked about: those of the data set, or every attribute with every object."""
    count: int | None = None
    """PLID: sentences of each composition; None takes 64."""
    prompt: Path | None = None
    """Text file in place of the method's own prompt, with {attribute}, {object}, {picture} and
    {count} (PLID) or {attributes} and {objects} (LogiCZSL) where these go."""
    temperature: float = 1.0
    """Temperature of the draws."""
    seed: int = 0
    """Seed of the draws; a server need not heed it."""

    def __post_init__(self) -> None:
        check_range("count", self.count, low=1)
        check_range("temperature", self.temperature, above=0)
        check_range("seed", self.seed, low=0)
        check_not_folder("output", self.output)
        if not method_options(self.method).questionnaire:
            asking = [name for name in method_names() if method_options(name).questionnaire]
            raise ValueError(
                f"method is {self.method!r}, which asks nothing of a language model, but must be "
                f"one of {', '.join(asking)}: leave describe out."
            )
        if self.key_variable is not None:
            if self.url is None:
                raise ValueError("key_variable is given but url must be, too: add --url URL.")
            if not os.environ.get(self.key_variable):
                raise ValueError(
                    f"key_variable is {self.key_variable!r} but must be an environment variable "
                    "that holds a key: set it."
                )


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(DescribeOptions, "describe", arguments)

    from czsl_sac.methods.questionnaire import put, questionnaire_of  # loads torch

    space = _space(options.data)
    asked = questionnaire_of(method_options(options.method))(
        space if options.world == "closed" else space.open_world(),
        count=options.count,
        prompt=options.prompt.read_text("utf-8") if options.prompt is not None else None,
    )
    about = {"model": options.model, "url": options.url, "temperature": options.temperature}
    answers = put(asked, lambda: _model(options), options.output, seed=options.seed, about=about)
    for sentence in asked.remarks(answers):
        print(sentence)
    told = visible(options.output)
    print(
        f"{told} answers {counted(len(answers), 'question')}. To train with it: "
        f"czsl-sac train --method {options.method} --{asked.option} {told}"
    )
    return 0


def _space(data: str) -> "CompositionSpace":
    if data == "scenes":
        from czsl_sac.data import Scenes

        return Scenes().space
    from czsl_sac.data.sources.compositions import read_compositions

    return read_compositions(Path(data))


def _model(options: DescribeOptions) -> "LanguageModel":
    from czsl_sac.methods.language_models import ChatServer, LocalModel

    if options.url is None:
        return LocalModel(options.model, temperature=options.temperature)
    key = os.environ[options.key_variable] if options.key_variable is not None else ""
    return ChatServer(options.url, options.model, key=key, temperature=options.temperature)
