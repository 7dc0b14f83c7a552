"""From a checkpoint file to a parser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from frames.errors import BundleError, FramefillError, UsageError
from lightning_modules.datamodule import Assets
from lightning_modules.kinds import module_class
from lightning_modules.parser_module import ParserModule
from lightning_modules.saved import parameters_of, read_checkpoint
from parsers.aliases import check_choices, known_options


def load_module(
    path: Path | str, decoding: Mapping[str, Any] | None = None, device: str | torch.device = "cpu"
) -> tuple[ParserModule, dict[str, Any]]:
    """The module of a checkpoint, in evaluation mode, and what the checkpoint says of its making.

    Args:
        path: the checkpoint.
        decoding: options of decoding that differ from those of the checkpoint.
        device: where the parser works, as torch names it.

    Raises:
        BundleError: see :func:`read_checkpoint`; or an unknown kind of parser, or parameters that do not fit.
        UsageError: an unknown option of decoding, or a value that it or this parser cannot have; or a device that is not here.
    """
    checkpoint = read_checkpoint(path)
    metadata = checkpoint["framefill"]
    kind = module_class(str(metadata.get("kind")))
    if kind is None:
        raise BundleError(
            "E304", f"parser kind {metadata.get('kind')!r} is not known.", where=str(path), remedy="Update framefill."
        )
    try:
        module = kind(
            kind.config_class(**known_options(kind.config_class, metadata["model"])),
            kind.decoding_class(**known_options(kind.decoding_class, metadata["decoding"])),
            # How a parser was fitted is no matter to its use.
            kind.optimization_class(
                **known_options(kind.optimization_class, metadata["optimization"], drop_unknown=True)
            ),
        )
        module.restore(metadata)
        assets = Assets.from_dict(metadata["assets"], str(path))
        if assets.form not in kind.forms:
            raise ValueError(f"form {assets.form!r}")
        module.build(assets)
        module.net.load_state_dict(parameters_of(checkpoint))
    except FramefillError:
        raise
    except Exception as error:  # values that another version, or anybody, wrote fail in ways that no list foresees
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise BundleError(
            "E305",
            f"the checkpoint does not fit this framefill ({reason}).",
            where=str(path),
            remedy="Update framefill if a later version wrote it, or train again with this one.",
        ) from error
    try:
        module.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        # What torch says of a device depends on how it was built; the first line tells the reason.
        reason = str(error).splitlines()[0]
        raise UsageError("E438", f"device {device!r} cannot be used ({reason}).", remedy="Take cpu.") from error
    if not decoding:
        return module, metadata
    try:
        check_choices(type(module.decoding), decoding)
        changed = replace(module.decoding, **decoding)
        module.check_decoding(changed)
    except FramefillError:
        raise
    except (TypeError, ValueError) as error:
        options = ", ".join(vars(module.decoding))
        raise UsageError("E434", f"decoding cannot be changed so ({error}).", remedy=f"Options: {options}.") from error
    module.decoding = changed
    return module, {**metadata, "decoding": asdict(module.decoding)}
