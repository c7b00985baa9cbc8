"""The folder of a run: what is in it, written whole or not at all, checked when it is read.

`config.json` is the record of the run: configuration, compositions, backbone, data, versions.
`last.pt` holds all that continues it, and is the truth about how far it has come; whatever else
follows from it says which weights it belongs to: `best.safetensors` (trained weights of the best
epoch), `memory.safetensors` (what the method remembers of the training images), `metrics.jsonl`
(one record an epoch) and `test.json` (the result of the best epoch).
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from torch import Tensor

from czsl_sac.evaluation import CZSLResult
from czsl_sac.files import (
    clear_temporaries,
    is_sealed,
    load_tensors,
    read_json,
    read_metadata,
    save_json,
    save_tensors,
    seal,
    write_bytes,
)
from czsl_sac.training.checkpoint import Checkpoint
from czsl_sac.training.record import RunRecord

RECORD, LAST, BEST = "config.json", "last.pt", "best.safetensors"
MEMORY, METRICS, TEST = "memory.safetensors", "metrics.jsonl", "test.json"
_CLAIM, _HOLDER = ".claim", ".claim.json"
_MADE_AGAIN = "delete it, it is made again"


class Weights(NamedTuple):
    """Trained weights of a run.

    Attributes:
        tag: which they are, `"STAGE:EPOCH"`.
        file: that holds them.
        tensors: by name.
    """

    tag: str
    file: Path
    tensors: dict[str, Tensor]


class RunFolder:
    """A run on disk.

    Args:
        path: the folder; it need not exist yet.

    Examples:
        >>> RunFolder("runs/none").holds_run
        False
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / RECORD).is_file()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder for one training; what a killed writer left behind is cleared away.

        A folder that was made for it and in which no run was begun is removed again.

        Raises:
            FileExistsError: another process holds it.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        lock, holder = FileLock(self.path / _CLAIM), self.path / _HOLDER
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(
                f"run_dir is {self.path} but {_described(holder)} trains there now: wait until "
                "it has ended, or take another --run-dir."
            ) from None
        try:
            save_json(holder, {"process": os.getpid(), "machine": socket.gethostname()})
            clear_temporaries(self.path)
            yield
        finally:
            holder.unlink(missing_ok=True)
            if not self.holds_run:
                (self.path / _CLAIM).unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):  # something else is there
                for path in made:
                    path.rmdir()

    def write_record(self, record: RunRecord) -> None:
        """Write what the run is; this is what makes the folder a run."""
        save_json(self.path / RECORD, record.to_dict())

    def read_record(self) -> RunRecord:
        """Return what the run is.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: the record is damaged, or of another version.
        """
        path = self.path / RECORD
        if not path.is_file():
            lacking = "" if self.path.is_dir() else f": the folder {self.path} does not exist"
            raise FileNotFoundError(
                f"there is no run in {self.path}{lacking or f', since it has no {RECORD}'}; "
                "czsl-sac train --run-dir makes one."
            )
        try:
            return RunRecord.from_dict(read_json(path, "train the run again"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            text = str(error)
            raise ValueError(text if str(path) in text else f"{path}: {text}") from error

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write how far the run has come, then what follows from it.

        Args:
            checkpoint: after an epoch.
        """
        write_bytes(self.path / LAST, checkpoint.to_bytes(self._identity()))
        self.derive(checkpoint)

    def derive(self, checkpoint: Checkpoint) -> None:
        """Bring the files that follow from a checkpoint in line with it.

        Args:
            checkpoint: the run's.
        """
        progress, stale = checkpoint.progress, self.stale(checkpoint)
        if BEST in stale:
            self._save_tensors(BEST, checkpoint.best_weights, progress.best)
        if METRICS in stale:
            write_bytes(self.path / METRICS, _lines(progress.records))

    def stale(self, checkpoint: Checkpoint) -> set[str]:
        """Return which of these files do not follow from a checkpoint.

        Args:
            checkpoint: the run's.

        Raises:
            ValueError: the best weights are damaged.
        """
        progress, metrics = checkpoint.progress, self._file(METRICS)
        stale = set() if self._tag(BEST) == progress.best else {BEST}
        if metrics is None or metrics.read_bytes() != _lines(progress.records):
            stale.add(METRICS)
        return stale

    def load_checkpoint(self) -> Checkpoint | None:
        """Return how far the run has come; None if no epoch has ended.

        Raises:
            ValueError: the file is damaged.
        """
        path = self._file(LAST)
        if path is None:
            return None
        with naming(path):
            run, checkpoint = Checkpoint.from_bytes(path.read_bytes())
        if run != self._identity():
            raise self._foreign(path)
        return checkpoint

    def weights(self, checkpoint: Literal["best", "last"]) -> Weights:
        """Return the weights of a checkpoint.

        Args:
            checkpoint: `"best"` by validation AUC, or `"last"`.

        Raises:
            FileNotFoundError: no epoch has ended yet.
            ValueError: the file is damaged.
        """
        saved, tag = self.load_checkpoint(), self._tag(BEST)
        if saved is not None and checkpoint == "last":
            done = saved.progress.records[-1:]
            tags = [f"{record['stage']}:{record['epoch']}" for record in done]
            return Weights((tags or [saved.progress.best])[0], self.path / LAST, saved.weights)
        if saved is not None and tag != saved.progress.best:  # killed before they were written
            return Weights(saved.progress.best, self.path / LAST, saved.best_weights)
        if checkpoint == "last" or tag is None:
            raise FileNotFoundError(
                f"there is no {checkpoint} checkpoint in {self.path}: no epoch has ended yet; "
                f"continue with czsl-sac train --resume --run-dir {self.path}."
            )
        if not tag:
            raise self._foreign(self.path / BEST)
        return Weights(tag, self.path / BEST, self._tensors(BEST))

    def save_memory(self, state: dict[str, Tensor], tag: str) -> None:
        """Write what the method remembers of the training images.

        Args:
            state: tensors by name.
            tag: weights by which it was filled.
        """
        self._save_tensors(MEMORY, state, tag)

    def load_memory(self, tag: str) -> dict[str, Tensor] | None:
        """Return what the method remembers; None if it was not filled by these weights.

        Args:
            tag: the weights in use.

        Raises:
            ValueError: the file is damaged.
        """
        return self._tensors(MEMORY) if self._tag(MEMORY) == tag else None

    def save_test(self, result: CZSLResult, tag: str, batch_size: int) -> None:
        """Write the result on the test split.

        Args:
            result: metrics.
            tag: weights that were tested.
            batch_size: images of a batch, which decides how often a dynamic memory is updated.
        """
        about = {"run": self._identity(), "weights": tag, "batch_size": batch_size}
        save_json(self.path / TEST, seal({**about, "result": result.to_dict(details=True)}))

    def load_test(self, tag: str, batch_size: int) -> CZSLResult | None:
        """Return what `save_test` wrote; None if it was not of these weights and batches.

        Args:
            tag: the weights in use.
            batch_size: images of a batch.

        Raises:
            ValueError: the file is damaged.
        """
        path = self._file(TEST)
        if path is None:
            return None
        found = read_json(path, _MADE_AGAIN)
        if not is_sealed(found):
            raise ValueError(
                f"{path} is damaged but must hold a result as it was written: {_MADE_AGAIN}."
            )
        about = {"run": self._identity(), "weights": tag, "batch_size": batch_size}
        if {name: found.get(name) for name in about} != about:
            return None
        with naming(path):
            return CZSLResult.from_dict(found["result"])

    def records(self) -> list[dict[str, Any]]:
        """Return one record per epoch.

        Raises:
            ValueError: the file is damaged.
        """
        saved = self.load_checkpoint()
        return [] if saved is None else saved.progress.records

    def epoch_of(self, checkpoint: Literal["best", "last"]) -> dict[str, Any] | None:
        """Return the record of the epoch whose weights a checkpoint holds; None if there is none.

        Args:
            checkpoint: `"best"` by validation AUC, or `"last"`.

        Raises:
            ValueError: the file is damaged.
        """
        saved = self.load_checkpoint()
        if saved is None:
            return None
        progress = saved.progress
        if checkpoint == "last":
            return progress.records[-1] if progress.records else None
        of_best = (r for r in progress.records if f"{r['stage']}:{r['epoch']}" == progress.best)
        return next(of_best, None)

    def _identity(self) -> str:
        return self.read_record().identity if self.holds_run else ""

    def _save_tensors(self, name: str, tensors: dict[str, Tensor], tag: str) -> None:
        save_tensors(self.path / name, tensors, {"weights": tag, "run": self._identity()})

    def _tag(self, name: str) -> str | None:
        """Return which weights a file belongs to; empty if to those of another run.

        None if there is no such file.
        """
        path = self._file(name)
        if path is None:
            return None
        metadata = read_metadata(path, remedy=self._remedy(name))
        return metadata.get("weights", "") if metadata.get("run") == self._identity() else ""

    def _foreign(self, path: Path) -> ValueError:
        return ValueError(
            f"{path} is of another run but must be of the one in {self.path}: put its own back, or "
            "train the run again."
        )

    def _tensors(self, name: str) -> dict[str, Tensor]:
        return load_tensors(self.path / name, remedy=self._remedy(name), checked=True)

    def _remedy(self, name: str) -> str:
        if name == MEMORY:
            return _MADE_AGAIN
        return f"delete it; czsl-sac train --resume --run-dir {self.path} makes it again"

    def _file(self, name: str) -> Path | None:
        """Return a file of the run; None if there is none."""
        path = self.path / name
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder but must be a file that a run wrote: put it elsewhere."
            )
        return path if path.is_file() else None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error in what a file holds name the file.

    Raises:
        ValueError: what it holds does not fit the run.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} does not fit the run ({type(error).__name__}: {reason}): put a copy of it "
            "back, or train the run again."
        ) from error


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _described(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text("utf-8"))
        return f"process {found['process']} of {found['machine']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
