"""The one training loop: every method, every stage, one epoch after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from czsl_sac.data import CZSLData
from czsl_sac.evaluation import CZSLEvaluator, CZSLResult
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.training.by_device import adam_options
from czsl_sac.training.checkpoint import Checkpoint, Progress
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.run_folder import LAST, RunFolder, naming
from czsl_sac.training.scoring import evaluate_method, split_candidates
from czsl_sac.training.session import Session

UNTRAINED = "untrained:0"
"""What the weights of a method without training are called."""


class DivergedError(ValueError):
    """A loss is no longer finite."""


@dataclass(frozen=True)
class EpochEnd:
    """What an epoch of training has come to, once its checkpoint is written.

    Attributes:
        records: one record per epoch so far, of all stages; that of this epoch is the last.
        result: on the validation split.
        evaluator: that saw its scores, for the predictions.
    """

    records: list[dict[str, Any]]
    result: CZSLResult
    evaluator: CZSLEvaluator


def fit(
    method: CZSLMethod,
    data: CZSLData,
    config: TrainConfig,
    folder: RunFolder,
    session: Session,
    *,
    checkpoint: Checkpoint | None = None,
    after_epoch: Callable[[EpochEnd], None] | None = None,
) -> Progress:
    """Train a method and leave it with the weights of its best epoch by validation AUC.

    After every epoch `last.pt` holds all that continues the run; an epoch that was interrupted
    is done again with the same random numbers, so that a resumed run ends where an uninterrupted
    one does. A stage starts from the best weights of the stage before.

    Args:
        method: on the session's device.
        data: the data set.
        config: the run.
        folder: where checkpoints and metrics go.
        session: device, precision and processes.
        checkpoint: what to continue from; None begins.
        after_epoch: called in the main process after each checkpoint; what it raises ends the
            training, which can be continued.

    Returns:
        How far the run has come: all the way.

    Raises:
        ValueError: the checkpoint does not fit.
        DivergedError: a loss is no longer finite.
    """
    saved = checkpoint
    progress = saved.progress if saved else Progress()
    best: dict[str, Tensor] = saved.best_weights if saved else {}
    if saved:
        with naming(folder.path / LAST):
            method.load_trained_state(saved.weights)
    elif not method.stages:
        progress = Progress(best=UNTRAINED, finished=True)
        if session.is_main:
            state = method.trained_state()
            folder.save_checkpoint(Checkpoint(progress, state, state, {}))
    else:
        method.eval()
        with session.autocast():
            method.prepare(session.batches(data.split("train"), "preparing"))
    for number in range(progress.stage, len(method.stages)):
        stage = method.stages[number]
        if number > progress.stage:
            progress = Progress(stage=number, records=progress.records)
        trainer = _StageTrainer(method, data, config, stage, number, session)
        if saved and progress.epoch:
            with naming(folder.path / LAST):
                trainer.load_state(saved.trainer)
        saved = None
        for epoch in range(progress.epoch, trainer.epochs):
            start = perf_counter()
            method.eval()
            with session.autocast():
                method.refresh(session.batches(data.split("train"), "looking again"))
            losses = trainer.train_epoch(epoch)
            evaluator = CZSLEvaluator(split_candidates(data, "val")[0])
            result = evaluate_method(method, data, "val", session, stage=stage, evaluator=evaluator)
            progress.epoch = epoch + 1
            progress.records.append(
                {
                    "stage": stage,
                    "epoch": epoch + 1,
                    "losses": losses,
                    "learning_rates": trainer.learning_rates,
                    "val": result.to_dict(),
                    "seconds": round(perf_counter() - start, 2),
                }
            )
            if result.auc > progress.best_auc:
                progress.best_auc, progress.best = result.auc, f"{stage}:{epoch + 1}"
                best = {name: t.detach().clone() for name, t in method.trained_state().items()}
            last = number + 1 == len(method.stages) and epoch + 1 == trainer.epochs
            progress.finished = last
            if session.is_main:
                folder.save_checkpoint(
                    Checkpoint(progress, method.trained_state(), best, trainer.state())
                )
                tqdm.write(
                    f"{stage} {epoch + 1}/{trainer.epochs}: loss {losses['total']:.3f}, "
                    f"val {result}, {progress.records[-1]['seconds']:.0f} s"
                )
                if after_epoch is not None:
                    after_epoch(EpochEnd(progress.records, result, evaluator))
        session.wait()
        method.load_trained_state(best)
    return progress


class _StageTrainer:
    """Optimiser, schedule and loader of one stage."""

    def __init__(
        self,
        method: CZSLMethod,
        data: CZSLData,
        config: TrainConfig,
        stage: str,
        number: int,
        session: Session,
    ) -> None:
        self.method, self.stage, self.number = method, stage, number
        self.session, self.seed = session, config.seed
        optim = config.optim
        self.epochs = method.stage_epochs(stage) or optim.epochs
        self.generator = torch.Generator()
        self.loader = session.loader(
            data.split("train", augment=config.data.augment),
            batch_size=optim.batch_size,
            generator=self.generator,
            shared=True,
        )
        self.by_device = adam_options(session.device, session.precision)
        optimizer = torch.optim.Adam(
            [
                {
                    "params": group.parameters,
                    "lr": optim.lr if group.lr is None else group.lr,
                    "weight_decay": (
                        optim.weight_decay if group.weight_decay is None else group.weight_decay
                    ),
                }
                for group in method.parameter_groups(stage)
            ],
            **self.by_device,
        )
        # Stepped once an epoch whatever the number of processes, so it is not prepared.
        self.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, optim.lr_step, optim.lr_gamma)
        self.wrapped, self.optimizer = session.trainer(method, optimizer)
        self.learning_rates: list[float] = []  # of the parameter groups, in the last epoch

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; return the mean of each loss over its images, those of all processes."""
        # Everything random in an epoch follows from its number, so that resuming repeats it.
        seed = (self.seed * 1_000 + self.number) * 1_000 + epoch
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        self.method.train_stage(self.stage)
        self.learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        accelerator = self.session.accelerator
        sums: dict[str, Tensor] = {}
        images_seen = torch.zeros((), device=accelerator.device)
        bar = self.session.bar(self.loader, f"{self.stage} {epoch + 1}/{self.epochs}")
        for images, targets in bar:
            losses = self.wrapped(images, targets, self.stage)
            self.optimizer.zero_grad()
            accelerator.backward(losses["total"])
            self.optimizer.step()
            self.method.after_step()
            images_seen += len(targets)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * len(targets)
        self.scheduler.step()
        # Over all processes, so that a loss that is not finite in one of them stops them all.
        images_seen, *totals = accelerator.reduce([images_seen, *sums.values()], "mean")
        means = {
            name: float(total) / float(images_seen)
            for name, total in zip(sums, totals, strict=True)
        }
        for name, value in means.items():
            if not abs(value) < float("inf"):
                raise DivergedError(
                    f"the {name} loss is {value} after epoch {epoch + 1} of stage {self.stage} "
                    "but must be finite: lower --lr, raise --temperature, or use --precision no."
                )
        return means

    def state(self) -> dict[str, Any]:
        """Return optimiser and schedule for `last.pt`."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        # The run may have come from another kind of device.
        groups = [{**group, **self.by_device} for group in state["optimizer"]["param_groups"]]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.scheduler.load_state_dict(state["scheduler"])
