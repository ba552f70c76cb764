"""The notebook that is shipped runs, and its cells show what they say: tables, pictures, and a bar without widgets."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parent.parent / "docs/notebook.ipynb"

BAR = """
import warnings
from truebits.report import progress as bars
bars.PATIENCE = 0
with warnings.catch_warnings():
    warnings.simplefilter("error")
    with tb.progress_bar("a bar of ours") as progress:
        tb.scan(data.MODEL, progress=progress)
"""


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs_and_shows_what_it_says(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook.cells.append(nbformat.v4.new_code_cell(BAR))
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={}).execute()
    shown = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown[cell.source] = [{**one.get("data", {}), "stream": one.get("text", "")} for one in cell.outputs]

    def outputs(of: str) -> dict[str, str]:
        """Return what is shown of the cell that has this in it."""
        (found,) = [outputs for source, outputs in shown.items() if of in source]
        return {kind: text for output in found for kind, text in output.items()}

    assert "Q8_0" in outputs("tb.open")["text/plain"]
    assert "all 5 F32 tensors: BF16" in outputs("blocks=True")["text/html"]
    assert "<Report: model-q8_0.gguf" in outputs("blocks=True")["text/plain"]
    assert "fits.bf16" in outputs("to_pandas")["text/html"]
    assert outputs("report.plot()")["image/png"]
    assert outputs('plot("RMS error")')["image/png"]
    assert "'different'" in outputs("tb.diff")["text/plain"]
    assert "a bar of ours" in str(shown[BAR])
