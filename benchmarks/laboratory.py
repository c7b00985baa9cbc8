"""The laboratory: candidates for the built-in CLIP, and the map of when sparse alignment helps.

    python -m benchmarks laboratory clips --device cuda --processes 9
    python -m benchmarks laboratory map --device cuda --processes 14 --clip FILE
    python -m benchmarks laboratory draw

Each command continues where it stopped; what has a row in its CSV is not done again.
`docs/laboratory.md` says what came out.
"""

from typing import Annotated

import tyro

from benchmarks.lab.clips import ClipOptions, run_clips
from benchmarks.lab.map import MapOptions, run_map


def main(argv: list[str] | None = None) -> None:
    """Run one part of the laboratory.

    Args:
        argv: the part and its options; None takes them from the command line.
    """
    parts = (
        Annotated[ClipOptions, tyro.conf.subcommand("clips")]
        | Annotated[MapOptions, tyro.conf.subcommand("map")]
    )
    options = tyro.cli(parts, args=argv, description=__doc__)
    if isinstance(options, ClipOptions):
        run_clips(options)
    else:
        run_map(options)
