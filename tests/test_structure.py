"""Imports: no files in a circle, layers as in CONTRIBUTING, a runtime without torch."""

import configparser
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tests.training import environment


@pytest.fixture(scope="session")
def settings(repository: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(repository / "setup.cfg")
    return found


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Names of modules each of which imports the next, the first named again at the end; empty without a circle."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]  # graphlib names each module before the one that imports it
    return []


def imports_of(packages: list[str]) -> dict[str, set[str]]:
    """What each module imports, inside functions and under ``TYPE_CHECKING`` as well."""
    graph = grimp.build_graph(*packages, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_no_files_import_each_other(settings: configparser.ConfigParser):
    packages = settings["importlinter"]["root_packages"].split()
    imports = imports_of(packages)
    assert {module.split(".")[0] for module in imports} == set(packages)
    assert "assistants.raf" in imports["assistants.runtime"], "an import inside a function is missing"
    assert circle(imports) == []


def test_circles_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "cottage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from cottage import b\n")
    (package / "b.py").write_text("def late():\n    import cottage.c\n")
    (package / "c.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert circle(imports_of(["cottage"])) == []
    (package / "c.py").write_text("TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from cottage.a import b\n")
    found = circle(imports_of(["cottage"]))
    assert set(found) == {"cottage.a", "cottage.b", "cottage.c"} and found[0] == found[-1]


def test_modules_import_upwards_in_the_table_of_layers(settings: configparser.ConfigParser, repository: Path):
    packages = settings["importlinter"]["root_packages"].split()
    folders = re.findall(r"^\| \w+ \| (.*?) \|", (repository / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    row = {name: place for place, cell in enumerate(folders) for name in re.findall(r"`(\w+)/", cell)}
    assert set(packages) <= row.keys(), "a package has no row"
    downwards = [
        (module, other)
        for module, others in imports_of(packages).items()
        for other in others
        if row[other.split(".")[0]] > row[module.split(".")[0]]
    ]
    assert downwards == []
    layers = [layer.split(" | ") for layer in settings["importlinter:contract:layers"]["layers"].split("\n") if layer]
    assert sorted(name for layer in layers for name in layer) == sorted(packages)
    assert (layers[0], layers[-1]) == (["scripts"], ["frames"])


@pytest.mark.parametrize("name", ["conv-nar-topv2", "span-pointer-topv2", "raf-topv2", "layerskip-topv2"])
def test_committed_bundles_parse_without_torch(name: str, repository: Path):
    """The runtime needs numpy, onnxruntime and tokenizers; FAISS and safetensors for RAF's bank alone."""
    absent = ("torch", "transformers", "pytorch_lightning", "onnx", "data", "lightning_modules")
    absent += () if name.startswith("raf") else ("faiss", "safetensors")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"
        "from assistants import runtime\n"
        f"print(runtime.load('models/{name}').parse(['wake me at 6'])[0][0].frame)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=repository, env=environment(repository), capture_output=True, text=True)
    assert done.stdout == "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]\n", done.stderr


def test_make_clean_keeps_what_was_trained(repository: Path):
    def removed(target: str) -> set[str]:
        done = subprocess.run(["make", "-n", target], cwd=repository, capture_output=True, text=True, check=True)
        return {*done.stdout.split()}

    assert not removed("clean") & {"runs", "corpora"}
    assert removed("clean-trainings") >= {"runs", "corpora"}
