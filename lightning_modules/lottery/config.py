"""Config files of transfer studies: the sections model and data of ``framefill fit``, and study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from frames.errors import UsageError
from frames.yaml_files import parse_yaml
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.lottery.experiment import StudyConfig
from lightning_modules.parser_module import ParserModule
from lightning_modules.reasons import option_reason

#: Options of the data that a study obeys. Which rows are trained and scored on is its own matter, and none has variants.
DATA_OPTIONS = frozenset({"form", "pretrained", "vocabulary", "batch_size", "fraction", "without_intents"})


def read_config(path: Path | str) -> tuple[ParserModule, dict[str, Any], StudyConfig]:
    """The parser that a study trains, the options of its data, and its sizes.

    Raises:
        UsageError: the file cannot be read, an option is unknown, not used by a study, or cannot have its value.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--run", type=str)
    parser.add_subclass_arguments(ParserModule, "model")
    parser.add_class_arguments(TOPv2DataModule, "data")
    parser.add_argument("--study", type=StudyConfig, default=StudyConfig())
    try:
        sections = parse_yaml(Path(path).read_text(encoding="utf-8"))
        if not isinstance(sections, dict) or not isinstance(sections.get("model"), dict):
            raise ValueError("no section model")
        others = sorted(set(sections.get("data") or ()) - DATA_OPTIONS)
        if others:
            raise ValueError(f"a study does not use {', '.join(f'data.{name}' for name in others)}")
        built = parser.instantiate_classes(parser.parse_object(sections))
    except Exception as error:  # jsonargparse raises types of its own beside those of the classes
        raise UsageError(
            "E566",
            f"not a config of a transfer study ({option_reason(error)}).",
            where=str(path),
            remedy="See configs/lottery_conv_nar.yaml.",
        ) from error
    return built.model, dict(sections.get("data") or {}), built.study
