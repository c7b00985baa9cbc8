"""The tutorials: execute them, and keep of what they show what a page and a comparison need.

    python tests/notebooks.py

executes every notebook in `docs/tutorials` and writes its outputs into it.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))


def execute(path: Path, folder: Path) -> NotebookNode:
    """Return a notebook as it looks when executed in a folder, with this Python and package.

    Args:
        path: the notebook; its file stays as it is.
        folder: where it runs and leaves its files.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    client = NotebookClient(
        notebook,
        timeout=300,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    # One thread: tests run side by side, and threads that wait for each other take their cores.
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    client.execute(env={**os.environ, **threads, "PATH": commands, "PYTHONPATH": modules})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [shown for shown in map(_shown, cell.outputs) if shown is not None]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _shown(output: NotebookNode) -> NotebookNode | None:
    """An output as it is kept: no progress bars, no addresses in memory beside pictures."""
    if output.get("name") == "stderr":
        return None
    if "text" in output:
        output.text = output.text.replace("\r\n", "\n")  # a terminal's, of lines that begin with !
    if any(kind.startswith("image/") for kind in output.get("data", {})):
        output.data.pop("text/plain", None)
    return output


def main() -> None:
    """Execute all tutorials and keep what they show."""
    for path in TUTORIALS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        nbformat.write(notebook, path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
