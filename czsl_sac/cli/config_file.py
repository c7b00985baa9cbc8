"""A file of options beside those of the command line: JSON or TOML, or the record of a run."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from czsl_sac.checks import check_not_folder
from czsl_sac.cli.options import unknown_option
from czsl_sac.files import read_json
from czsl_sac.training.config import TrainConfig

_ABOUT_A_RUN = ("run_dir", "resume", "config", "print_config", "track")
"""Options of the command that do not say what is trained."""


@dataclass(frozen=True)
class ConfigFile:
    """What a file says.

    Attributes:
        path: of the file.
        preset: that it starts from; None if it names none.
        method: likewise.
        options: by name, of JSON types.
    """

    path: Path
    preset: str | None
    method: str | None
    options: dict[str, Any]

    def over(self, config: TrainConfig) -> TrainConfig:
        """Return a configuration with the file's options laid over it.

        Raises:
            ValueError: an option is unknown, of another method, has a value that does not fit, or
                is read by nothing.
        """
        self.check_names(self.options, config)
        try:
            laid = config.with_json(self.options)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        unread = laid.unread()
        for name in self.options:
            if name in unread:
                raise ValueError(
                    f"{self.path}: {name} is given but {unread[name]}, so that nothing reads it: "
                    "leave it out, or change that."
                )
        return laid

    def check_names(self, names: Iterable[str], config: TrainConfig) -> None:
        """Refuse what is no option of a configuration.

        Raises:
            ValueError: one is unknown, of another method, or of the command line alone.
        """
        known = config.options().keys() | config.unread().keys()
        for name in names:
            if name in _ABOUT_A_RUN:
                raise ValueError(
                    f"{self.path}: {name} is of the command line alone but a file must say what "
                    f"is trained: leave it out, and give --{name.replace('_', '-')}."
                )
            if name not in known:
                sentence = unknown_option(f"--{name}", "train", config).partition(" (czsl-sac")[0]
                raise ValueError(f"{self.path}: {sentence}")


def read_config_file(path: Path) -> ConfigFile:
    """Read a file of options.

    Args:
        path: a `.json` or `.toml` file, or the `config.json` of a run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another format, damaged, or holds something else than options.
        ImportError: it is TOML, and this Python cannot read that.
    """
    check_not_folder("config", path)
    values = read_options(path)
    if "format" in values and isinstance(values.get("config"), dict):
        from czsl_sac.training.record import RunRecord  # loads torch

        values = RunRecord.from_dict(values).config.options()
    for name, value in values.items():
        if isinstance(value, dict):
            raise ValueError(
                f"{path}: {name} is a group but must be an option: write options one below the "
                "other, by their names on the command line, under no heading."
            )
    return config_file(path, values)


def config_file(path: Path, values: dict[str, Any]) -> ConfigFile:
    """Return what a file says, of the options in it.

    Raises:
        ValueError: preset or method is no name.
    """
    options = dict(values)
    preset, method = options.pop("preset", None), options.pop("method", None)
    for name, value in (("preset", preset), ("method", method)):
        if not isinstance(value, str | None):
            raise ValueError(f"{path}: {name} is {value!r} but must be a name: give one in quotes.")
    return ConfigFile(path, preset, method, options)


def read_options(path: Path) -> dict[str, Any]:
    """Return what a `.json` or `.toml` file holds, with underscores in the names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another format, or damaged.
        ImportError: it is TOML, and this Python cannot read that.
    """
    readers: dict[str, Callable[[Path], Any]] = {".json": _json, ".toml": _toml}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'!r} but must end in .json or .toml: "
            "rename it."
        )
    values = readers[path.suffix.lower()](path)
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} holds a {type(values).__name__} but must hold options by name: write NAME = "
            'VALUE in TOML, {"NAME": VALUE} in JSON.'
        )
    return {name.replace("-", "_"): value for name, value in values.items()}


def _json(path: Path) -> Any:
    return read_json(path, "mend it")


def _toml(path: Path) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise ImportError(
                f"{path} is TOML, which Python {sys.version_info[0]}.{sys.version_info[1]} reads "
                "with tomli alone, and that is not installed: pip install tomli"
            ) from error
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:  # of TOML, and of UTF-8
        raise ValueError(f"{path} is damaged but must be TOML ({error}): mend it.") from error
