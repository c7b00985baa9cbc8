"""What a method asks of a language model, and the answers kept one by one until all are there."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from filelock import FileLock, Timeout
from tqdm import tqdm

from czsl_sac.files import save_json
from czsl_sac.methods.language_models import LanguageModel
from czsl_sac.methods.options import MethodOptions
from czsl_sac.space import CompositionSpace

Key: TypeAlias = tuple[str, ...]
"""What a question is about: attribute and object, say."""


class Questionnaire(ABC):
    """The questions of one method about a space, and the file that their answers make.

    Args:
        space: the compositions that are asked about.
        count: answers wanted of each question; None takes the method's own number.
        prompt: words of the question in place of the method's own; None takes those.

    Raises:
        ValueError: the method has no number of answers, or the prompt lacks a place.
    """

    option: ClassVar[str] = ""
    """The method's option that names the file."""
    places: ClassVar[tuple[str, ...]] = ()
    """Words in braces of which a prompt must have one at least."""

    def __init__(
        self, space: CompositionSpace, *, count: int | None = None, prompt: str | None = None
    ) -> None:
        if prompt is not None and not any(place in prompt for place in self.places):
            raise ValueError(
                f"prompt has no {' or '.join(self.places)} but must: add it where the name goes."
            )
        self.space, self.count, self.prompt = space, count, prompt

    @abstractmethod
    def questions(self) -> list[Key]:
        """Return what is asked, in order."""

    @abstractmethod
    def ask(self, key: Key, model: LanguageModel, seed: int) -> Any:
        """Return the answer to one question, of JSON types.

        Args:
            key: what it is about.
            model: who is asked.
            seed: the same seed, key and model give the same answer.
        """

    @abstractmethod
    def answered(self, path: Path) -> dict[Key, Any]:
        """Return the answers that a finished file holds.

        Raises:
            ValueError: it is another file.
        """

    @abstractmethod
    def content(self, answers: Mapping[Key, Any]) -> Any:
        """Return what the method's file holds, of JSON types."""

    @abstractmethod
    def remarks(self, answers: Mapping[Key, Any]) -> list[str]:
        """Return a sentence on what the answers lack, or none."""


def questionnaire_of(options: type[MethodOptions]) -> type[Questionnaire]:
    """Return the questionnaire of a method."""
    module, _, name = options.questionnaire.partition(":")
    found: type[Questionnaire] = getattr(import_module(module), name)
    return found


def put(
    questionnaire: Questionnaire,
    load: Callable[[], LanguageModel],
    output: Path,
    *,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> dict[Key, Any]:
    """Ask what a file does not answer yet, and write it.

    Each answer is on the disk before the next question is asked, in `OUTPUT.part` beside the file;
    what was interrupted goes on there, and ends in the same file. What the file answers is kept.

    Args:
        questionnaire: what is asked.
        load: makes the model that is asked; not called if nothing is to be asked.
        output: the file to make, or to complete.
        seed: of the draws.
        about: what else decides the answers, by name, such as the model; an interrupted call goes
            on only with the same.

    Returns:
        All answers of the questionnaire, those that were there included.

    Raises:
        FileExistsError: another process writes the file.
        ValueError: the file is another one, or `OUTPUT.part` is of other questions.
    """
    known = questionnaire.answered(output) if output.exists() else {}
    keys = questionnaire.questions()
    journal = output.with_name(f"{output.name}.part")
    how = {"count": questionnaire.count, "prompt": questionnaire.prompt, "seed": seed}
    how |= about or {}
    with _alone(output):
        found = _continued(journal, how)
        missing = [key for key in keys if key not in known and key not in found]
        if missing:
            model = load()
            with journal.open("a", encoding="utf-8") as file:
                if not file.tell():
                    _append(file, how)
                for key in tqdm(missing, "asking", disable=None, leave=False):
                    found[key] = questionnaire.ask(key, model, seed)
                    _append(file, {"key": key, "answer": found[key]})
        known |= found
        if found:
            save_json(output, questionnaire.content(known))
        journal.unlink(missing_ok=True)
    return {key: known[key] for key in keys}


def _append(file: Any, content: object) -> None:
    file.write(json.dumps(content, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _continued(journal: Path, about: Mapping[str, Any]) -> dict[Key, Any]:
    """The answers of an interrupted call; a line that was not written whole is cut off."""
    if not journal.exists():
        return {}
    remedy = "give what it was begun with, or delete it to begin anew"
    data = journal.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        begun, answers = dict(lines[0]) if lines else dict(about), lines[1:]
        found = {tuple(line["key"]): line["answer"] for line in answers}
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{journal} is damaged but must hold the answers of an interrupted call: delete it."
        ) from error
    for name, value in about.items():
        if begun.get(name) != value:
            raise ValueError(
                f"{journal} was begun with {name} {begun.get(name)!r} but now {name} is {value!r}: "
                f"{remedy}."
            )
    if len(whole) < len(data):
        os.truncate(journal, len(whole))
    return found


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold a file for one writer."""
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output.with_name(f"{output.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(
            f"output is {output} but another process writes it now: wait until it has ended, or "
            "name another file."
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
