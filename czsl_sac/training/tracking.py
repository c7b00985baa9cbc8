"""Trackers: what an epoch has come to, shown by TensorBoard, Weights & Biases and others."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from numpy.typing import NDArray

from czsl_sac.checks import check_choice
from czsl_sac.clip import CLIPBackbone
from czsl_sac.data import CZSLData
from czsl_sac.evaluation import CZSLResult
from czsl_sac.files import read_json, save_json
from czsl_sac.pictures import colours, require_matplotlib
from czsl_sac.training.config import TrackerName
from czsl_sac.training.loop import EpochEnd
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRACKING = "tracking.json"
_PROJECT = "czsl-sac"
_CONTINUED = ("tensorboard", "wandb")
"""Trackers in which a run that is resumed is the same run; they are shown pictures, too."""

_FIGURES = ("seen", "unseen", "hm", "auc", "attribute", "object", "bias")
_EXAMPLES = 8


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not known or not installed.

    Raises:
        ValueError: a name is unknown.
        ImportError: its package, or matplotlib, is not installed.

    Examples:
        >>> check_trackers(["tensorbord"])
        Traceback (most recent call last):
        ...
        ValueError: track is 'tensorbord' but must be one of ...: did you mean tensorboard?
    """
    for name in names:
        check_choice("track", name, get_args(TrackerName))
        if find_spec(name) is None:
            how = '"czsl-sac[track]"' if name == "tensorboard" else name.replace("_", "-")
            raise ImportError(f"track is {name}, which is not installed: pip install {how}")
        if name in _CONTINUED:
            require_matplotlib("the pictures of a tracked run")


class Tracking:
    """What is sent of a run, each epoch once.

    The run's folder remembers how many epochs each tracker was sent. What was missed, since the
    run was stopped between its checkpoint and the sending or was not tracked then, is sent when it
    is resumed: figures, but no pictures.

    Args:
        names: of trackers.
        record: of the run.
        folder: likewise.
    """

    def __init__(self, names: Sequence[str], record: RunRecord, folder: RunFolder) -> None:
        self._file, self._identity = folder.path / TRACKING, record.identity
        self._sent: dict[str, int] = self._read("sent")
        self._tested: dict[str, int] = self._read("tested")
        self._trackers = {name: self._start(name, record, folder) for name in names}

    def missed(self, records: Sequence[dict[str, Any]]) -> None:
        """Send the epochs that were not sent.

        Args:
            records: of all epochs that have ended.
        """
        for name in self._trackers:
            for step in range(self._sent.get(name, 0), len(records)):
                self._send(name, step + 1, _figures(records[step]))

    def epoch(self, end: EpochEnd, data: CZSLData, backbone: CLIPBackbone) -> None:
        """Send an epoch: losses, learning rates, validation figures, curve and examples.

        Args:
            end: of the epoch.
            data: the data set, with images as they are.
            backbone: who looks at them.
        """
        step, pictures = len(end.records), {}
        self.missed(end.records[:-1])
        if self._trackers.keys() & set(_CONTINUED):
            pictures = {
                "val/curve": _pixels(_curve(end.result)),
                "val/examples": _pixels(_examples(end, data, backbone)),
            }
        for name, tracker in self._trackers.items():
            if name in _CONTINUED:
                layout = {"dataformats": "NHWC"} if name == "tensorboard" else {}
                shown = {title: picture[None] for title, picture in pictures.items()}
                tracker.log_images(shown, step=step, **layout)
            self._send(name, step, _figures(end.records[-1]))

    def test(self, result: CZSLResult, step: int) -> None:
        """Send the result on the test split.

        Args:
            result: of the best epoch's weights.
            step: epochs of the run.
        """
        figures = {f"test/{name}": float(getattr(result, name)) for name in _FIGURES}
        for name, tracker in self._trackers.items():
            if self._tested.get(name) != step:
                tracker.log(figures, step=step)
                self._tested[name] = step
                self._save()

    def finish(self) -> None:
        """Send what still waits to be sent."""
        for tracker in self._trackers.values():
            tracker.finish()

    def _read(self, what: str) -> dict[str, int]:
        if not self._file.is_file():
            return {}
        found = read_json(self._file, "delete it, all epochs are sent again")
        same = isinstance(found, dict) and found.get("run") == self._identity
        return dict(found[what]) if same else {}

    def _save(self) -> None:
        about = {"run": self._identity, "sent": self._sent, "tested": self._tested}
        save_json(self._file, about)

    def _send(self, name: str, step: int, figures: dict[str, float]) -> None:
        self._trackers[name].log(figures, step=step)
        self._sent[name] = step
        self._save()

    def _start(self, name: str, record: RunRecord, folder: RunFolder) -> Any:
        """Start a tracker, with the configuration of the run."""
        if name not in _CONTINUED:  # the run is another one there, which is sent all epochs
            self._sent[name] = 0
            self._tested.pop(name, None)
        chosen: dict[str, Any] = {}
        if name == "tensorboard":
            # What was written after the last epoch that counts as sent is written again.
            chosen = {"purge_step": self._sent.get(name, 0) + 1}
        elif name == "wandb":
            chosen = {
                "id": record.identity[:16],
                "resume": "allow",
                "name": folder.path.resolve().name,
                "dir": str(folder.path),
            }
        kind = LOGGER_TYPE_TO_CLASS[name]
        project = "tensorboard" if name == "tensorboard" else _PROJECT
        where = [str(folder.path)] if kind.requires_logging_directory else []
        options = record.config.options()
        try:
            tracker = kind(project, *where, **chosen)
            if hasattr(tracker, "start"):
                tracker.start()
            if name == "tensorboard":
                text = json.dumps(options, indent=2, ensure_ascii=False)
                tracker.log({"configuration": f"```\n{text}\n```"}, step=0)
            else:
                tracker.store_init_configuration(options)
        except Exception as error:  # whatever a foreign library raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConnectionError(
                f"track is {name} but it cannot be started ({reason}): log in to it, or leave out "
                f"--track {name}."
            ) from error
        return tracker


