"""The one exception family that framefill raises for bad input.

Every message says what is wrong, where (file, line, value) and what to do about it, so that a command
can print it as it stands and a caller can branch on ``code``. A code stands for one fault; ``docs/errors.md`` lists them.

Config classes are different: their fields come from code or from a config file, so a value that a field cannot have is a
plain ``ValueError``, as of any function; what reads the config file reports it as a :class:`UsageError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class FramefillError(ValueError):
    """Bad input or a broken file, told with its place and its remedy.

    Args:
        code: stable identifier, ``E1xx`` frames and labels, ``E2xx`` corpus files, ``E3xx`` bundles and
            checkpoints, ``E4xx`` the command line, ``E5xx`` the machine (disk, network, memory) and servers.
        what: the fault in one sentence, with the offending value.
        where: the file, line or column, where there is one.
        remedy: what the reader can do now.
    """

    def __init__(self, code: str, what: str, *, where: str = "", remedy: str = "") -> None:
        self.code, self.what, self.where, self.remedy = code, what, where, remedy
        place = f"{where}: " if where else ""
        advice = f" {remedy}" if remedy else ""
        super().__init__(f"[{code}] {place}{what}{advice}")

    def at(self, where: str) -> Self:
        """The same error at this place."""
        return type(self)(self.code, self.what, where=where, remedy=self.remedy)


class FrameError(FramefillError):
    """A malformed tree, or a frame that does not fit its utterance or ontology."""


class CorpusError(FramefillError):
    """A corpus file that is missing, truncated or not in the official layout."""


class BundleError(FramefillError):
    """An exported bundle or checkpoint that is missing, corrupted or of another format version."""


class UsageError(FramefillError):
    """A command or configuration that cannot be carried out as given."""


class MachineError(FramefillError):
    """The machine failed us: disk full, no network, no permission."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Adds a place to errors of the block that name none."""
    try:
        yield
    except FramefillError as error:
        if error.where:
            raise
        raise error.at(where) from error
