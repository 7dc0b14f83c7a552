"""Packages made of bundles, and the suite installed: both parse from any folder."""

import ast
import configparser
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from assistants import wheel as wheels
from assistants.vendoring import closure, own_imports, rewrite, vendored
from frames.errors import BundleError, MachineError, UsageError
from tests.training import environment

NAME = "alarm_parser"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The wheel of the smallest bundle."""
    return wheels.wheel(repository / "models" / "conv-nar-topv2", tmp_path_factory.mktemp("dist"), NAME, "1.2.0")


@pytest.fixture(scope="module")
def python(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with that wheel alone, and the libraries of this one within reach."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(package)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True, capture_output=True)
    # A folder named in a .pth file is searched, but its own .pth files, that of an editable framefill too, are not read.
    import numpy

    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(str(Path(numpy.__file__).parents[1]))
    return python


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An assistant's folder, with modules of its own under names of ours."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("data.py", "frames.py", "parsers/__init__.py", "scripts/__init__.py", "assistants/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("MINE = True\n")
    return folder


def run(command: list[str], folder: Path) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_package_parses_beside_an_assistants_own_modules(python: Path, project: Path):
    code = (
        "import sys, data, frames, parsers, scripts, assistants\n"
        f"import {NAME} as package\n"
        "assert data.MINE and frames.MINE and parsers.MINE and scripts.MINE and assistants.MINE\n"
        "parser = package.load(); parser.warm_up()\n"
        "print(parser.parse(['wake me at 6'])[0][0].frame)\n"
        "print(package.answer(parser, ['wake me at 6'])[0].abstained, package.__version__)\n"
        "for name in ('torch', 'transformers', 'faiss', 'filelock'): assert name not in sys.modules, name\n"
    )
    assert run([str(python), "-c", code], project) == "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]\nFalse 1.2.0\n"


def test_a_package_has_a_command_and_tells_where_its_bundle_is(python: Path, project: Path):
    assert "IN:CREATE_ALARM\n" in run([str(python.with_name(NAME)), "wake me at 6", "--tree"], project)
    code = (
        "from importlib.metadata import entry_points\n"
        f"(found,) = entry_points(group={wheels.ENTRY_POINTS!r})\n"
        "print((found.load() / 'manifest.json').is_file(), found.name)\n"
    )
    assert run([str(python), "-c", code], project) == f"True {NAME}\n"


def test_a_package_holds_nothing_but_its_own_name_and_no_import_of_ours(package: Path):
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        assert {name.split("/")[0] for name in names} == {NAME, f"{NAME}-1.2.0.dist-info"}
        for name in names:
            if name.endswith(".py"):
                source = archive.read(name).decode()
                assert own_imports(source) == [], name
                assert ast.get_docstring(ast.parse(source)) or name.endswith("_runtime/__init__.py"), name
        metadata = archive.read(f"{NAME}-1.2.0.dist-info/METADATA").decode()
        assert "TOPv2" in archive.read(f"{NAME}-1.2.0.dist-info/licenses/LICENSE-DATA").decode()
    assert f"{NAME}/py.typed" in names
    required = [line.split(" ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert required == list(wheels.REQUIREMENTS)


def test_the_same_bundle_gives_the_same_bytes(package: Path, repository: Path, tmp_path: Path):
    bundle = repository / "models" / "conv-nar-topv2"
    assert wheels.wheel(bundle, tmp_path, NAME, "1.2.0").read_bytes() == package.read_bytes()


def test_requirements_are_those_of_the_suite(repository: Path):
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(repository / "setup.cfg")
    required = settings["options"]["install_requires"].split()
    more = [line for lines in wheels.MORE_REQUIREMENTS.values() for line in lines]
    assert {*wheels.REQUIREMENTS, *more} <= set(required)


@pytest.mark.parametrize(
    "name", ["", "Alarm", "alarm-parser", "2nd", "class", "json", "numpy", "frames", "a__b", "../x"]
)
def test_names_that_no_package_can_have(name: str, repository: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="E540"):
        wheels.wheel(repository / "models" / "conv-nar-topv2", tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_what_else_is_refused(package: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bundle = repository / "models" / "conv-nar-topv2"
    with pytest.raises(UsageError, match="E542"):
        wheels.wheel(bundle, tmp_path, NAME, "new")
    with pytest.raises(UsageError, match="E450"):
        wheels.wheel(bundle, package.parent, NAME, "1.2.0")
    with pytest.raises(BundleError, match="E320"):
        wheels.wheel(tmp_path / "none", tmp_path, NAME)
    monkeypatch.setitem(sys.modules, "hatchling.builders.wheel", None)
    with pytest.raises(MachineError, match="E541"):
        wheels.wheel(bundle, tmp_path, NAME)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"parser": '"""; import os; os.abort(); """'}, "E398"), ({"parser": None}, "E398"), ({"parser": ""}, "E398"),
        ({"parser": "a\\"}, "E398"), ({"metrics": 7}, "E394"), ({"licence": "\ud800"}, "E322"), ({"decoding": 7}, "E394"),
        ({"form": "none"}, "E331"), ({"files": {}}, "E324"),
    ],
)  # fmt: skip
def test_a_manifest_that_no_package_can_have(changes: dict, code: str, repository: Path, tmp_path: Path):
    bundle = repository / "models" / "conv-nar-topv2"
    manifest = json.loads((bundle / "manifest.json").read_text())
    (tmp_path / "b").mkdir()
    for name in manifest["files"]:
        (tmp_path / "b" / name).symlink_to(bundle / name)
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest | changes))
    with pytest.raises(BundleError, match=code):
        wheels.wheel(tmp_path / "b", tmp_path / "dist", NAME)
    assert not (tmp_path / "dist").exists()


def test_imports_are_followed_into_functions_and_packages(tmp_path: Path):
    house = tmp_path / "house"
    house.mkdir()
    (house / "__init__.py").write_text("from house.roof import tiles\n")
    (house / "roof.py").write_text("tiles = 1\n")
    (house / "door.py").write_text("def open():\n    from house import cellar\n    import json\n")
    (house / "cellar.py").write_text("import numpy\n")
    (house / "attic.py").write_text("import house.nowhere\n")
    found = closure(["house.door"], tmp_path, frozenset({"house"}))
    assert list(found) == ["house", "house.cellar", "house.door", "house.roof"]
    with pytest.raises(ImportError, match="house.nowhere"):
        closure(["house.attic"], tmp_path, frozenset({"house"}))
    assert vendored({"house.door": house / "door.py"}, "a._b") == {
        "__init__.py": "",
        "house/door.py": (house / "door.py").read_text(),
    }


def test_everything_that_a_bundle_may_load_travels():
    modules = closure(wheels.OFFERED)
    assert {"assistants.raf", "retrieval.index", "frames.render", "parsers.raf.filling"} <= modules.keys()
    assert {name.partition(".")[0] for name in modules} == {"frames", "retrieval", "parsers", "assistants"}


def test_imports_are_rewritten_and_nothing_else():
    source = (
        '"""from frames import Frame"""\n'
        "from frames.frame import (  # ü\n    Frame as F,\n)\n"
        "import frames as f; import json\n"
        "from framesets import x\n"
        "def g():\n    é = 1; from parsers import nar\n    return 'import frames'\n"
    )
    assert rewrite(source, "a._r") == (
        '"""from frames import Frame"""\n'
        "from a._r.frames.frame import (  # ü\n    Frame as F,\n)\n"
        "from a._r import frames as f; import json\n"
        "from framesets import x\n"
        "def g():\n    é = 1; from a._r.parsers import nar\n    return 'import frames'\n"
    )
    assert own_imports(source) == [
        "from frames.frame import Frame as F",
        "import frames as f",
        "from parsers import nar",
    ]


@pytest.mark.parametrize(
    "line", ["import frames.frame", "import json, frames", "importlib.import_module('frames')", "__import__(x)"]
)
def test_imports_that_cannot_be_rewritten(line: str):
    with pytest.raises(ValueError, match="line 1"):
        rewrite(line, "a._r")


def test_the_installed_suite_finds_its_bundles_from_any_folder(repository: Path, tmp_path: Path):
    """What `pip install .` puts into site-packages, without the packing and unpacking."""
    site = tmp_path / "site"
    words = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        "--build-base",
        str(tmp_path / "work"),
        "--build-lib",
        str(site),
    ]
    subprocess.run(words, cwd=repository, check=True, capture_output=True)
    installed = {path.parent.name for path in (site / "assistants" / "models").glob("*/manifest.json")}
    included = {path.parent.name for path in (repository / "models").glob("*/manifest.json")}
    assert installed == included - {"raf-mpnet-topv2"}, "the large one is for whoever has a clone"
    assert not list(site.rglob("weights"))
    command = [sys.executable, "-m", "scripts.cli", "parse", "wake me at 6", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(site), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]"
    assert "using the bundle raf-topv2" in done.stderr


def test_an_installed_package_is_named_as_a_bundle(repository: Path, tmp_path: Path):
    """`framefill parse --bundle alarm_parser`, by the package's entry point."""
    (tmp_path / "alarm_parser.py").write_text(
        f"from pathlib import Path\nBUNDLE = Path({str(repository / 'models' / 'conv-nar-topv2')!r})\n"
    )
    metadata = tmp_path / "alarm_parser-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: alarm_parser\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{wheels.ENTRY_POINTS}]\nalarm_parser = alarm_parser:BUNDLE\n")
    path = {**environment(repository), "PYTHONPATH": os.pathsep.join((str(repository), str(tmp_path)))}
    command = [sys.executable, "-m", "scripts.cli", "parse", "--bundle", "alarm_parser", "wake me at 6"]
    done = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True)
    assert done.stdout == "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]\n", done.stderr
