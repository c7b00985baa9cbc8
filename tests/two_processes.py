"""Processes on this machine, joined as `accelerate launch` joins them."""

import os
import socket
from collections.abc import Callable

import torch


def run_in_two_processes(run: Callable[..., object], *arguments: object) -> None:
    """Call `run(rank, *arguments)` in two processes and wait for both; see `run_in_processes`."""
    run_in_processes(2, run, *arguments)


def run_in_processes(count: int, run: Callable[..., object], *arguments: object) -> None:
    """Call `run(rank, *arguments)` in several processes and wait for all.

    Args:
        count: how many.
        run: importable by name, since other processes call it.
        arguments: passed on.
    """
    torch.multiprocessing.spawn(join, (count, free_port(), run, arguments), nprocs=count)


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def join(
    rank: int, count: int, port: int, run: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    """Be one of several processes, and call `run(rank, *arguments)`.

    Args:
        rank: which.
        count: of how many.
        port: at which they meet.
        run: what to call.
        arguments: passed on.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU")
    values = (rank, rank, count, "127.0.0.1", port, "true")
    os.environ.update(zip(names, map(str, values), strict=True))
    torch.set_num_threads(1)
    run(rank, *arguments)
