"""The one exception family that framefill raises for bad input.

Every message says what is wrong, where (file, line, value) and what to do about it, so that a command
can print it as it stands and a caller can branch on ``code``. A code stands for one fault; ``docs/errors.md`` lists them.

Config classes are different: their fields come from code or from a config file, so a value that a field cannot have is a
plain ``ValueError``, as of any function; what reads the config file reports it as a :class:`UsageError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Self


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

    def __reduce__(self) -> tuple[Any, ...]:
        """The error across processes; by itself Python would give the message back in place of the arguments."""
        made = partial(type(self), where=self.where, remedy=self.remedy)
        return made, (self.code, self.what), vars(self)

    def at(self, where: str) -> Self:
        """The same error at this place."""
        return type(self)(self.code, self.what, where=where, remedy=self.remedy)

    def naming(self, options: Mapping[str, str]) -> Self:
        """The same error for a command that has other names for some options.

        Args:
            options: this command's name of an option by its name in the message, such as ``--data-root``.
        """
        remedy = re.sub(r"--[\w.-]*\w", lambda found: options.get(found[0], found[0]), self.remedy)
        return type(self)(self.code, self.what, where=self.where, remedy=remedy)


class FrameError(FramefillError):
    """A malformed tree, or a frame that does not fit its utterance or ontology."""


class CorpusError(FramefillError):
    """A corpus file that is missing, truncated or not in the official layout."""


class BundleError(FramefillError):
    """An exported bundle or checkpoint that is missing, corrupted or of another format version."""


class FramefillWarning(UserWarning):
    """Something about the input that the user should know, and that does not stop the work."""


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
