"""The notebook runs from top to bottom, in a kernel of its own, on runs of a few steps."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests import runs

NOTEBOOK = runs.ROOT / "docs" / "walkthrough.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    parameters.source = "\n".join(
        [f'RUNS = Path("{tmp_path}")', "SEEDS = (0, 1)", 'OVERRIDES = ["total_steps=10"]']
    )
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
    printed = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    )
    assert "6 of 30 links cut at once" in printed
    assert "against dense" in printed


def test_the_notebook_is_committed_with_what_it_printed():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
