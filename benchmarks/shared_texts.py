"""What sharing out the texts saves each of several processes in a training step at full size.

    python -m benchmarks shared_texts

Operations of SAC's step on ViT-L/14 at C-GQA's size are counted, forward and backward, on tensors
that have a shape and no values; the processes exchange nothing. Each has the paper's batch.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import tyro
from tabulate import tabulate
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.count_memory import FakeFloats
from benchmarks.train_step import CASES, VIT_L_14, build
from czsl_sac.clip.processes import Processes


def operations(count: int, case: str = "cgqa") -> tuple[int, int]:
    """Count the operations of a whole step, and of its texts, in the busiest of `count` processes.

    Args:
        count: processes.
        case: key of CASES.
    """
    sizes = CASES[case]
    found = []
    for rank in {0, count - 1}:
        dist.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
        mode, model = FakeFloats(), build(sizes)
        model.backbone.text.processes = Processes(rank, count)
        mode.fake_module(model)
        with mode:
            side = VIT_L_14.image_size
            images, targets = torch.empty(sizes.batch, 3, side, side), torch.arange(sizes.batch)
            with FlopCounterMode(display=False) as whole:
                model(images, targets, stage="joint")["total"].backward()
            with FlopCounterMode(display=False) as texts:
                sum(text.sum() for text in model.prompts(model.seen_pairs)).backward()
        found.append((whole.get_total_flops(), texts.get_total_flops()))
        dist.destroy_process_group()
    return max(found)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each number of processes.

    Args:
        argv: options; None takes the command line's.
    """
    counts = tyro.cli(tuple[int, ...], default=(1, 2, 4, 8), args=argv)
    alone = operations(1)
    rows = []
    for count in counts:
        whole, texts = alone if count == 1 else operations(count)
        shares = (f"{texts / whole:.0%}", f"{texts / alone[1]:.3f}", f"{whole / alone[0]:.3f}")
        rows.append((count, f"{whole / 1e12:.2f}", f"{texts / 1e12:.2f}", *shares))
    head = ("processes", "step, 10^12", "texts, 10^12", "texts of the step")
    print(tabulate(rows, (*head, "texts, of one's", "step, of one's"), disable_numparse=True))
