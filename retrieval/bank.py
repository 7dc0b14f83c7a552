"""The scenario bank: the scenarios that can be retrieved."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from frames.errors import BundleError, UsageError
from frames.files import check_version, write_json
from frames.frame import MAX_NESTING, Frame
from frames.linearization import TEXT
from frames.ontology import CLOSE
from retrieval.scenario import Scenario

#: Version of the JSON file; other versions are refused.
VERSION = 1


class ScenarioBank:
    """Scenarios in a fixed order, each with its number of training rows. Immutable: changes give a new bank.

    A scenario's id is its position in this order.

    Args:
        counts: training rows of each scenario; 0 for a scenario that was added without a row.
    """

    def __init__(self, counts: Mapping[Scenario, int]) -> None:
        self._counts = dict(counts)
        self.scenarios = tuple(self._counts)
        self._ids = {scenario: i for i, scenario in enumerate(self.scenarios)}

    @classmethod
    def from_frames(cls, frames: Iterable[Frame]) -> ScenarioBank:
        """The scenarios of training frames, the most frequent first."""
        counts = Counter(Scenario.from_frame(frame) for frame in frames)
        return cls(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0].tokens))))

    def __len__(self) -> int:
        return len(self.scenarios)

    def __iter__(self) -> Iterator[Scenario]:
        return iter(self.scenarios)

    def __contains__(self, scenario: object) -> bool:
        return scenario in self._ids

    def __getitem__(self, scenario_id: int) -> Scenario:
        return self.scenarios[scenario_id]

    def id(self, scenario: Scenario) -> int | None:
        """The scenario's id, None if the bank does not have it."""
        return self._ids.get(scenario)

    def count(self, scenario: Scenario) -> int:
        """Training rows of the scenario; 0 if it was added by hand or the bank does not have it."""
        return self._counts.get(scenario, 0)

    @property
    def num_seen(self) -> int:
        """Scenarios up to the last one that has a training row, that one included."""
        return max((i + 1 for i, count in enumerate(self._counts.values()) if count), default=0)

    def added(self, scenarios: Iterable[Scenario]) -> ScenarioBank:
        """This bank and further scenarios without training rows; scenarios that the bank has keep their counts."""
        return ScenarioBank({**self._counts, **{s: 0 for s in scenarios if s not in self}})

    def removed(self, scenario: Scenario) -> ScenarioBank:
        """This bank without a scenario.

        Raises:
            UsageError: the bank does not have the scenario, or has no other.
        """
        if scenario not in self:
            raise UsageError(
                "E440", f"the bank has no scenario {scenario}.", remedy="`framefill bank list` shows what it has."
            )
        if len(self) == 1:
            raise UsageError(
                "E348",
                f"{scenario} is the bank's only scenario, and nothing is parsed without one.",
                remedy="Add another one first, with `framefill bank add`.",
            )
        return ScenarioBank({s: count for s, count in self._counts.items() if s != scenario})

    def merged(self, other: ScenarioBank) -> ScenarioBank:
        """The scenarios of both, counts added up; scenarios of this bank keep their ids."""
        counts = dict(self._counts)
        for scenario in other:
            counts[scenario] = counts.get(scenario, 0) + other.count(scenario)
        return ScenarioBank(counts)

    @property
    def digest(self) -> str:
        """SHA-256 of the scenarios in their order, without their counts, which retrieval does not use."""
        return hashlib.sha256("\n".join(map(str, self.scenarios)).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {"version": VERSION, "scenarios": {str(s): count for s, count in self._counts.items()}}

    @classmethod
    def from_dict(cls, value: dict[str, Any], where: str = "") -> ScenarioBank:
        """The bank that :meth:`to_dict` wrote.

        Raises:
            BundleError: another format or version, or no scenarios.
        """
        try:
            check_version(value, VERSION, "scenario bank", "E340", where)
            if not value["scenarios"]:
                raise ValueError("no scenarios")
            return cls({_starred(text): int(count) for text, count in value["scenarios"].items()})
        except BundleError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                "E341", f"not a scenario bank ({error!r}).", where=where, remedy="Export again."
            ) from error

    def save(self, path: Path | str) -> None:
        """Writes the bank as JSON."""
        write_json(path, self.to_dict())


def _starred(text: str) -> Scenario:
    """The scenario of :attr:`Scenario.text`; a slot without a star is empty."""
    tokens = text.split()
    if not _plain(tokens):
        Frame.parse(text)  # refuses what is no frame, with its own error
    return Scenario(tuple(token.removeprefix("[") for token in tokens))


def _plain(tokens: list[str]) -> bool:
    """Whether :meth:`frames.Frame.parse` surely accepts the tokens; a bank of thousands is looked through in a moment."""
    depth = 0
    for place, token in enumerate(tokens):
        if place and not depth:
            return False
        if token == CLOSE:
            depth -= 1
        elif token != TEXT:
            kind, name = token[:4], token[4:]
            if kind != ("[SL:" if depth % 2 else "[IN:") or not name.replace("_", "").isalnum():
                return False
            depth += 1
        if depth < 0 or depth > MAX_NESTING or not depth and token == TEXT:
            return False
    return bool(tokens) and not depth
