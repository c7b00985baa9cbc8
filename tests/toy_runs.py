"""Runs of a fraction of a second: a CLIP of one layer in a file, and a table of a few pictures."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from photographs import write_image
from tiny_runs import options_of

from czsl_sac import files
from czsl_sac.clip.sources.openai import import_clip
from czsl_sac.training import loop, record
from czsl_sac.training.config import BackboneConfig, DataConfig, OptimConfig, TrainConfig

_ROOT = TemporaryDirectory(prefix="toy-runs-")  # removed when the tests end

SPLITS = {
    "train": ["red car", "blue cat", "red cat", "old dog"],
    "val": ["blue car", "red car", "old cat"],
    "test": ["old car", "red cat", "blue dog"],
}


class Killed(BaseException):
    """What ends a run where a test wants it, past every `except Exception`."""


@cache
def toy_clip() -> Path:
    """OpenAI's own CLIP with one layer a tower and random weights, in a file."""
    return write_clip(Path(_ROOT.name) / "clip.pt", seed=0)


def write_clip(path: Path, seed: int) -> Path:
    """Write a small CLIP of random weights."""
    torch.manual_seed(seed)
    model = import_clip().model.CLIP(16, 32, 1, 64, 16, 77, 49408, 64, 1, 1)
    torch.save({**model.state_dict(), "context_length": torch.tensor(77)}, path)
    return path


def write_table(folder: Path, words: dict[str, str] | None = None, *, images: int = 3) -> Path:
    """Write pictures and the table that names them; `words` replaces some of the names."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["image,attribute,object,split"]
    number = 0
    for split, pairs in SPLITS.items():
        for pair in pairs:
            attribute, obj = ((words or {}).get(word, word) for word in pair.split())
            for _ in range(images):
                write_image(folder / f"{number}.png", number)
                rows.append(f"{number}.png,{attribute},{obj},{split}")
                number += 1
    table = folder / "images.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def toy_config(table: Path, method: str = "sac", **options: object) -> TrainConfig:
    """Two epochs on a table of pictures: SAC with one block, or another method."""
    own = {"num_blocks": 1, "num_heads": 1, "capacity": 2} if method == "sac" else {}
    if options.get("bank") == "off":
        del own["capacity"]
    optim = OptimConfig(epochs=2, batch_size=4, lr=1e-2, eval_batch_size=4, lr_step=1)
    config = TrainConfig(
        DataConfig(dataset="files", data_root=table),
        BackboneConfig(backbone=str(toy_clip())),
        options_of(method, **own),
        optim,
    )
    return config.with_options(**options)


def contents(folder: Path) -> dict[str, str]:
    """What is in a folder: a checksum of each file by its name."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def stop_the_clock(patch: pytest.MonkeyPatch) -> None:
    """Let every second and date that a run writes down be the same."""

    class Always:
        @staticmethod
        def now(zone: object) -> object:
            return record_time

    record_time = record.datetime(2026, 1, 1, tzinfo=record.timezone.utc)
    patch.setattr(loop, "perf_counter", lambda: 0.0)
    patch.setattr(record, "datetime", Always)


def kill_after(patch: pytest.MonkeyPatch, writes: int) -> list[str]:
    """Let the run end after a number of its writes; return the list that names them."""
    write, written = files.write_atomically, []

    def counted(path: Path, content: Callable[[Path], object]) -> None:
        write(path, content)
        written.append(path.name)
        if len(written) == writes:
            raise Killed

    patch.setattr(files, "write_atomically", counted)
    return written
