"""Options of earlier versions: what they are called now, and which of them are gone.

Checkpoints and bundle manifests keep the options that they were written with, and go on loading through
:func:`known_options`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

#: New name of an option by its old one. An old name is read as the new one by classes that have the new name and lack
#: the old one, so ``length_weight`` stays what it is for decoding.
RENAMED = {
    # optimization
    "length_weight": "length_loss_weight",
    "rescoring_loss": "rescoring_loss_weight",
    "warmup": "lr_warmup",
    "compose_loss": "compose_loss_weight",
    "warmup_share": "retrieval_only_share",
    "refresh": "bank_refresh_steps",
    "scenarios_read": "scenarios_encoded_per_step",
    # data
    "start": "init_from",
    "variants": "num_augmented",
    "varied": "augment_prob",
}

#: Options that are gone because they changed nothing or won nothing; what was written with them loads without them.
DROPPED = frozenset(
    {
        "fill_layers",  # blocks of the decoder that fills
        "pointer_heads",  # cancelled out of the pointer's scale
        "pooling",  # of states to a vector, always the mean
        "pruned",  # InfoBatch pruning
        "retrieval_weight",  # the other weights are relative to it
    }
)


def known_options(options: type, given: Mapping[str, Any], *, drop_unknown: bool = False) -> dict[str, Any]:
    """Saved options under the names that a class has for them now.

    Args:
        options: the class; its constructor's parameters are the options.
        given: saved options by the names of the version that saved them.
        drop_unknown: leave out options that neither the class nor a table here knows, instead of passing them on to
            the class, which refuses them.

    Returns:
        Keyword arguments for ``options``.
    """
    known = signature(options).parameters
    renamed = {_present_name(name, known): value for name, value in given.items()}
    dropped = {name for name in renamed if name not in known and (drop_unknown or name in DROPPED)}
    return {name: value for name, value in renamed.items() if name not in dropped}


def _present_name(name: str, known: Mapping[str, Any]) -> str:
    new = RENAMED.get(name, name)
    return new if name not in known and new in known else name
