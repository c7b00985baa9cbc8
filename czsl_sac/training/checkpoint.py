"""All that continues a run, as bytes with a checksum."""

import io
import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

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

    def to_bytes(self, run: str) -> bytes:
        """Return the checkpoint of a run as bytes, the same whether it was resumed or not."""
        buffer = io.BytesIO()
        progress = json.dumps(asdict(self.progress))  # text knows no identity of objects
        torch.save({**vars(self), "progress": progress, "run": run}, buffer)
        content = buffer.getvalue()
        return content + _SEAL + sha256(content).hexdigest().encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "tuple[str, Checkpoint]":
        """Return the identity of the run and the checkpoint that `to_bytes` wrote.

        Raises:
            ValueError: these are others.
        """
        inner, found, digest = content.rpartition(_SEAL)
        if not found or digest != sha256(inner).hexdigest().encode():
            raise ValueError(
                "the file is damaged but must be a checkpoint as it was written: delete it and "
                "train the run again, or put a copy of it back."
            )
        try:
            values = torch.load(io.BytesIO(inner), map_location="cpu", weights_only=True)
            run, progress = values.pop("run"), Progress(**json.loads(values["progress"]))
            return run, cls(**{**values, "progress": progress})
        except Exception as error:  # torch raises many types for a file that is none of its own
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(
                "the file is of another version of czsl-sac but must be a checkpoint of this one "
                f"({reason}): train the run again."
            ) from error
