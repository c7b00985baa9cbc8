"""How a result is printed: what was scored, whether the test stream took part, and the table."""

from typing import TYPE_CHECKING

from czsl_sac.training.config import TrainConfig

if TYPE_CHECKING:
    from czsl_sac.evaluation import CZSLResult


def result_table(result: "CZSLResult", config: TrainConfig, scored: str) -> str:
    """Return a heading and the one-row table of a result, in percent.

    Args:
        result: Seen-unseen metrics; its table names the protocol.
        config: Configuration of the run.
        scored: What was scored: split and checkpoint.
    """
    adapts = config.model.method == "sac" and config.model.bank == "dynamic"
    note = "\nThe memory bank was updated on these images: a transductive result." if adapts else ""
    return f"{scored}, in percent:\n\n{result.table()}\n{note}"
