"""Saving a lesson with its outputs: streams in one piece, nothing of this machine."""

import nbformat
import pytest

from learnsgl.lessons.execute import execute, joined


def stream(name, text):
    return {"output_type": "stream", "name": name, "text": text}


def test_pieces_of_one_stream_are_joined_and_others_kept_apart():
    result = {"output_type": "display_data", "data": {}}
    outputs = [stream("stdout", "a"), stream("stdout", "b"), stream("stderr", "c"), result, stream("stdout", "d")]
    assert joined(outputs) == [stream("stdout", "ab"), stream("stderr", "c"), result, stream("stdout", "d")]


@pytest.fixture
def notebook(tmp_path):
    def write(source):
        cell = nbformat.v4.new_code_cell(source, id="only")
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "lesson.ipynb")
        return tmp_path / "lesson.ipynb"

    return write


def test_a_notebook_is_saved_with_its_outputs_in_its_own_folder(notebook):
    path = notebook("from pathlib import Path\nprint(Path('lesson.ipynb').exists())")
    execute(path)
    (cell,) = nbformat.read(path, as_version=4).cells
    assert cell.outputs == [stream("stdout", "True\n")]
    assert cell.execution_count == 1
    assert "execution" not in cell.metadata


def test_an_output_that_names_a_folder_of_this_machine_is_not_saved(notebook):
    path = notebook("import os\nprint(os.getcwd())")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="print paths relative to the notebook"):
        execute(path)
    assert path.read_bytes() == before
