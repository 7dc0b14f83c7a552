"""Options of earlier versions: what they are called now, and which of them are gone.

Checkpoints and bundle manifests keep the options that they were written with, and go on loading through
:func:`known_options`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from inspect import signature
from typing import Any, Literal, get_args, get_origin, get_type_hints

#: New name of an option by its old one. An old name is read as the new one by classes that have the new name and lack
#: the old one, and is left alone by others: ``length_weight`` was an option of decoding as well, which is gone.
RENAMED = {
    # optimization
    "length_weight": "length_loss_weight",
    "warmup": "lr_warmup",
    "refresh": "bank_refresh_steps",
    "scenarios_read": "scenarios_encoded_per_step",
    # decoding
    "rescored": "num_rescored",
    "scenarios": "num_retrieved",
    "leave_score": "out_of_bank_score",
    # data
    "start": "init_from",
    "variants": "num_augmented",
    "varied": "augment_prob",
    # model
    "own_vectors": "scenario_embeddings",
    "lift": "unseen_scale",
}

#: Options that became one: their values in earlier versions, and what these are now. Any other combination is refused.
JOINED: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"length_pooling": "mean", "length_embedding": False}, {"plain_length": True}),
    ({"length_pooling": "mean_max", "length_embedding": True}, {"plain_length": False}),
    ({"filling": "table", "encoders": "shared", "spans": "joint"}, {"filling": "table"}),
    ({"filling": "together", "encoders": "separate", "spans": "endpoints"}, {"filling": "cross_encoder"}),
    ({"num_composed": 0, "compose_weight": 0.0}, {"compose_weight": 0.0}),
)

#: New name of a parameter by its old one, wherever in a model it is.
RENAMED_PARAMETERS = {"own_vectors": "scenario_embeddings"}

#: Options that are gone, each with the value that means what every parser does now; ``...`` where no value of it
#: changes a parser. What was saved with such a value loads without the option, another value is refused.
DROPPED: dict[str, Any] = {
    "compose_loss": ...,
    "compose_loss_weight": ...,
    "compositions": 4,  # an earlier name of num_composed
    "decoder_self_attention": True,  # of target positions to each other
    "encoder_config": ...,  # beside the options now, see lightning_modules.saved.encoder_config_of
    "encoder_dropout": ...,
    "fill_layers": 1,  # blocks of the decoder that fills scenarios
    "leaf_width": 128,  # of a leaf's state in RAF's table
    "length_weight": 1.0,  # of the length's log-probability, in decoding
    "lowercase": True,  # before SentencePiece
    "masking": "everything",  # conditional masked training, for mask-predict
    "num_composed": 4,  # frames that the span pointer adds
    "passes": 1,  # mask-predict
    "pointer_copy": "positions",  # of all parsers but conv NAR, which still has it
    "pointer_heads": ...,  # cancelled out of the pointer's scale
    "pooling": "mean",  # of states to the vector of an utterance or scenario
    "pruned": ...,  # InfoBatch pruning
    "r3f_noise": ...,
    "reads_tokens": False,  # conditional masked training, for mask-predict
    "rescoring_loss": ...,
    "rescoring_loss_weight": ...,
    "retrieval_only_share": ...,
    "retrieval_weight": 1.0,  # the weights of filling and composition are relative to it
    "teacher_weight": ...,
    "warmup_share": ...,  # an earlier name of retrieval_only_share
}


#: Types that a value may have, by its option's.
_KINDS: dict[Any, type | tuple[type, ...]] = {bool: bool, int: int, float: (int, float), str: str}


def known_options(options: type, given: Mapping[str, Any], *, drop_unknown: bool = False) -> dict[str, Any]:
    """Saved options under the names that a class has for them now.

    Args:
        options: the class; its constructor's parameters are the options.
        given: saved options by the names of the version that saved them.
        drop_unknown: leave out options that neither the class nor a table here knows, instead of passing them on to
            the class, which refuses them.

    Returns:
        Keyword arguments for ``options``.

    Raises:
        ValueError: see :func:`check_choices`.
    """
    known = options_of(options)
    renamed = _joined({_present_name(name, known): value for name, value in given.items()}, known)
    kept = {
        name: value
        for name, value in renamed.items()
        if name in known or not (drop_unknown or _is_dropped(name, value))
    }
    check_choices(options, kept)
    return kept


def options_of(options: type) -> tuple[str, ...]:
    """Names of a class's options: the parameters of its constructor."""
    return tuple(signature(options).parameters)


def check_choices(options: type, given: Mapping[str, Any]) -> None:
    """Checks the kinds of values, and named choices (``Literal``), which the command line of a training checks by itself.

    Args:
        options: the dataclass of the options.
        given: values by name.

    Raises:
        ValueError: a value is none of its option's choices, or of another kind.
    """
    hints = get_type_hints(options) if is_dataclass(options) else {}
    for name, value in given.items():
        hint = hints.get(name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{name} {value!r}: one of {', '.join(map(str, get_args(hint)))}")
        if hint in _KINDS and (not isinstance(value, _KINDS[hint]) or isinstance(value, bool) != (hint is bool)):
            raise ValueError(f"{name} {value!r}: {getattr(hint, '__name__', hint)} is expected")


def _present_name(name: str, known: Collection[str]) -> str:
    new = RENAMED.get(name, name)
    return new if name not in known and new in known else name


def _joined(given: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    for old, new in JOINED:
        if not (new.keys() - set(known)) and old.items() <= given.items():
            given = {**{name: value for name, value in given.items() if name not in old}, **new}
    return given


def _is_dropped(name: str, value: Any) -> bool:
    return name in DROPPED and (DROPPED[name] is ... or DROPPED[name] == value)
