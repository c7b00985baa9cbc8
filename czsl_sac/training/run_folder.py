"""The folder of a run: what is in it, written whole or not at all, checked when it is read.

`config.json` is the record of the run: configuration, compositions, backbone, data, versions.
`last.pt` holds all that continues it, and is the truth about how far it has come; whatever else
follows from it says which weights it belongs to: `best.safetensors` (trained weights of the best
epoch), `memory.safetensors` (what the method remembers of the training images), `metrics.jsonl`
(one record an epoch) and `test.json` (the result of the best epoch).
"""

import io
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from czsl_sac.evaluation import CZSLResult
from czsl_sac.files import (
    clear_temporaries,
    load_tensors,
    read_json,
    read_metadata,
    save_json,
    save_tensors,
    write_bytes,
)
from czsl_sac.training.record import RunRecord

RECORD, LAST, BEST = "config.json", "last.pt", "best.safetensors"
MEMORY, METRICS, TEST = "memory.safetensors", "metrics.jsonl", "test.json"
_CLAIM, _HOLDER = ".claim", ".claim.json"
_SEAL = b"\nsha256:"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        stage: index of the stage to continue with.
        epoch: epochs of that stage that have ended.
        best_auc: best validation AUC of that stage so far.
        best: which weights are the best, `"STAGE:EPOCH"`; empty before the first epoch has ended.
        records: one record per epoch, as in `metrics.jsonl`.
        finished: whether the last stage has had all its epochs.
    """

    stage: int = 0
    epoch: int = 0
    best_auc: float = -1.0
    best: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False


@dataclass
class Checkpoint:
    """All that continues a run, as `last.pt` holds it.

    Attributes:
        progress: how far it has come.
        weights: of the last epoch, by name.
        best_weights: of the best epoch of the stage.
        trainer: state of optimiser and schedule.
    """

    progress: Progress
    weights: dict[str, Tensor]
    best_weights: dict[str, Tensor]
    trainer: dict[str, Any]


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
        buffer = io.BytesIO()
        torch.save({**vars(checkpoint), "progress": asdict(checkpoint.progress)}, buffer)
        content = buffer.getvalue()
        write_bytes(self.path / LAST, content + _SEAL + sha256(content).hexdigest().encode())
        self.derive(checkpoint)

    def derive(self, checkpoint: Checkpoint) -> None:
        """Bring the files that follow from a checkpoint in line with it.

        Args:
            checkpoint: the run's.
        """
        if self._tag(BEST) != checkpoint.progress.best:
            self.save_best(checkpoint.best_weights, checkpoint.progress.best)
        metrics = "".join(json.dumps(r) + "\n" for r in checkpoint.progress.records).encode()
        path = self.path / METRICS
        if not path.is_file() or path.read_bytes() != metrics:
            write_bytes(path, metrics)

    def load_checkpoint(self) -> Checkpoint | None:
        """Return how far the run has come; None if no epoch has ended.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path / LAST
        if not path.is_file():
            return None
        content, seal, digest = path.read_bytes().rpartition(_SEAL)
        if not seal or digest != sha256(content).hexdigest().encode():
            raise ValueError(
                f"{path} is damaged but must be a checkpoint as it was written: delete it and "
                "train the run again, or put a copy of it back."
            )
        try:
            values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return Checkpoint(**{**values, "progress": Progress(**values["progress"])})
        except Exception as error:  # torch raises many types for a file that is none of its own
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"{path} is of another version of czsl-sac but must be a checkpoint of this one "
                f"({reason}): train the run again."
            ) from error

    def save_best(self, weights: dict[str, Tensor], tag: str) -> None:
        """Write the trained weights of the best epoch.

        Args:
            weights: by name.
            tag: which they are, `"STAGE:EPOCH"`.
        """
        save_tensors(self.path / BEST, weights, {"weights": tag})

    def weights(self, checkpoint: Literal["best", "last"]) -> tuple[str, dict[str, Tensor]]:
        """Return which weights a checkpoint holds, and these.

        Args:
            checkpoint: `"best"` by validation AUC, or `"last"`.

        Raises:
            FileNotFoundError: no epoch has ended yet.
            ValueError: the file is damaged.
        """
        saved = self.load_checkpoint()
        if saved is not None and checkpoint == "last":
            done = saved.progress.records[-1:]
            tags = [f"{record['stage']}:{record['epoch']}" for record in done]
            return (tags or [saved.progress.best])[0], saved.weights
        if saved is not None and self._tag(BEST) != saved.progress.best:
            return saved.progress.best, saved.best_weights  # killed before they were written
        if checkpoint == "last" or not (self.path / BEST).is_file():
            raise FileNotFoundError(
                f"there is no {checkpoint} checkpoint in {self.path}: no epoch has ended yet; "
                f"continue with czsl-sac train --resume --run-dir {self.path}."
            )
        return self._tag(BEST) or "", load_tensors(self.path / BEST)

    def save_memory(self, state: dict[str, Tensor], tag: str) -> None:
        """Write what the method remembers of the training images.

        Args:
            state: tensors by name.
            tag: weights by which it was filled.
        """
        save_tensors(self.path / MEMORY, state, {"weights": tag})

    def load_memory(self, tag: str) -> dict[str, Tensor] | None:
        """Return what the method remembers; None if it was not filled by these weights.

        Args:
            tag: the weights in use.

        Raises:
            ValueError: the file is damaged.
        """
        return load_tensors(self.path / MEMORY) if self._tag(MEMORY) == tag else None

    def save_test(self, result: CZSLResult, tag: str, batch_size: int) -> None:
        """Write the result on the test split.

        Args:
            result: metrics.
            tag: weights that were tested.
            batch_size: images of a batch, which decides how often a dynamic memory is updated.
        """
        about = {"weights": tag, "batch_size": batch_size}
        save_json(self.path / TEST, {**about, "result": result.to_dict(details=True)})

    def load_test(self, tag: str, batch_size: int) -> CZSLResult | None:
        """Return what `save_test` wrote; None if it was not of these weights and batches.

        Args:
            tag: the weights in use.
            batch_size: images of a batch.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path / TEST
        if not path.is_file():
            return None
        found = read_json(path, "delete it, it is made again")
        try:
            same = (found["weights"], found["batch_size"]) == (tag, batch_size)
            return CZSLResult.from_dict(found["result"]) if same else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged but must hold a result ({error!r}): delete it, it is made "
                "again."
            ) from error

    def records(self) -> list[dict[str, Any]]:
        """Return one record per epoch.

        Raises:
            ValueError: the file is damaged.
        """
        saved = self.load_checkpoint()
        return [] if saved is None else saved.progress.records

    def _tag(self, name: str) -> str | None:
        """Return which weights a file belongs to; None if there is no such file."""
        path = self.path / name
        return read_metadata(path).get("weights", "") if path.is_file() else None


def _described(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text("utf-8"))
        return f"process {found['process']} of {found['machine']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
