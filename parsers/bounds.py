"""Which values an option of a model, of decoding or of training can have; an option has one meaning in every parser."""

from __future__ import annotations

import math

_SHARE = (0.0, 1.0)
_COUNT = (1.0, math.inf)
_NOT_NEGATIVE = (0.0, math.inf)

#: Least and greatest value of an option, both included.
BOUNDS = {
    **dict.fromkeys(
        ("dropout", "input_dropout", "length_dropout", "lr_warmup", "label_smoothing", "length_smoothing",
         "dropout_until"),
        _SHARE,
    ),
    **dict.fromkeys(
        ("width", "max_length", "length_hidden", "decoder_heads", "decoder_feed_forward", "encoder_feed_forward",
         "retrieval_width", "layers", "heads", "feed_forward", "length_beam", "num_retrieved", "bank_refresh_steps",
         "scenarios_encoded_per_step", "beam", "drafts", "group", "rotation"),
        _COUNT,
    ),
    **dict.fromkeys(
        ("decoder_layers", "rescoring_layers", "query_hidden", "encoder_conv_heads", "encoder_self_heads",
         "decoder_conv_heads", "decoder_self_heads", "decoder_cross_heads", "lora_rank", "num_rescored", "copies",
         "num_mined_negatives", "num_ranking_negatives", "lr", "encoder_lr", "compose_lr", "weight_decay",
         "length_loss_weight", "r3f_weight", "exit_scale", "exit_fade", "temperature", "rescoring_weight",
         "rescoring_margin", "scenario_margin", "fill_weight", "compose_weight", "unseen_scale"),
        _NOT_NEGATIVE,
    ),
}  # fmt: skip


def check_bounds(options: object) -> None:
    """Whether each number among options can be what it is.

    Args:
        options: a dataclass; options that :data:`BOUNDS` does not name, and None, are left alone.

    Raises:
        ValueError: a number is out of its bounds.
    """
    for name, value in vars(options).items():
        if name not in BOUNDS or value is None:
            continue
        least, most = BOUNDS[name]
        if not least <= value <= most:  # NaN is neither
            wanted = f"between {least:g} and {most:g}" if most < math.inf else f"at least {least:g}"
            raise ValueError(f"{name} {value} must be {wanted}")
