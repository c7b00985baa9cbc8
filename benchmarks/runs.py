"""Runs that a benchmark shares with its earlier calls: trained once, never mixed up."""

from pathlib import Path

from czsl_sac.evaluation import CZSLResult
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.loop import MEMORY
from czsl_sac.training.run import CONFIG, evaluate, train


def finish_run(config: TrainConfig, run_dir: Path) -> CZSLResult:
    """Train a configuration into a folder, unless that is done; continue what was interrupted.

    Args:
        config: the run.
        run_dir: its folder.

    Returns:
        The result of the best epoch on the test split, exact protocol.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    started = (run_dir / CONFIG).is_file()
    if started and TrainConfig.load(run_dir / CONFIG) != config:
        raise ValueError(f"{run_dir} holds a run of other settings: choose another --runs folder.")
    if (run_dir / MEMORY).is_file():  # the last file that training writes
        return evaluate(run_dir)
    return train(config, run_dir, resume=started).test
