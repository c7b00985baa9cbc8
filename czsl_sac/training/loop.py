"""The one training loop: every method, every stage, one epoch after the other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from czsl_sac.data import CZSLData
from czsl_sac.files import save_tensors
from czsl_sac.methods import CZSLMethod
from czsl_sac.training.checkpoints import (
    load_progress,
    load_weights,
    save_metrics,
    save_progress,
)
from czsl_sac.training.config import OptimConfig, TrainConfig
from czsl_sac.training.scoring import evaluate_method

LAST, BEST, MEMORY, METRICS = "last.pt", "best.safetensors", "memory.safetensors", "metrics.jsonl"


@dataclass
class Progress:
    """How far a run has come: what `last.pt` holds besides weights and optimiser.

    Attributes:
        stage: index of the stage to continue with.
        epoch: epochs of that stage that have ended.
        best_auc: best validation AUC of that stage so far.
        records: one record per epoch, as in `metrics.jsonl`.
    """

    stage: int = 0
    epoch: int = 0
    best_auc: float = -1.0
    records: list[dict[str, Any]] = field(default_factory=list)


def fit(
    method: CZSLMethod,
    data: CZSLData,
    config: TrainConfig,
    run_dir: Path,
    accelerator: Accelerator,
    *,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Train a method and leave it with the weights of its best epoch by validation AUC.

    After every epoch `last.pt` holds all that continues the run; an epoch that was interrupted
    is done again with the same random numbers, so that a resumed run ends where an uninterrupted
    one does. A stage starts from the best weights of the stage before.

    Args:
        method: on the accelerator's device.
        data: the data set.
        config: the run.
        run_dir: where checkpoints and metrics go.
        accelerator: device, precision and processes.
        resume: continue from `last.pt` where there is one.

    Returns:
        One record per epoch: stage, epoch, mean training losses, validation result, seconds.

    Raises:
        ValueError: the checkpoint does not fit, or a loss is no longer finite.
    """
    saved = load_progress(run_dir / LAST) if resume and (run_dir / LAST).is_file() else None
    progress = Progress(**saved["progress"]) if saved else Progress()
    if saved:
        method.load_trained_state(saved["weights"])
    for number in range(progress.stage, len(method.stages)):
        stage = method.stages[number]
        if number > progress.stage:
            progress = Progress(stage=number, records=progress.records)
        trainer = _StageTrainer(method, data, config, stage, number, accelerator)
        if saved and progress.epoch:
            trainer.load_state(saved["trainer"])
        saved = None
        for epoch in range(progress.epoch, trainer.epochs):
            start = perf_counter()
            losses = trainer.train_epoch(epoch)
            result = evaluate_method(
                method,
                data,
                "val",
                accelerator,
                batch_size=config.optim.eval_batch_size,
                num_workers=config.data.num_workers,
                stage=stage,
            )
            progress.epoch = epoch + 1
            progress.records.append(
                {
                    "stage": stage,
                    "epoch": epoch + 1,
                    "losses": losses,
                    "val": result.to_dict(),
                    "seconds": round(perf_counter() - start, 2),
                }
            )
            if accelerator.is_main_process:
                weights = method.trained_state()
                if result.auc > progress.best_auc:
                    progress.best_auc = result.auc
                    save_tensors(run_dir / BEST, weights)
                save_progress(
                    run_dir / LAST,
                    {
                        "progress": vars(progress),
                        "weights": weights,
                        "trainer": trainer.state(),
                    },
                )
                save_metrics(run_dir / METRICS, progress.records)
                tqdm.write(
                    f"{stage} {epoch + 1}/{trainer.epochs}: loss {losses['total']:.3f}, "
                    f"val {result}, {progress.records[-1]['seconds']:.0f} s"
                )
        accelerator.wait_for_everyone()
        method.load_trained_state(load_weights(run_dir / BEST))
    return progress.records


class _StageTrainer:
    """Optimiser, schedule and loader of one stage."""

    def __init__(
        self,
        method: CZSLMethod,
        data: CZSLData,
        config: TrainConfig,
        stage: str,
        number: int,
        accelerator: Accelerator,
    ) -> None:
        self.method, self.stage, self.number = method, stage, number
        self.accelerator, self.seed = accelerator, config.seed
        self.epochs = _epochs(config.optim, number)
        self.generator = torch.Generator()
        loader = DataLoader(
            data.split("train", augment=config.data.augment),
            batch_size=config.optim.batch_size,
            shuffle=True,
            num_workers=config.data.num_workers,
            generator=self.generator,
        )
        optimizer = torch.optim.Adam(
            [
                {"params": group.parameters, "lr": _learning_rate(config.optim, group.name)}
                for group in method.parameter_groups(stage)
            ],
            weight_decay=config.optim.weight_decay,
        )
        scheduler = torch.optim.lr_scheduler.StepLR(
            optimizer, config.optim.lr_step, config.optim.lr_gamma
        )
        self.wrapped, self.optimizer, self.loader = accelerator.prepare(method, optimizer, loader)
        # Stepped once an epoch whatever the number of processes, so it is not prepared.
        self.scheduler = scheduler

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; return the mean of each loss over its images, those of all processes."""
        # Everything random in an epoch follows from its number, so that resuming repeats it.
        seed = (self.seed * 1_000 + self.number) * 1_000 + epoch
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        self.method.train_stage(self.stage)
        sums: dict[str, Tensor] = {}
        images_seen = torch.zeros((), device=self.accelerator.device)
        for images, targets in self._with_bar(epoch):
            losses = self.wrapped(images, targets, self.stage)
            self.optimizer.zero_grad()
            self.accelerator.backward(losses["total"])
            self.optimizer.step()
            images_seen += len(targets)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * len(targets)
        self.scheduler.step()
        # Over all processes, so that a loss that is not finite in one of them stops them all.
        images_seen, *totals = self.accelerator.reduce([images_seen, *sums.values()], "mean")
        means = {
            name: float(total) / float(images_seen)
            for name, total in zip(sums, totals, strict=True)
        }
        for name, value in means.items():
            if not abs(value) < float("inf"):
                raise ValueError(
                    f"the {name} loss is {value} after epoch {epoch + 1} of stage {self.stage}: "
                    "lower --lr, raise --temperature, or use --precision no"
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
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

    def _with_bar(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        label = f"{self.stage} {epoch + 1}/{self.epochs}"
        hidden = None if self.accelerator.is_main_process else True
        return iter(tqdm(self.loader, desc=label, leave=False, disable=hidden))


def training_images(
    data: CZSLData, config: TrainConfig, accelerator: Accelerator
) -> Iterable[Tensor]:
    """Yield the training images in their order, without augmentation, on the device.

    Args:
        data: the data set.
        config: the run.
        accelerator: whose device they go to; every process sees all of them.
    """
    loader = DataLoader(
        data.split("train"),
        batch_size=config.optim.eval_batch_size,
        num_workers=config.data.num_workers,
    )
    hidden = None if accelerator.is_main_process else True
    for images, _ in tqdm(loader, desc="filling the bank", leave=False, disable=hidden):
        yield images.to(accelerator.device)


def _epochs(optim: OptimConfig, stage_number: int) -> int:
    if stage_number > 0 and optim.condenser_epochs is not None:
        return optim.condenser_epochs
    return optim.epochs


def _learning_rate(optim: OptimConfig, group: str) -> float:
    if group == "condenser" and optim.condenser_lr is not None:
        return optim.condenser_lr
    return optim.lr
