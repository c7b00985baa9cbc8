"""``python -m benchmarks NAME [options]``: run one benchmark; without a name, list them."""

import sys
from importlib import import_module
from pathlib import Path

# Modules of this folder that measure nothing by themselves.
PARTS = {"__init__", "__main__", "measure", "count_memory"}


def names() -> list[str]:
    """Return the benchmarks found in this folder, sorted."""
    return sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in PARTS
    )


def main(argv: list[str] | None = None) -> None:
    """Run ``benchmarks/NAME.py``'s ``main`` with the remaining arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    found = names()
    if arguments and arguments[0] in found:
        import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
        return
    print("usage: python -m benchmarks NAME [options]\n\nbenchmarks:")
    for name in found:
        print(f"  {name}")
    if arguments and arguments[0] not in ("-h", "--help"):
        raise SystemExit(f"\nthere is no benchmark {arguments[0]!r}: choose one of the above.")


if __name__ == "__main__":
    main()
