"""Frames and what everyone says of them: ontology, tokenization, linearizations, scoring, drawing, errors, safe files.

>>> from frames import Frame
>>> Frame.parse("[IN:CREATE_ALARM Wake me [SL:DATE_TIME at 6 ] ]").scenario()
'[IN:CREATE_ALARM [SL:DATE_TIME ] ]'

Loads neither torch nor transformers, and knows no corpus. Names are imported when they are first asked for, so that
``framefill --help``, which needs the errors alone, answers at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frames.errors import BundleError, CorpusError, FrameError, FramefillError, MachineError, UsageError
    from frames.frame import Frame
    from frames.nodes import Intent, Slot, Span

__all__ = [
    "BundleError",
    "CorpusError",
    "Frame",
    "FrameError",
    "FramefillError",
    "Intent",
    "MachineError",
    "Slot",
    "Span",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Statements with constant names, for a package that is made of a bundle has them rewritten.
    if name == "Frame":
        from frames.frame import Frame

        return Frame
    if name in ("Intent", "Slot", "Span"):
        from frames import nodes

        return getattr(nodes, name)
    from frames import errors

    return getattr(errors, name)
