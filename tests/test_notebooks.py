from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


@pytest.mark.parametrize(
    ("name", "released"),
    [("01_exact_match", "span-pointer-topv2"), ("02_raf_tour", None), ("04_layerskip", None)],
)
def test_notebooks_run(
    name: str,
    released: str | None,
    repository: Path,
    raf_bundle: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    if released:
        monkeypatch.setenv("FRAMEFILL_BUNDLE", str(repository / "models" / released))
    monkeypatch.setenv("FRAMEFILL_RAF_BUNDLE", str(raf_bundle))
    monkeypatch.setenv("FRAMEFILL_EVERY", "2")
    monkeypatch.setenv("TOPV2_DIR", str(corpus))
    monkeypatch.setenv("PYTHONPATH", str(repository))
    notebook = nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(repository / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds
