"""README and docs against the repository: links, paths, commands and options. Nothing here imports torch."""

import argparse
import ast
import functools
import re
import shlex
from pathlib import Path

import pytest

from assistants.command import CommandParser
from scripts.cli import main

ROOT = Path(__file__).resolve().parent.parent
#: What people read today; the CHANGELOG also names what is gone.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "models/README.md", "results/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
ALL_PAGES = [*PAGES, ROOT / "CHANGELOG.md"]
#: Options of `framefill fit` beside those of model, data and trainer.
FIT_OPTIONS = {"config", "run", "resume", "overwrite", "threads", "checkpoint_every", "seed_everything", "help"}
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PATH = re.compile(r"(?<![\w/.-])(?:results|configs|benchmarks|notebooks)/[\w./-]*\w/?")


class Parsed(Exception):
    """A command line was read without fault."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch):
    """Commands end once their arguments are parsed; a fault is raised with argparse's message."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *arguments, **options):
        parse(self, *arguments, **options)
        raise Parsed

    def fail(self, message):
        raise ValueError(message)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(CommandParser, "error", fail)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets(page: Path) -> list[tuple[Path, str]]:
    """File and anchor of every relative link of a page."""
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    split = [link.partition("#") for link in links]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in split]


def whole_commands(page: Path) -> list[str]:
    """Command lines in the shell blocks of a page, those that go on over several lines joined."""
    blocks = [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language == "sh"]
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def inline_commands(page: Path) -> list[str]:
    """Commands within sentences, which may leave out what a command requires.

    Templates of error messages, which have ``{braces}`` in place of a value, are no commands yet.
    """
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"`((?:framefill|python -m benchmarks\.)[^`]*)`", text)
    return [" ".join(command.split()) for command in found if not re.search(r"\{\w+\}", command)]


@functools.cache
def known_options() -> dict[str, set[str]]:
    """Names that `framefill fit` takes below ``data`` and below each part of ``model``, read from the sources."""
    options: dict[str, set[str]] = {"data": set(), "model": set()}
    for path in [*(ROOT / "lightning_modules").glob("*.py"), *(ROOT / "parsers").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            if node.name.endswith("Config"):
                options["model"] |= {
                    part.target.id
                    for part in node.body
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
                }
            elif node.name.endswith("DataModule"):
                starts = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
                options["data"] |= {argument.arg for start in starts for argument in start.args.args}
    return options


def check(command: str, complete: bool = True) -> None:
    """Fails where a command of ours would not be understood."""
    words = shlex.split(command, comments=True)
    if words[:2] == ["framefill", "fit"]:
        check_fit(words[2:])
    elif words[:1] == ["framefill"]:
        try:
            main(words[1:])
        except Parsed:
            pass
        except ValueError as error:
            assert not complete and "required" in str(error), f"{command}: {error}"
        except SystemExit as stop:
            assert stop.code == 0, command
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        source = (ROOT / f"{words[2].replace('.', '/')}.py").read_text(encoding="utf-8")
        shared = (ROOT / "benchmarks" / "measuring.py").read_text(encoding="utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option.partition("=")[0]}"' in source + shared, f"{command}: {option}"


def check_fit(words: list[str]) -> None:
    options = known_options()
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if not word.startswith("--"):
            continue
        first, *rest = word.removeprefix("--").partition("=")[0].split(".")
        if first == "config":
            assert (ROOT / following).is_file(), following
        elif first == "data":
            assert rest[0] in options["data"], word
        elif first == "model" and rest[0] == "help":
            path, _, name = following.rpartition(".")
            assert f"class {name}(" in (ROOT / f"{path.replace('.', '/')}.py").read_text(encoding="utf-8"), following
        elif first == "model":
            assert rest[0] in ("model", "decoding", "optimization") and rest[1] in options["model"], word
        else:
            assert first == "trainer" or first in FIT_OPTIONS, word


@pytest.mark.parametrize("page", ALL_PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    for target, anchor in targets(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"


def test_the_index_leads_to_every_page():
    reached, waiting = set(), [ROOT / "docs" / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting += [target for target, _ in targets(page) if target.suffix == ".md" and target not in reached]
    assert set((ROOT / "docs").rglob("*.md")) <= reached


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_exist(page: Path):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    commands = set(inline_commands(page))
    for found in PATH.finditer(text):
        if re.match(r"`?\s+at\s+commit", text[found.end() :]) or "NAME" in found[0]:
            continue
        if any(found[0] in command for command in commands):
            continue  # test_commands_are_understood looks at these; a command may also write the file
        assert (ROOT / found[0]).exists(), found[0]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_understood(page: Path, parse_only):
    for command in whole_commands(page):
        check(command)
    for command in inline_commands(page):
        check(command, complete=False)


@pytest.mark.parametrize("page", ALL_PAGES, ids=name)
def test_pages_use_short_options_and_no_path_of_a_machine(page: Path):
    text = page.read_text(encoding="utf-8")
    assert "init_args" not in text
    assert not re.search(r"(?<![\w.:/~-])/(?:work|tmp|root|home|Users|mnt|opt)/", text)


@pytest.mark.parametrize(
    "command",
    [
        "framefill fit --config configs/nothing.yaml",
        "framefill fit --data.colour red",
        "framefill fit --model.decoding.colour red",
        "framefill parse --colour red",
        "framefill dance",
        "python -m benchmarks.latency --colour red",
    ],
)
def test_a_wrong_command_is_noticed(command: str, parse_only):
    with pytest.raises(AssertionError):
        check(command)
