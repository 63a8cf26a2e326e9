"""Runs a lesson from top to bottom and saves its outputs, as its readers are to find them in the repository.

`python -m learnsgl.lessons.execute NOTEBOOK...` after a change of a lesson, of its recording, or of the code that it
shows. It needs the extra `notebooks`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

TIMEOUT_S = 300
KERNEL = "python3"


def execute(path: Path) -> None:
    """Run a notebook in its own folder and save it with its outputs.

    Args:
        path: the notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; nothing is saved.
        ValueError: an output names a folder of this machine; nothing is saved.
    """
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    folder = path.parent.resolve()
    NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name=KERNEL, record_timing=False, resources={"metadata": {"path": folder}}
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    # What the kernel tells of itself differs from machine to machine, and is of no use to readers.
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL},
        "language_info": {"name": "python"},
    }
    text = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    for private in (folder, Path.home()):
        if str(private) in text:
            raise ValueError(f"{path}: an output holds {private}; print paths relative to the notebook")
    path.write_text(text + "\n", encoding="utf-8")


def joined(outputs: list[Any]) -> list[Any]:
    """The same outputs, pieces of one stream that follow each other made one.

    A kernel sends what is printed in pieces, by time, and each would be shown as a block of its own.
    """
    result: list[Any] = []
    for output in outputs:
        last = result[-1] if result else None
        is_stream = output["output_type"] == "stream"
        if is_stream and last is not None and last["output_type"] == "stream" and last["name"] == output["name"]:
            last["text"] += output["text"]
        else:
            result.append(output)
    return result


def main() -> None:
    """Run the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description="Run lessons from top to bottom and save their outputs.")
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    for path in parser.parse_args().notebooks:
        execute(path)
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
