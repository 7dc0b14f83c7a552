"""Which of torch's implementations of attention a training takes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def training_attention(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Within it, attention goes forward and backward by the implementation that is fast in training.

    On a processor, at the lengths of utterances, torch's fused attention takes five to ten times as long backward in
    bfloat16 as the plain one. It would be chosen where attention has no dropout, as in LayerSkip's language models. Everywhere
    else torch chooses.

    Args:
        device: where the training runs.
        precision: of the trainer, such as ``bf16-mixed``.
    """
    if device.type == "cpu" and precision.startswith("bf16"):
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
