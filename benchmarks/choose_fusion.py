"""Choose β and γ of Eq. 12 for a trained SAC run, on its validation split.

    python -m benchmarks choose_fusion RUN

One pass over the validation images gives the predictions of sparse alignment, condenser and bank;
every pair of the grid is then a weighted sum of them. Prints validation AUC (exact protocol).
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import tyro
from tabulate import tabulate

from czsl_sac import SAC
from czsl_sac.evaluation import CZSLEvaluator
from czsl_sac.functional import combine_primitives, fuse_predictions
from czsl_sac.training.scoring import split_candidates
from czsl_sac.training.trained import TrainedRun


@dataclass(frozen=True)
class Options:
    """Which run, and which values."""

    run: tyro.conf.Positional[Path]
    """Folder of a SAC run with condenser and bank."""
    betas: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Values of β."""
    gammas: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 1.0)
    """Values of γ."""


def main(argv: list[str] | None = None) -> None:
    """Print the grid.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    frame = grid(options)
    table = frame.pivot(index="beta", columns="gamma", values="auc")
    print("Validation AUC in %, exact protocol; rows β, columns γ:\n")
    print(tabulate(100 * table, headers="keys", floatfmt=".2f", tablefmt="github"))
    best = frame.loc[frame.auc.idxmax()]
    print(f"\nBest: β {best.beta:g}, γ {best.gamma:g}, AUC {100 * best.auc:.2f}.")


@torch.no_grad()
def grid(options: Options) -> pd.DataFrame:
    """Return the validation AUC of each pair of values.

    Args:
        options: of the command line.

    Raises:
        ValueError: the run is no SAC run with condenser and bank.
    """
    run = TrainedRun.load(options.run)
    method = run.method
    if not isinstance(method, SAC) or method.options.bank == "off":
        raise ValueError(f"{options.run} is no SAC run with a bank: train one with --bank dynamic.")
    space, position = split_candidates(run.data, "val")
    predictor = method.predictor(space)
    evaluators = {
        (beta, gamma): CZSLEvaluator(space) for beta in options.betas for gamma in options.gammas
    }
    for images, targets in run.session.batches(run.data.split("val"), "scoring val"):
        sa, vac, bank = predictor.paths(images)
        assert vac is not None
        assert bank is not None
        p_sa, p_vac = (combine_primitives(path, predictor.pairs) for path in (sa, vac))
        for (beta, gamma), evaluator in evaluators.items():
            scores = fuse_predictions(p_sa, p_vac, bank, beta=beta, gamma=gamma)
            evaluator.update(scores.cpu(), position[targets.cpu()])
    return pd.DataFrame(
        [
            {"beta": beta, "gamma": gamma, "auc": evaluator.compute().auc}
            for (beta, gamma), evaluator in evaluators.items()
        ]
    )
