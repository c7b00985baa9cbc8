"""Run that a benchmark shares with its earlier calls: trained once, never mixed up."""

from pathlib import Path

from czsl_sac.evaluation import CZSLResult
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder


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
    return train(config, run_dir, resume=RunFolder(run_dir).holds_run).test
