"""The laboratory: candidates for the built-in CLIP, and the map of when sparse alignment helps.

    python -m benchmarks laboratory clips --device cuda --processes 9
    python -m benchmarks laboratory map --device cuda --processes 14 --clip FILE
    python -m benchmarks laboratory draw

Each command continues where it stopped; what has a row in its CSV is not done again.
`docs/laboratory.md` says what came out.
"""

import tyro

from benchmarks.lab.clips import ClipOptions, run_clips


def main(argv: list[str] | None = None) -> None:
    """Run one part of the laboratory.

    Args:
        argv: the part and its options; None takes them from the command line.
    """
    options = tyro.cli(ClipOptions, args=argv, description=__doc__)
    run_clips(options)
