"""TOPv2: frames, linearizations, ontology, reading, splits, the synthetic corpus, batches.

The names most people want are here; ``import data.topv2`` loads neither torch nor transformers.
"""

from data.topv2.errors import BundleError, CorpusError, FrameError, FramefillError, MachineError, UsageError
from data.topv2.frame import Frame, Intent, Slot, Span

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
