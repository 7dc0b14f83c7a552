"""A bundle as a Python package that pip installs: the bundle's files and the runtime under one name of their own.

As spaCy's models are: ``import NAME; NAME.load().parse(["wake me at 6"])``. Our packages have names that an assistant may
well have itself (``data``, ``scripts``, ``parsers``), so the modules that the runtime needs travel as ``NAME._runtime``
(:mod:`assistants.vendoring`). Hatchling writes the wheel, with fixed times: the same bundle gives the same bytes.
"""

from __future__ import annotations

import json
import keyword
import re
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from assistants import runtime
from assistants.bundle import Bundle, made_by_anyone
from assistants.vendoring import PACKAGES, ROOT, closure, vendored
from frames.errors import BundleError, MachineError, UsageError, located
from frames.files import write_bytes, write_json, write_text
from frames.folders import MANIFEST
from frames.outputs import check_output

#: Modules that a package offers; what they import comes with them.
OFFERED = ("assistants.runtime", "assistants.answers", "assistants.command")
#: What every bundle needs.
REQUIREMENTS = ("numpy>=2.0", "onnxruntime>=1.20", "tokenizers>=0.22")
#: What a bundle needs besides, by the key of its manifest that tells so.
MORE_REQUIREMENTS = {"scenarios": ("faiss-cpu>=1.9", "safetensors>=0.5")}
#: Import names of the requirements; a package cannot be called so.
_TAKEN = {"numpy", "onnxruntime", "tokenizers", "faiss", "safetensors", "filelock", "framefill"}
#: Group of entry points by which programs find installed bundles; each is the path of a folder.
ENTRY_POINTS = "framefill.bundles"
#: Version of a package, the plain part of PEP 440.
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?")


def wheel(bundle: Path | str, out: Path | str, name: str, version: str | None = None, overwrite: bool = False) -> Path:
    """Writes a bundle as a wheel.

    Args:
        bundle: folder or ``.zip`` written by ``framefill export``.
        out: folder of the wheel.
        name: of the package and of its command.
        version: of the package; None takes framefill's.
        overwrite: replace a wheel of that name and version.

    Returns:
        The wheel, ``NAME-VERSION-py3-none-any.whl``.

    Raises:
        BundleError: the bundle cannot be read, or cannot be loaded, so that the package could not be either.
        UsageError: the name or version cannot be that of a package, or the wheel is there already.
        MachineError: hatchling is not installed, or the disk is full; a wheel that was there is left as it was.
    """
    _check_name(name)
    version = framefill_version() if version is None else version
    if not _VERSION.fullmatch(version):
        raise UsageError("E542", f"version {version!r} is not one that pip orders.", remedy="Write it like 1.2.0.")
    out = Path(out)
    opened = Bundle(bundle)
    target = out / f"{name}-{version}-py3-none-any.whl"
    check_output(target, overwrite)
    runtime.load(bundle)
    with tempfile.TemporaryDirectory() as aside:
        project = Path(aside) / "project"
        _write_project(project, opened, name, version)
        made = _build(project, Path(aside))
        write_bytes(target, made.read_bytes())
    return target


def framefill_version() -> str:
    """The installed framefill's version, that of an untagged clone where it is not installed."""
    try:
        return distribution("framefill").version
    except PackageNotFoundError:
        return "0.0.0"


def _check_name(name: str) -> None:
    taken = {*PACKAGES, *_TAKEN, *sys.stdlib_module_names}
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name) or name in taken:
        raise UsageError(
            "E540",
            f"a package cannot be called {name!r}.",
            remedy="Give small letters, digits and single underscores, and no name of Python, framefill or a library, "
            "e.g. alarm_parser.",
        )


def _write_project(project: Path, bundle: Bundle, name: str, version: str) -> None:
    """A folder that hatchling builds."""
    package = project / name
    for file in bundle.manifest["files"]:
        write_bytes(package / "bundle" / file, bundle.read(file))
    write_json(package / "bundle" / MANIFEST, bundle.manifest)
    for path, source in vendored(closure(OFFERED), f"{name}._runtime").items():
        write_text(package / "_runtime" / path, source)
    with made_by_anyone(bundle.path), located(str(bundle.path)):
        about, kind, licence = _about(bundle.manifest)
    write_text(package / "__init__.py", _INIT.format(name=name, version=version, about=about))
    write_text(package / "__main__.py", _MAIN.format(name=name))
    write_text(package / "py.typed", "")
    write_text(project / "LICENSE", _code_licence())
    write_text(project / "LICENSE-DATA", licence + "\n")
    write_text(project / "README.md", _README.format(name=name, about=about, licence=licence))
    write_text(project / "pyproject.toml", _pyproject(name, version, about, kind, bundle.manifest))


