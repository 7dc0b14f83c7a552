"""Error codes: one fault each, and a page that lists them."""

import ast
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

from assistants.serving.limits import RefusedError
from frames.errors import BundleError, CorpusError, FrameError, FramefillError, MachineError, UsageError, located
from scripts.errors_page import PACKAGES, PAGE, faults, page


def test_each_code_is_raised_in_one_place():
    places = Counter(fault.code for fault in faults())
    twice = {code: [fault.place for fault in faults() if fault.code == code] for code, n in places.items() if n > 1}
    assert not twice


def test_every_code_in_the_source_is_on_the_list(repository: Path):
    """Codes that are compared with, passed on, or hidden from the list in any other way would be found here."""
    written = set()
    for package in PACKAGES:
        for path in (repository / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                value = node.value if isinstance(node, ast.Constant) else None
                if isinstance(value, str) and re.fullmatch(r"E\d{3}", value):
                    written.add(value)
    assert written == {fault.code for fault in faults()}


def test_every_fault_has_a_type_and_a_message():
    assert not [fault for fault in faults() if not fault.type or not fault.what]


def test_every_fault_has_a_remedy():
    assert not [fault.code for fault in faults() if not fault.remedy]


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(faults()), "run python -m scripts.errors_page"


def test_faults_are_found_in_code(tmp_path: Path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "x.py").write_text(
        "def f(n):\n"
        "    raise CorpusError('E299', f'{n} row(s) of {len(n)}.', where='x', remedy='Add | rows.')\n"
        "def g(n):\n"
        "    return FrameError('E199', 'nothing here.')\n"
    )
    one, two = faults(tmp_path)
    assert (one.code, one.type, one.place) == ("E199", "FrameError", "frames/x.py:4")
    assert (two.what, two.remedy) == ("{n} row(s) of {…}.", "Add | rows.")
    assert "| E299 | `CorpusError` | {n} row(s) of {…}. | Add \\| rows. | `frames/x.py` |" in page([one, two])


def test_a_place_is_added_to_errors_without_one():
    with pytest.raises(FrameError, match=r"\[E101\] there: x"), located("there"):
        raise FrameError("E101", "x")
    with pytest.raises(CorpusError, match=r"\[E201\] here: x"), located("there"):
        raise CorpusError("E201", "x", where="here")


@pytest.mark.parametrize(
    "kind", [FramefillError, FrameError, CorpusError, BundleError, UsageError, MachineError, RefusedError]
)
def test_errors_come_whole_from_other_processes(kind: type[FramefillError]):
    error = kind("E101", "x", where="here", remedy="Give --root.").naming({"--root": "--data-root"})
    error.add_note("more")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is kind and str(found) == str(error) == "[E101] here: x Give --data-root."
    assert vars(found) == vars(error) and found.at("there").remedy == "Give --data-root."
