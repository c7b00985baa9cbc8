"""Options chosen on validation: a study of trials, each a run or a trained run asked otherwise."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from czsl_sac.evaluation import CZSLResult
from czsl_sac.experiments.search_space import Searched, SearchSpace
from czsl_sac.experiments.setting import digest, elsewhere, train_command
from czsl_sac.files import read_json, save_json, write_bytes
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.loop import DivergedError, EpochEnd
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder
from czsl_sac.training.trained import TrainedRun

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Sampler: TypeAlias = Literal["tpe", "random", "grid"]
"""How points are chosen: by what was found so far (tree-structured Parzen estimator), at random, or
all of a grid."""

ASKED, STUDY, TRIALS, BEST = "tuning.json", "study.db", "trials.csv", "best.json"
_RUNS, _CLAIM = "runs", ".claim"
_FIGURES = ("seen", "unseen", "hm", "auc")


@dataclass(frozen=True)
class Objective:
    """What is measured at a point, always on the validation split.

    Attributes:
        space: whose points are measured.
        preset: that a run starts from; None: nothing is trained.
        run: folder of a trained run that is asked otherwise; None: a run is trained at each point.
    """

    space: SearchSpace
    preset: str | None = None
    run: Path | None = None

    def __post_init__(self) -> None:
        options = self.space.base.method
        for option in self.space.searched:
            if self.run is not None and option.name not in options.inference:
                raise ValueError(
                    f"{option.name} is searched but was decided when the run in {self.run} was "
                    f"trained, and must be one of {', '.join(sorted(options.inference))}: leave it "
                    "out, or leave out --run."
                )

    def about(self) -> dict[str, Any]:
        """Return what decides the figures, as JSON types."""
        searched = {option.name: option.to_dict() for option in self.space.searched}
        if self.run is None:
            options = elsewhere(self.space.base).options()
            return {"space": searched, "preset": self.preset, **options}
        folder = RunFolder(self.run)
        weights = f"{folder.read_record().identity}, {folder.weights('best').tag}"
        return {"space": searched, "weights": weights}

    def measure(
        self, config: TrainConfig, folder: Path, after_epoch: Callable[[EpochEnd], None]
    ) -> CZSLResult:
        """Return the metrics of a configuration on the validation split.

        Args:
            config: at a point of the space.
            folder: of its run, if one is trained.
            after_epoch: called after each epoch of it.
        """
        if self.run is None:
            resume = RunFolder(folder).holds_run
            train(config, folder, resume=resume, test=False, after_epoch=after_epoch)
            return TrainedRun.load(folder).evaluate(split="val")
        options = {o.name: getattr(config.method, o.name) for o in self.space.searched}
        root = config.data.data_root
        return TrainedRun.load(self.run, data_root=root, **options).evaluate(split="val")

    def command(self, config: TrainConfig, folder: Path) -> str:
        """Return the command that trains a configuration, or evaluates the run by it.

        Args:
            config: at a point of the space.
            folder: of a new run.
        """
        if self.run is None:
            return train_command(config, str(self.preset), folder)
        words = ["czsl-sac", "evaluate", str(self.run)]
        for option in self.space.searched:
            name, value = option.name.replace("_", "-"), getattr(config.method, option.name)
            flag = f"--{name}" if value is not False else f"--no-{name}"
            words += [flag] if isinstance(value, bool) else [flag, str(value)]
        return shlex.join(words)


@dataclass(frozen=True)
class Tuned:
    """What a study has found.

    Attributes:
        trials: one row a trial: its values, metrics in [0, 1], and why it has none.
        best: number of the best trial; None if no trial has metrics.
        config: of the best trial.
        folder: of its run.
        command: that trains or evaluates it.
    """

    trials: pd.DataFrame
    best: int | None
    config: TrainConfig
    folder: Path
    command: str


def tune(
    objective: Objective,
    out: Path,
    *,
    trials: int | None = None,
    sampler: Sampler = "tpe",
    prune: bool = False,
) -> Tuned:
    """Choose options on the validation split; a study that was stopped goes on.

    The test split is not read. A configuration is trained once, whatever asks for it.

    Args:
        objective: what is measured, in which space.
        out: folder of the study and its runs.
        trials: how many there shall be in all; None: 20, of a grid all.
        sampler: how points are chosen.
        prune: stop a run that is worse after an epoch than half of those before it were.

    Returns:
        All trials, and the best.

    Raises:
        FileExistsError: another process tunes there, or the folder holds something else.
        ValueError: the folder holds another study, or the space does not fit.
    """
    grid = objective.space.grid() if sampler == "grid" else None
    count = len(grid) if grid and trials is None else 20 if trials is None else trials
    count = count if grid is None else min(count, len(grid))
    asked = {**objective.about(), "sampler": sampler, "prune": prune}
    new = _check(out, asked)
    with _claimed(out):
        save_json(out / ASKED, asked)
        study = _Study(objective, out, sampler, prune, grid)
        try:
            study.go_on(count)
        except Exception:
            if new and not study.told:  # nothing was found: what is mended next is another study
                for name in (ASKED, STUDY):
                    (out / name).unlink(missing_ok=True)
            raise
        return study.result()


class _Study:
    """An Optuna study in a folder."""

    def __init__(
        self,
        objective: Objective,
        out: Path,
        sampler: Sampler,
        prune: bool,
        grid: list[dict[str, Any]] | None,
    ) -> None:
        import optuna
        from sqlalchemy import URL
        from sqlalchemy.exc import DatabaseError

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna = optuna
        self.objective, self.out, self.sampler, self.grid = objective, out, sampler, grid
        self.distributions = {o.name: _distribution(o) for o in objective.space.searched}
        url = URL.create("sqlite", database=str((out / STUDY).resolve()))
        try:
            self.study = optuna.create_study(
                study_name="tune",
                storage=url.render_as_string(),
                direction="maximize",
                pruner=optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            self._ask_again()
        except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{out / STUDY} is damaged but must be a study ({reason}): delete it; the runs "
                "beside it are kept, and not trained again."
            ) from error

    @property
    def told(self) -> "list[FrozenTrial]":
        """The trials that have ended."""
        states = self.optuna.trial.TrialState
        return self.study.get_trials(states=(states.COMPLETE, states.PRUNED))

    def go_on(self, count: int) -> None:
        """Add trials until there are so many."""
        while len(self.told) < count:
            self._one(len(self.told))
            write_bytes(self.out / TRIALS, self._frame().to_csv(index=False).encode())

    def result(self) -> Tuned:
        """Write what was found, and return it."""
        frame, told = self._frame(), self.told
        done = [n for n, trial in enumerate(told) if trial.value is not None and _figures(trial)]
        best = max(done, key=lambda n: (told[n].value, -n), default=None)
        space = self.objective.space
        config = space.base if best is None else space.at(_point(told[best].params))
        folder = self._folder(config)
        if best is not None and self.objective.run is None:
            save_json(self.out / BEST, {"preset": self.objective.preset, **config.options()})
        command = self.objective.command(config, self.out / BEST.removesuffix(".json"))
        return Tuned(frame, best, config, folder, command)

    def _one(self, number: int) -> None:
        """Ask for a point, measure it, and tell what came out."""
        samplers, states = self.optuna.samplers, self.optuna.trial.TrialState
        # A sampler anew for each trial, so that a study that was stopped draws what it would have.
        self.study.sampler = (
            samplers.TPESampler(seed=number)
            if self.sampler == "tpe"
            else samplers.RandomSampler(seed=number)
        )
        if self.grid is not None and not self.study.get_trials(states=(states.WAITING,)):
            self.study.enqueue_trial({n: json.dumps(v) for n, v in self.grid[number].items()})
        trial = self.study.ask(self.distributions)
        point = _point(trial.params)
        said = f"trial {number}: " + ", ".join(f"{n} {_short(v)}" for n, v in point.items())
        result, why = None, ""
        try:
            config = self.objective.space.at(point)
        except ValueError as error:
            why = str(error)
        else:
            tqdm.write(said)
            result, why = self._measured(config, trial)
        if result is None:
            trial.set_user_attr("why", why)
            self.study.tell(trial, state=states.PRUNED)
            tqdm.write(f"{said}: {why}")
            return
        for name, value in result.items():
            trial.set_user_attr(name, value)
        self.study.tell(trial, result["auc"])
        best = max(float(other.value or 0) for other in self.told)
        tqdm.write(f"{said}: val AUC {100 * result['auc']:.2f}, best {100 * best:.2f}")

    def _measured(
        self, config: TrainConfig, trial: "optuna.Trial"
    ) -> tuple[dict[str, float] | None, str]:
        """Metrics of a configuration, those of an earlier trial if it has them; or why none."""
        key = digest(config)
        trial.set_user_attr("configuration", key)
        for earlier in self.told:
            if earlier.user_attrs.get("configuration") == key:
                return _figures(earlier) or None, earlier.user_attrs.get("why", "")

        def report(epochs: list[dict[str, Any]], since: int) -> None:
            for step, record in enumerate(epochs[since:], since):
                trial.report(record["val"]["auc"], step)

        def after_epoch(end: EpochEnd) -> None:
            report(end.records, len(end.records) - 1)
            if trial.should_prune():
                raise self.optuna.TrialPruned

        folder = self._folder(config)
        if self.objective.run is None and RunFolder(folder).holds_run:
            report(RunFolder(folder).records(), 0)
        try:
            result = self.objective.measure(config, folder, after_epoch)
        except self.optuna.TrialPruned:
            return None, f"stopped early; czsl-sac train --resume --run-dir {folder} goes on"
        except DivergedError as error:
            return None, str(error)
        return {name: float(getattr(result, name)) for name in _FIGURES}, ""

    def _folder(self, config: TrainConfig) -> Path:
        name = f"{config.method.name}-{config.seed}-{digest(config)}"
        return self.out / _RUNS / name

    def _ask_again(self) -> None:
        """Let trials that were killed be the next ones."""
        states = self.optuna.trial.TrialState
        for trial in self.study.get_trials(states=(states.RUNNING,)):
            self.study.tell(trial.number, state=states.FAIL)
            if trial.params.keys() == self.distributions.keys():
                self.study.enqueue_trial(trial.params)

    def _frame(self) -> pd.DataFrame:
        rows = []
        for number, trial in enumerate(self.told):
            figures = _figures(trial) or dict.fromkeys(_FIGURES)
            why = trial.user_attrs.get("why", "")
            rows.append({"trial": number, **_point(trial.params), **figures, "why": why})
        columns = ("trial", *self.distributions, *_FIGURES, "why")
        return pd.DataFrame(rows, columns=list(columns))


def _check(out: Path, asked: dict[str, Any]) -> bool:
    """Whether the study is a new one; what is no study, or another, is refused."""
    if not (out / ASKED).is_file():
        if out.exists() and (not out.is_dir() or any(p.name != _CLAIM for p in out.iterdir())):
            raise FileExistsError(
                f"out is {out} but must be a new folder or that of a study: take another --out."
            )
        return True
    found = read_json(out / ASKED, "take another --out")
    asked = json.loads(json.dumps(asked))
    if not isinstance(found, dict):
        raise ValueError(f"{out / ASKED} holds no study but must: take another --out.")
    for name in dict.fromkeys((*found, *asked)):
        old, new = found.get(name), asked.get(name)
        if old != new:
            raise ValueError(
                f"{name} is {_short(new)} but must be {_short(old)}, as the study in {out} was "
                "begun: ask for that, or take another --out."
            )
    return False


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Hold a folder for one study."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / _CLAIM)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(
            f"out is {out} but another process tunes there now: wait until it has ended, or take "
            "another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()
        if not (out / ASKED).exists():
            (out / _CLAIM).unlink(missing_ok=True)
            if made and not any(out.iterdir()):
                out.rmdir()


def _distribution(option: Searched) -> "BaseDistribution":
    from optuna import distributions

    if option.values:
        return distributions.CategoricalDistribution([json.dumps(v) for v in option.values])
    if option.whole:
        step = 1 if option.step is None else int(option.step)
        return distributions.IntDistribution(
            int(option.low), int(option.high), log=option.log, step=step
        )
    return distributions.FloatDistribution(
        option.low, option.high, log=option.log, step=option.step
    )


def _point(params: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON types: those of a list are kept as texts, since Optuna takes no lists."""
    return {n: json.loads(v) if isinstance(v, str) else v for n, v in params.items()}


def _figures(trial: "FrozenTrial") -> dict[str, float]:
    return {name: trial.user_attrs[name] for name in _FIGURES if name in trial.user_attrs}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