def _about(manifest: dict[str, Any]) -> tuple[str, str, str]:
    """A sentence on the bundle, the kind of its parser, and the licence of its data.

    Raises:
        BundleError: the kind is no name, and would be written into code.
    """
    exact_match = manifest.get("metrics", {}).get("exact_match")
    figure = f", exact match {exact_match:.2f}" if isinstance(exact_match, int | float) else ""
    kind = str(manifest.get("parser", ""))
    if not re.fullmatch(r"[a-z]+(_[a-z]+)*", kind):
        raise BundleError(
            "E398",
            f"the manifest's parser, {kind[:100]!r}, is no kind of parser.",
            remedy="Do not use this bundle; it was not written by framefill.",
        )
    licence = str(manifest.get("licence", "The bundle does not tell what it was trained on."))
    return f"A framefill parser of kind {kind} for task-oriented dialogue{figure}", kind, licence


def _pyproject(name: str, version: str, about: str, kind: str, manifest: dict[str, Any]) -> str:
    """Metadata for hatchling. JSON's strings and lists of strings are TOML as well."""
    needs = [*REQUIREMENTS, *(line for key, lines in MORE_REQUIREMENTS.items() if key in manifest for line in lines)]
    project = {
        "name": name,
        "version": version,
        "description": about,
        "readme": "README.md",
        "requires-python": ">=3.11",
        "license": "MIT AND LicenseRef-training-data",
        "license-files": ["LICENSE", "LICENSE-DATA"],
        "dependencies": needs,
        "keywords": ["semantic parsing", "task-oriented dialogue", kind],
        "classifiers": ["Programming Language :: Python :: 3", "Typing :: Typed"],
    }
    tables: dict[str, dict[str, Any]] = {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": project,
        "project.scripts": {name: f"{name}.__main__:main"},
        f'project.entry-points."{ENTRY_POINTS}"': {name: f"{name}:BUNDLE"},
        "tool.hatch.build": {"ignore-vcs": True},
        "tool.hatch.build.targets.wheel": {"packages": [name], "core-metadata-version": "2.4"},
    }
    lines = []
    for table, values in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _build(project: Path, out: Path) -> Path:
    try:
        from hatchling.builders.wheel import WheelBuilder
    except ImportError as error:
        raise MachineError(
            "E541", "hatchling, which writes wheels, is not installed.", remedy="pip install 'framefill[wheel]'"
        ) from error
    return Path(next(iter(WheelBuilder(str(project)).build(directory=str(out), versions=["standard"]))))


def _code_licence() -> str:
    """The licence of the runtime's code, from the clone or from the installed framefill."""
    path = ROOT / "LICENSE"
    if path.is_file() and (ROOT / "setup.cfg").is_file():
        return path.read_text(encoding="utf-8")
    text = distribution("framefill").read_text("licenses/LICENSE")
    assert text is not None, "framefill was installed without its licence"
    return text


_INIT = '''"""{about}.

>>> import {name}
>>> parser = {name}.load()
>>> best = parser.parse(["wake me at 6"])[0][0]
>>> print(best.frame, best.score)
"""

from __future__ import annotations

from pathlib import Path

from {name}._runtime.assistants import runtime
from {name}._runtime.assistants.answers import Answer, answer
from {name}._runtime.assistants.onnx_backend import BundleParser
from {name}._runtime.frames import Frame, FramefillError, Intent, Slot, Span
from {name}._runtime.parsers.interface import Hypothesis

__all__ = [
    "BUNDLE",
    "Answer",
    "BundleParser",
    "Frame",
    "FramefillError",
    "Hypothesis",
    "Intent",
    "Slot",
    "Span",
    "answer",
    "load",
]
__version__ = "{version}"
#: Folder of the graphs, the tokenizer and the ontology.
BUNDLE = Path(__file__).resolve().parent / "bundle"


def load(precision: str | None = None, threads: int = 1) -> BundleParser:
    """The parser.

    Args:
        precision: ``int8``, ``int4`` or ``fp32``; None takes the first of them that the bundle has.
        threads: groups of utterances that are parsed side by side, 0 for one a core.

    Raises:
        FramefillError: a file was changed since the package was made, or the bundle lacks that precision.
    """
    return runtime.load(BUNDLE, precision, threads)
'''

_MAIN = '''"""The command ``{name}``: utterances to frames."""

from __future__ import annotations

import sys

from {name} import load
from {name}._runtime.assistants import command


def main() -> int:
    """Runs the command line of the process."""
    return command.main("{name}", load)


if __name__ == "__main__":
    sys.exit(main())
'''

_README = """# {name}
{about}.

```python
import {name}

parser = {name}.load()
for hypotheses in parser.parse(["wake me at 6", "play some jazz"]):
    print(hypotheses[0].frame)
```
On the command line: `{name} "wake me at 6" --tree`.

{licence} The code is MIT.
"""
