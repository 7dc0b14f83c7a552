"""Our modules inside another package: which ones a module needs, and their imports under the new name.

As pip carries its dependencies in ``pip._vendor``: the code stays as it is, but for the names that it imports.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

#: Top-level packages of this project.
PACKAGES = frozenset({"frames", "retrieval", "parsers", "data", "lightning_modules", "assistants", "scripts"})
#: Folder that holds these packages.
ROOT = Path(__file__).resolve().parents[1]


def closure(roots: Sequence[str], root: Path = ROOT, packages: frozenset[str] = PACKAGES) -> dict[str, Path]:
    """The modules that some modules import, directly or not, inside of functions as well.

    Args:
        roots: names of modules.
        root: folder that holds the packages.
        packages: top-level packages that are looked into.

    Returns:
        The file of each module by its name, ``roots`` and the packages that hold a module among them.

    Raises:
        ImportError: a module is missing.
    """
    finder: Any = _Finder(root, packages)  # its attributes are missing in the type stubs
    for name in roots:
        finder.import_hook(name)
    missing = [name for name in finder.badmodules if name.partition(".")[0] in packages]
    # `from frames import Frame` looks like the import of a module until the package turns out to define the name.
    unknown = [name for name in missing if not _defines(finder, *name.rpartition(".")[::2])]
    if unknown:
        raise ImportError(f"no module {', '.join(sorted(unknown))} below {root}")
    return {name: Path(module.__file__) for name, module in sorted(finder.modules.items()) if module.__file__}


class _Finder(ModuleFinder):
    """Follows imports within some packages alone."""

    def __init__(self, root: Path, packages: frozenset[str]) -> None:
        super().__init__(path=[str(root)])
        self._packages = packages

    def import_hook(self, name: str, caller: Any = None, fromlist: list[str] | None = None, level: int = -1) -> Any:
        if level > 0 or name.partition(".")[0] in self._packages:
            return super().import_hook(name, caller, fromlist, level)
        return None


def _defines(finder: Any, module: str, name: str) -> bool:
    found = finder.modules.get(module)
    return found is not None and name in found.globalnames


@dataclass(frozen=True)
class _Edit:
    """Bytes ``[start, end)`` of a source text, and what comes in their place."""

    start: int
    end: int
    text: str


def rewrite(source: str, prefix: str, packages: frozenset[str] = PACKAGES) -> str:
    """A module's source with our absolute imports under another package.

    ``from frames.x import y`` becomes ``from PREFIX.frames.x import y``, and ``import frames`` becomes ``from PREFIX
    import frames``. Everything else stays as it is, which the syntax trees before and after are compared for.

    Args:
        source: of a module.
        prefix: name of the package that holds ours.
        packages: our top-level packages.

    Raises:
        ValueError: the module imports in a way that has no such form (``import frames.x``, or a name made at run time).
    """
    tree, content = ast.parse(source), source.encode()
    starts = [0]
    for line in content.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    edits = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
            text = _rewritten(node, content[start:end].decode(), prefix, packages)
            edits += [] if text is None else [_Edit(start, end, text)]
    for edit in sorted(edits, key=lambda edit: -edit.start):
        content = content[: edit.start] + edit.text.encode() + content[edit.end :]
    changed = content.decode()
    if ast.dump(ast.parse(changed)) != ast.dump(_Renamed(prefix, packages).visit(tree)):
        raise ValueError("the rewritten module differs in more than its imports")
    return changed


def _rewritten(
    node: ast.Import | ast.ImportFrom | ast.Call, text: str, prefix: str, packages: frozenset[str]
) -> str | None:
    """The text of a statement that imports ours under the new name; None for any other node."""
    if isinstance(node, ast.ImportFrom):
        if node.level or _top(node.module) not in packages:
            return None
        # A statement over several lines, and with comments, keeps its form.
        return re.sub(r"\Afrom(\s+)", rf"from\g<1>{prefix}.", text)
    if isinstance(node, ast.Import):
        if not any(_top(alias.name) in packages for alias in node.names):
            return None
        (alias, *others) = node.names
        if others or "." in alias.name:
            raise ValueError(f"line {node.lineno}: `{text}` cannot be moved; write `from … import …`")
        return f"from {prefix} {text}"
    if _called(node) in ("__import__", "import_module"):
        raise ValueError(f"line {node.lineno}: `{text}` imports a name made at run time")
    return None


class _Renamed(ast.NodeTransformer):
    """The tree that :func:`rewrite` should give."""

    def __init__(self, prefix: str, packages: frozenset[str]) -> None:
        self._prefix, self._packages = prefix, packages

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:  # noqa: N802
        if not node.level and _top(node.module) in self._packages:
            return ast.ImportFrom(f"{self._prefix}.{node.module}", node.names, 0)
        return node

    def visit_Import(self, node: ast.Import) -> ast.Import | ast.ImportFrom:  # noqa: N802
        if any(_top(alias.name) in self._packages for alias in node.names):
            return ast.ImportFrom(self._prefix, node.names, 0)
        return node


def own_imports(source: str, packages: frozenset[str] = PACKAGES) -> list[str]:
    """Absolute imports of ours in a module, as they are written."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names: Sequence[str | None] = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        if any(_top(name) in packages for name in names):
            found.append(ast.unparse(node))
    return found


def vendored(modules: Mapping[str, Path], prefix: str) -> dict[str, str]:
    """Sources of modules below a package, by their path in it.

    Args:
        modules: as :func:`closure` gives them.
        prefix: dotted name of the package.

    Raises:
        ValueError: see :func:`rewrite`.
    """
    found = {"__init__.py": ""}
    for name, path in modules.items():
        place = name.replace(".", "/")
        inside = f"{place}/__init__.py" if path.name == "__init__.py" else f"{place}.py"
        try:
            found[inside] = rewrite(path.read_text(encoding="utf-8"), prefix)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return found


def _top(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
