"""The names that an assistant uses in place of the ontology's labels, read from a YAML or JSON file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from frames.errors import UsageError
from frames.files import parse_json
from frames.ontology import Ontology

#: Version of the file's format.
VERSION = 1
#: What happens to an intent that the file does not name.
Unmapped = Literal["keep", "abstain"]
_KEYS = {"version", "intents", "slots", "unmapped"}


@dataclass(frozen=True)
class Names:
    """Names of intents and slots.

    Attributes:
        intents: the assistant's name of an intent by its label, without ``IN:``. Several labels may share a name.
        slots: the same for slots, without ``SL:``. A slot that is not listed keeps its label.
        unmapped: ``keep`` gives an intent that is not listed under its label; ``abstain`` refuses the utterance, for an
            assistant that would fail on an intent that it does not have.
    """

    intents: Mapping[str, str] = field(default_factory=dict)
    slots: Mapping[str, str] = field(default_factory=dict)
    unmapped: Unmapped = "keep"

    def intent(self, label: str) -> str | None:
        """The name of an intent, None if the assistant does not have it."""
        return self.intents.get(label, label if self.unmapped == "keep" else None)

    def slot(self, label: str) -> str:
        """The name of a slot."""
        return self.slots.get(label, label)

    @classmethod
    def read(cls, path: Path | str) -> Names:
        """Reads a mapping file; JSON is read as well as YAML.

        Raises:
            UsageError: the file cannot be read, or has not the documented shape.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            value = parse_json(text) if path.suffix == ".json" else _yaml(text)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                "E520", f"cannot be read as YAML or JSON ({reason}).", where=str(path), remedy="Check path and syntax."
            ) from error
        fault = _fault(value)
        if fault:
            raise UsageError(
                "E521",
                f"{fault}.",
                where=str(path),
                remedy="Write `version: 1`, `intents:` and `slots:` (label: name), and `unmapped: keep` or `abstain`.",
            )
        return cls(value.get("intents") or {}, value.get("slots") or {}, value.get("unmapped", "keep"))

    def check(self, ontologies: Iterable[Ontology], where: str = "") -> None:
        """Whether every label is known to at least one parser, for a label with a typing error would map nothing.

        Raises:
            UsageError: a label is unknown.
        """
        ontologies = list(ontologies)
        for kind, labels in (("intents", self.intents), ("slots", self.slots)):
            known = {label for ontology in ontologies for label in getattr(ontology, kind)}
            unknown = sorted(set(labels) - known)
            if unknown:
                raise UsageError(
                    "E522",
                    f"no bundle knows the {kind} {', '.join(unknown[:5])}.",
                    where=where,
                    remedy="Write labels as the bundle's ontology.json has them, without IN: and SL:.",
                )


def _yaml(text: str) -> Any:
    # YAML comes with the servers alone.
    from frames.yaml_files import parse_yaml

    return parse_yaml(text)


def _fault(value: Any) -> str | None:
    """What is wrong with the parsed file, None if nothing is."""
    if not isinstance(value, dict):
        return "the file is not a mapping"
    if value.get("version") != VERSION:
        return f"version is {value.get('version')!r}, this framefill reads {VERSION}"
    unknown = sorted(str(key) for key in value if key not in _KEYS)
    if unknown:
        return f"{unknown[0]!r} is not a key of the file"
    if value.get("unmapped", "keep") not in get_args(Unmapped):
        return f"unmapped is {value['unmapped']!r}"
    for kind in ("intents", "slots"):
        labels = value.get(kind) or {}
        if not isinstance(labels, dict):
            return f"{kind} is not a mapping"
        for label, name in labels.items():
            if not isinstance(label, str) or not isinstance(name, str) or not name.strip():
                return f"{kind} maps {label!r} to {name!r}, and both must be text"
            if label.startswith(("IN:", "SL:")):
                return f"{kind} has the label {label!r} with its prefix"
    return None
