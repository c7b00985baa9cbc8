"""The laboratory: candidates for the built-in CLIP, and the map of when sparse alignment helps.

    python -m benchmarks laboratory clips --device cuda --processes 9
    python -m benchmarks laboratory choose
    python -m benchmarks laboratory map --device cuda --processes 14 --clip FILE
    python -m benchmarks laboratory draw

Each command continues where it stopped; what has a row in its CSV is not done again.
`docs/laboratory.md` says what came out.
"""

from typing import Annotated

import tyro

from benchmarks.lab.clips import ClipOptions, run_clips
from benchmarks.lab.criterion import ChooseOptions, run_choose
from benchmarks.lab.map import MapOptions, run_map
from benchmarks.lab.pictures import DrawOptions, run_draw

PARTS = {
    "clips": (ClipOptions, run_clips),
    "choose": (ChooseOptions, run_choose),
    "map": (MapOptions, run_map),
    "draw": (DrawOptions, run_draw),
}


def main(argv: list[str] | None = None) -> None:
    """Run one part of the laboratory.

    Args:
        argv: the part and its options; None takes them from the command line.
    """
    options = tyro.cli(
        Annotated[ClipOptions, tyro.conf.subcommand("clips", prefix_name=False)]
        | Annotated[ChooseOptions, tyro.conf.subcommand("choose", prefix_name=False)]
        | Annotated[MapOptions, tyro.conf.subcommand("map", prefix_name=False)]
        | Annotated[DrawOptions, tyro.conf.subcommand("draw", prefix_name=False)],
        args=argv,
        description=__doc__,
    )
    for kind, run in PARTS.values():
        if isinstance(options, kind):
            run(options)
