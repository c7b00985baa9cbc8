"""What a method remembers of the training images, filled by all processes."""

from collections.abc import Callable, Iterator

from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Dataset

from czsl_sac.methods.base import CZSLMethod
from czsl_sac.training.session import Session


def fill_memory(method: CZSLMethod, images: Callable[[], Dataset], session: Session) -> None:
    """Let a method take in the training images, each in one process where it can merge memories.

    The processes see consecutive runs of the same batches, so that they remember together what one
    process does.

    Args:
        method: on the session's device, in evaluation mode.
        images: opens the training images; called when the first is asked for.
        session: device, precision and processes.
    """
    merge = method.memories_merge and session.accelerator.num_processes > 1

    def batches() -> Iterator[Tensor]:
        for batch, _ in session.batches(images(), "filling the memory", own=merge):
            yield batch

    with session.autocast():
        method.fill_memory(batches())
        if merge:
            state = {name: value.cpu() for name, value in method.memory_state().items()}
            method.merge_memories(gather_object([state]))
