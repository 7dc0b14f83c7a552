"""Writes ``docs/errors.md``, the list of all error codes, from the code: ``python -m scripts.errors_page``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from frames.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("frames", "data", "retrieval", "parsers", "lightning_modules", "assistants", "scripts")
PAGE = ROOT / "docs" / "errors.md"
#: Headings by the first digit of a code, as :class:`frames.errors.FramefillError` groups them.
GROUPS = {
    "1": "Frames and labels",
    "2": "Corpus files",
    "3": "Bundles, checkpoints and banks",
    "4": "Commands, options and utterances",
    "5": "The machine and servers",
}
_CODE = re.compile(r"E\d{3}")
_HEAD = """# Error codes

<!-- Written by `python -m scripts.errors_page` from the code; edit the messages there. -->

Every error that framefill raises for bad input is a `FramefillError` with a `code`, what is wrong, where, and what to do. A
code stands for one fault. Words in `{braces}` are filled in. Commands print the error on standard error and end with status 2.
"""


@dataclass(frozen=True)
class Fault:
    """One place in the code where an error gets its code.

    Attributes:
        code: such as ``E301``.
        type: name of the exception; empty where a function is given the code and raises it.
        what: the message's template.
        remedy: the template of what to do, empty if there is none.
        place: file and line.
    """

    code: str
    type: str
    what: str
    remedy: str
    place: str


def faults(root: Path = ROOT) -> list[Fault]:
    """All places, in the order of codes."""
    files = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    found = [fault for path in files for fault in _in_file(path, path.relative_to(root).as_posix())]
    return sorted(found, key=lambda fault: (fault.code, fault.place))


def page(found: list[Fault]) -> str:
    """The page in Markdown."""
    lines = [_HEAD]
    for digit, title in GROUPS.items():
        lines += [
            f"## E{digit}xx: {title}",
            "",
            "| code | type | what | what to do | raised in |",
            "| --- | --- | --- | --- | --- |",
        ]
        for fault in found:
            if fault.code[1] == digit:
                file = fault.place.split(":")[0]
                cells = (fault.code, f"`{fault.type}`", _cell(fault.what), _cell(fault.remedy), f"`{file}`")
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _in_file(path: Path, name: str) -> Iterator[Fault]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        codes = [i for i, argument in enumerate(node.args) if _is_code(argument)]
        if not codes:
            continue
        at = codes[0]
        code = ast.literal_eval(node.args[at])
        place = f"{name}:{node.lineno}"
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called.endswith("Error"):
            remedy = next((_template(word.value) for word in node.keywords if word.arg == "remedy"), "")
            yield Fault(code, called, _template(node.args[at + 1]), remedy, place)
        elif called == "check_version":
            yield Fault(
                code,
                "BundleError",
                f"{_template(node.args[2])} of another version.",
                "Export again with this version.",
                place,
            )
        elif called == "read_json":
            yield Fault(
                code,
                "BundleError",
                f"cannot be read as {_template(node.args[1])}.",
                "Check the path, or make it again.",
                place,
            )
        else:
            yield Fault(code, "", f"see {called}", "", place)


def _is_code(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(_CODE.fullmatch(node.value))


def _template(node: ast.expr) -> str:
    """The text of a string or f-string, with the names of what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + (ast.unparse(node.value) if isinstance(node.value, ast.Name | ast.Attribute) else "…") + "}"
    return "{" + (ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else "…") + "}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    write_text(PAGE, page(faults()))
    print(PAGE)