@contextmanager
def tracking(
    names: Sequence[str], record: RunRecord, folder: RunFolder
) -> Iterator[Tracking | None]:
    """Track a run while it is trained; without names, do nothing.

    Raises:
        ConnectionError: a tracker cannot be started.
    """
    if not names:
        yield None
        return
    tracked = Tracking(names, record, folder)
    try:
        yield tracked
    finally:
        tracked.finish()


def _figures(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's record."""
    found = {f"loss/{name}": value for name, value in record["losses"].items()}
    rates = record.get("learning_rates", [])  # runs of before have none
    found |= {f"learning_rate/{number}": rate for number, rate in enumerate(rates)}
    found |= {f"val/{name}": record["val"][name] for name in _FIGURES}
    return {name: float(value) for name, value in {**found, "seconds": record["seconds"]}.items()}


def _curve(result: CZSLResult) -> "Figure":
    """The seen-unseen curve, with its best harmonic mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="unseen accuracy (%)", ylabel="seen accuracy (%)")
    axes.plot(100 * result.curve["unseen"], 100 * result.curve["seen"])
    axes.plot(100 * result.hm_unseen, 100 * result.hm_seen, "o")
    axes.set_title(f"AUC {100 * result.auc:.2f}, best HM {100 * result.hm:.2f}")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.grid(alpha=0.3)
    return figure


def _examples(end: EpochEnd, data: CZSLData, backbone: CLIPBackbone) -> "Figure":
    """The same validation images in every epoch, with what they are taken for."""
    from matplotlib.figure import Figure

    pairs, images = end.evaluator.space.pairs, data.split("val")
    targets, predicted = end.evaluator.predictions()
    most = min(_EXAMPLES, len(targets))
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    for place, index in enumerate(torch.linspace(0, len(targets) - 1, most).round().tolist()):
        number = int(index)
        pixels = images[number][0][None]
        axes = figure.add_subplot(2, (most + 1) // 2, place + 1)
        axes.imshow(colours(pixels, mean=backbone.mean, std=backbone.std)[0].numpy())
        axes.set_axis_off()
        truth, taken = (" ".join(pairs[int(column[number])]) for column in (targets, predicted))
        right = truth == taken
        title = truth if right else f"{truth}\ntaken for {taken}"
        axes.set_title(title, fontsize=9, color="green" if right else "firebrick", parse_math=False)
    return figure


def _pixels(figure: "Figure") -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
