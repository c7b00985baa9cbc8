"""Runs on the Hugging Face Hub: the files that prediction and evaluation need, and no path."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from czsl_sac.files import save_json
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run_folder import BEST, MEMORY, METRICS, RECORD, TEST, RunFolder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
_FILES = (RECORD, BEST, MEMORY, METRICS, TEST)
_PATHS = ("data_root", "feature_cache")


def share_run(folder: RunFolder, into: Path) -> None:
    """Copy what of a run others need, without the paths of this machine.

    Args:
        folder: of a run whose best epoch is known.
        into: an empty folder.

    Raises:
        FileNotFoundError: the folder holds no run, or no epoch has ended.
        ValueError: the backbone is a file of this machine, which others do not have.
    """
    record = folder.read_record()
    if Path(record.config.backbone.backbone).exists():
        raise ValueError(
            f"backbone is {record.config.backbone.backbone}, a file of this machine, but must be "
            "one that others can load by its name: train the run on such a one."
        )
    folder.weights("best")
    save_json(into / RECORD, _without_paths(record).to_dict())
    for name in _FILES[1:]:
        if (folder.path / name).is_file():
            (into / name).write_bytes((folder.path / name).read_bytes())


def _without_paths(record: RunRecord) -> RunRecord:
    config = record.config
    data = replace(config.data, data_root=None, feature_cache=None)
    kept = [c for c in record.changes if str(c.get("option", "")).rpartition(".")[2] not in _PATHS]
    return replace(record, config=replace(config, data=data), changes=tuple(kept))


def download_run(name: str) -> Path:
    """Return the folder of a run of the hub, which is kept in the hub's own cache.

    Args:
        name: `hf:USER/NAME`, or `hf:USER/NAME@REVISION`.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: the name is of another form.
        ConnectionError: the hub, or the run on it, cannot be had.
    """
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    check_repo("path", repo)
    api = hub()
    found = asked(
        name,
        lambda: api.snapshot_download(repo, revision=revision or None, allow_patterns=list(_FILES)),
    )
    return Path(found)


def check_repo(argument: str, repo: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        ValueError: it is none.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"{argument} is {repo!r} but must be USER/NAME of the Hugging Face Hub.")


def hub(token: str | None = None) -> "HfApi":
    """Return the hub, for the owner of a token; None is who is logged in.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError(
            "runs of the Hugging Face Hub need huggingface_hub, which is not installed: "
            'pip install "czsl-sac[hub]".'
        ) from error
    return HfApi(token=token)


def asked(name: str, call: Callable[[], Any]) -> Any:
    """Return what the hub answers.

    Args:
        name: what it is asked about.
        call: asks it.

    Raises:
        ConnectionError: it cannot be reached, or says no.
    """
    try:
        return call()
    except Exception as error:  # its versions have their errors from other libraries each
        if isinstance(error, ValueError | TypeError) and not isinstance(error, OSError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(
            f"{name} could not be had from the Hugging Face Hub ({reason}): see whether the name "
            "is right, the network is there, and you are logged in."
        ) from error
