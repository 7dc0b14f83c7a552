"""Frames and what everyone says of them: ontology, tokenization, linearizations, scoring, drawing, errors, safe files.

>>> from frames import Frame
>>> Frame.parse("[IN:CREATE_ALARM Wake me [SL:DATE_TIME at 6 ] ]").scenario()
'[IN:CREATE_ALARM [SL:DATE_TIME ] ]'

Loads neither torch nor transformers, and knows no corpus.
"""

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
