"""Whether a training may go on from a checkpoint: only if it is the very training that wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from frames.errors import UsageError
from frames.ontology import Ontology
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.saved import encoder_config_of
from parsers.aliases import known_options, options_of

#: Longest value that an error prints.
SHOWN = 40
#: Options that decide nothing about the parameters: weights of the same architecture may lie somewhere else.
FREE = ("encoder", "language_model")
#: What the configuration of a pretrained model says of files and versions, not of its sizes.
NO_SIZES = ("architectures", "dtype", "torch_dtype", "transformers_version")


def check_same_training(saved: Mapping[str, Any], now: Mapping[str, Any], module: Any) -> None:
    """Compares what a checkpoint was trained on with the training that is about to go on from it.

    Args:
        saved: metadata of the checkpoint (:meth:`lightning_modules.parser_module.ParserModule.metadata`), perhaps of an
            earlier version.
        now: metadata of this training.
        module: class of this training's module.

    Raises:
        UsageError: kind, rows, tokenizer, labels, form, scenarios, sizes or options differ; the error says which.
    """
    differing = _differences(saved, now, module)
    if saved["data"]["checksum"] != now["data"]["checksum"]:
        differing.insert(0, "other training rows")
    if differing:
        raise UsageError(
            "E462",
            f"the checkpoint is of another training: {'; '.join(differing)}.",
            remedy="Resume with the rows and options that the run began with, or begin another run with --run NAME "
            "(--data.init_from CHECKPOINT starts it from these parameters).",
        )


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any], module: Any) -> list[str]:
    if saved["kind"] != now["kind"]:
        return [f"kind {saved['kind']}, not {now['kind']}"]
    return [
        *_other_options("model", module.config_class, saved, now),
        *_other_options("optimization", module.optimization_class, saved, now),
        *_other_options("data", TOPv2DataModule, saved, now),
        # RAF trains its span pointer only if decoding composes frames.
        *_other_values("composing", *(bool(some["decoding"].get("compose_weight")) for some in (saved, now))),
        *_other_values("seed", saved["data"].get("seed"), now["data"].get("seed")),
        *_other_values("encoder", *(_sizes(encoder_config_of(metadata)) for metadata in (saved, now))),
        *_other_assets(saved["assets"], now["assets"]),
    ]


def _other_options(section: str, options: type, saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old = known_options(options, saved[section], drop_unknown=True)
    for name in options_of(options):
        # An option that the checkpoint's version did not have has its default there, and no name to compare.
        if name in old and name in now[section] and name not in FREE:
            yield from _other_values(f"{section}.{name}", _sizes(old[name]), _sizes(now[section][name]))


def _sizes(value: Any) -> Any:
    """A configuration without :data:`NO_SIZES`; any other value as it is."""
    return {k: v for k, v in value.items() if k not in NO_SIZES} if isinstance(value, dict) else value


def _other_values(name: str, before: Any, after: Any) -> Iterator[str]:
    if before != after:
        yield f"{name} {_shown(before)}, not {_shown(after)}"


def _other_assets(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = (Ontology.from_dict(assets["ontology"]) for assets in (saved, now))
    gone, added = (sorted(set(one.tokens) - set(other.tokens)) for one, other in ((old, new), (new, old)))
    if gone or added:
        changes = [f"{word} {', '.join(some[:3])}" for word, some in (("with", gone), ("without", added)) if some]
        yield f"other labels ({' and '.join(changes)})"
    elif old != new:
        yield "labels that nest otherwise"
    if saved["tokenizer"] != now["tokenizer"]:
        yield "another tokenizer"
    if saved.get("bank") != now.get("bank"):
        yield "other scenarios"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
