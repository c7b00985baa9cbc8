"""``python -m benchmarks NAME [options]``: run one benchmark; without a name, list them."""

import sys
from importlib import import_module
from pathlib import Path


def names() -> list[str]:
    """Return the benchmarks in this folder, sorted: the files that have a `main`."""
    files = [path for path in Path(__file__).parent.glob("*.py") if path.stem != "__main__"]
    return sorted(path.stem for path in files if "\ndef main(" in path.read_text("utf-8"))


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
