"""A run that was trained: its method, ready to predict, and what it can be asked."""

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from czsl_sac.clip import CLIPBackbone
from czsl_sac.data import CZSLData
from czsl_sac.evaluation import CZSLResult
from czsl_sac.evaluation.curve import Protocol
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.training.build import build_backbone, build_data, build_method
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.feature_cache import cached
from czsl_sac.training.fingerprint import check_splits
from czsl_sac.training.memory import fill_memory
from czsl_sac.training.open_world import OpenWorld, evaluate_split
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run_folder import MEMORY, RunFolder, naming
from czsl_sac.training.session import Session

_Run = TypeVar("_Run", bound="TrainedRun")


class TrainedRun:
    """A run's method with its trained weights and its memory.

    The data set need not be there to predict, unless the memory has to be filled anew from its
    training images: where the checkpoint is `"last"`, the run was stopped before its memory was
    saved, or an option differs that decides what the memory holds.

    Attributes:
        folder: where the run is.
        record: what the run is.
        config: its configuration, with the options that differ.
        session: device, precision and processes.
        method: in evaluation mode.
        checkpoint: `"best"` by validation AUC, or `"last"`.
    """

    def __init__(
        self,
        folder: RunFolder,
        record: RunRecord,
        config: TrainConfig,
        session: Session,
        method: CZSLMethod,
        *,
        checkpoint: Literal["best", "last"] = "best",
    ) -> None:
        self.folder, self.record, self.config = folder, record, config
        self.session, self.method, self.checkpoint = session, method, checkpoint

    @classmethod
    def load(
        cls: type[_Run],
        path: str | os.PathLike[str],
        *,
        checkpoint: Literal["best", "last"] = "best",
        data_root: Path | None = None,
        **changes: Any,
    ) -> _Run:
        """Return a run from its folder.

        The arguments are those of `czsl_sac.load_run`.

        Raises:
            FileNotFoundError: the folder holds no run or no such checkpoint.
            ValueError: a file is damaged, an option was decided in training, or the backbone has
                other weights than the run was trained on.
        """
        folder = RunFolder(path)
        record = folder.read_record()
        config = changed(record.config, data_root=data_root, **changes)
        weights = folder.weights(checkpoint)
        session = Session.of(config)
        backbone = build_backbone(config.backbone, precision=session.precision)
        backbone.remember_base()  # of the weights before training: a feature cache is named by it
        check_backbone(folder, record, backbone)
        method = build_method(config, backbone, record.space).to(session.device)
        with naming(weights.file):
            method.load_trained_state(weights.tensors)
        method.eval()
        run = cls(folder, record, config, session, method, checkpoint=checkpoint)
        options = config.method
        same = all(getattr(options, n) == getattr(record.config.method, n) for n in options.memory)
        memory = folder.load_memory(weights.tag) if same and checkpoint == "best" else None
        if memory:
            with session.autocast(), naming(folder.path / MEMORY):
                method.load_memory_state(memory)
        else:
            with session.sharing_texts(backbone.text):
                fill_memory(method, lambda: run.data.split("train"), session)
        return run

    @cached_property
    def data(self) -> CZSLData:
        """The data set of the run.

        Raises:
            FileNotFoundError: it is not where it was.
            ValueError: it has changed since the run was trained.
        """
        data = open_data(self.config, self.method.backbone, self.record, self.folder)
        return cached(data, self.config, self.method.backbone, self.session)

    def evaluate(
        self,
        *,
        split: Literal["val", "test"] = "test",
        protocol: Protocol = "exact",
        open_world: OpenWorld | None = None,
    ) -> CZSLResult:
        """Return the metrics of a split.

        Args:
            split: `"val"` or `"test"`.
            protocol: `"exact"` or `"legacy"`.
            open_world: how to evaluate in the open world; None: the closed world.
        """
        return evaluate_split(
            self.method, self.data, split, self.session, protocol=protocol, open_world=open_world
        )


def changed(config: TrainConfig, *, data_root: Path | None = None, **changes: Any) -> TrainConfig:
    """Return a run's configuration with what may differ after training.

    Args:
        config: the run's.
        data_root: where the data set is now; None: where it was.
        changes: options of the method.

    Raises:
        ValueError: an option was decided in training, or a value is out of its range.
    """
    options = config.method
    for name, value in changes.items():
        if name not in options.inference:
            raise ValueError(
                f"{name} is {value!r} but must be {getattr(options, name, None)!r}, as the run was "
                f"trained: of {options.name}'s options inference reads "
                f"{', '.join(sorted(options.inference))} alone."
            )
    config = config.with_options(**changes)
    if data_root is None:
        return config
    return replace(config, data=replace(config.data, data_root=data_root.resolve()))


def open_data(
    config: TrainConfig, backbone: CLIPBackbone, record: RunRecord, folder: RunFolder
) -> CZSLData:
    """Return the data set of a run, as it was when the run was trained.

    Raises:
        FileNotFoundError: it is not where it was.
        ValueError: it has changed since.
    """
    try:
        data = build_data(config.data, backbone)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} (the path is the one that the run in {folder.path} was trained with; "
            "--data-root says where the data set is now)"
        ) from error
    if data.space != record.space:
        raise ValueError(
            f"data_root holds {data.space} but must hold {record.space}, on which the run in "
            f"{folder.path} was trained: point --data-root to what it was, or train again."
        )
    check_splits(data, record.splits, folder.path)
    return data


def check_backbone(folder: RunFolder, record: RunRecord, backbone: CLIPBackbone) -> None:
    """Refuse weights of a backbone that are not those the run was trained on.

    Raises:
        ValueError: it has other weights.
    """
    checksum = backbone.base_checksum
    if record.checksum != checksum:
        raise ValueError(
            f"the run in {folder.path} was trained on {record.backbone!r} with weights of checksum "
            f"{record.checksum[:12]}, but {backbone.name!r} now has {checksum[:12]}: "
            "put those weights back where the run's configuration looks for them, or train again."
        )
