"""Pretrained transformer encoders of any family that ``AutoModel`` knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from frames.errors import UsageError
from frames.weights import PRETRAINED, locate
from parsers.dropout import ByteDropout
from parsers.encoders import noised, to_autocast_dtype


def load_pretrained(auto_class: Any, name: str, **options: Any) -> PreTrainedModel:
    """A pretrained model with its weights, in single precision.

    ``transformers`` keeps the precision that a file was saved in, and half precision cannot be trained: a layer of ours on
    top would get another type than its own, and small updates would round to nothing.

    Args:
        auto_class: ``AutoModel``, ``AutoModelForCausalLM``, or another class of ``transformers`` with ``from_pretrained``.
        name: hub name, local folder, or short name of :data:`frames.weights.PRETRAINED`.
        options: for ``from_pretrained``.

    Raises:
        UsageError: the model cannot be loaded here.
    """
    logging.set_verbosity_error()
    place = locate(name)
    try:
        if place.gguf_file is not None:
            options = {"gguf_file": place.gguf_file, **options}
        return auto_class.from_pretrained(place.folder, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            "E424",
            f"the model {name!r} cannot be loaded ({reason}).",
            remedy=f"Give a folder with its weights, a hub name where there is a network, or {', '.join(PRETRAINED)}.",
        ) from error


def load_transformer(name: str) -> PreTrainedModel:
    """A pretrained encoder with its weights; see :func:`load_pretrained`."""
    return load_pretrained(AutoModel, name, attn_implementation="eager")


def build_transformer(config: dict[str, Any]) -> PreTrainedModel:
    """An encoder of this configuration (``PretrainedConfig.to_dict``) with random weights, to be loaded into."""
    # The configuration of a file in half precision says so; parameters are single precision whatever it says.
    return AutoModel.from_config(AutoConfig.for_model(**config), attn_implementation="eager", dtype=torch.float32)


def position_limit(transformer: PreTrainedModel) -> int | None:
    """Ids of the longest sequence that a transformer has positions for, special tokens included; None for no limit."""
    limit = getattr(transformer.config, "max_position_embeddings", None)
    table = getattr(getattr(transformer, "embeddings", None), "position_embeddings", None)
    if limit is None or limit < 1:
        return None
    # RoBERTa and its kin count positions from the one after the padding's.
    padding = getattr(table, "padding_idx", None)
    return limit if padding is None else limit - padding - 1


@dataclass
class EncoderConfig:
    """Which encoder, and what of it is fitted. Its dropout is that of the decoder.

    Attributes:
        encoder: pretrained encoder: hub name, local folder, ``minilm`` or ``mpnet``. Or an architecture, as the
            ``config.json`` of an encoder states it, whose weights begin at random.
        train_embeddings: whether the encoder's embeddings of pieces are fitted as well; left as they are, half of a
            small encoder's parameters need neither gradients nor optimizer.
    """

    encoder: str | dict[str, Any] = "minilm"
    train_embeddings: bool = True


class PretrainedEncoder(nn.Module):
    """A transformer that reads pieces between its own special tokens and gives back the states of the pieces.

    Args:
        transformer: as :func:`load_transformer` returns.
        prefix: special ids before an utterance.
        suffix: special ids after it.
        width: channels of the states given back; another width than the transformer's adds a projection.
        dropout: inside the transformer.
        train_embeddings: whether its embeddings of pieces are fitted.
    """

    def __init__(
        self,
        transformer: PreTrainedModel,
        prefix: Sequence[int],
        suffix: Sequence[int],
        width: int,
        dropout: float,
        train_embeddings: bool,
    ) -> None:
        super().__init__()
        if getattr(transformer, "pooler", None) is not None:
            transformer.register_module("pooler", None)
        swap_dropout(transformer, dropout)
        transformer.get_input_embeddings().requires_grad_(train_embeddings)
        if isinstance(embeddings := getattr(transformer, "embeddings", None), nn.Module):
            embeddings.register_forward_hook(lambda module, inputs, output: to_autocast_dtype(output))
        # Weights are loaded in evaluation mode, which Lightning keeps, and then dropout would never act.
        self.transformer = transformer.train()
        self.prefix: Tensor
        self.suffix: Tensor
        self.register_buffer("prefix", torch.tensor(prefix, dtype=torch.long), persistent=False)
        self.register_buffer("suffix", torch.tensor(suffix, dtype=torch.long), persistent=False)
        hidden = transformer.config.hidden_size
        self.project = nn.Linear(hidden, width) if hidden != width else None

    def forward(self, pieces: Tensor, mask: Tensor | None, noise: float = 0.0) -> Tensor:
        """Piece ids ``[B, S]`` to states ``[B, S, width]``.

        Args:
            pieces: ids.
            mask: ``[B, S]``, True at pieces; None without padding.
            noise: embeddings are moved by uniform noise of up to this size.
        """
        rows, first, last = pieces.shape[0], len(self.prefix), len(self.suffix)
        ids = torch.cat((self.prefix.expand(rows, first), pieces, self.suffix.expand(rows, last)), dim=1)
        attended = None
        if mask is not None:
            # What follows a row's last piece is the suffix, not the padding of longer rows.
            ends = first + mask.sum(dim=1, keepdim=True)
            steps = torch.arange(ids.shape[1], device=ids.device)[None]
            attended = steps < ends + last
            for k in range(last):
                ids = torch.where(steps == ends + k, self.suffix[k], ids)
        given: dict[str, Any] = {"input_ids": ids}
        if noise:
            given = {"inputs_embeds": noised(self.transformer.get_input_embeddings()(ids), noise)}
        states = self.transformer(**given, attention_mask=attended).last_hidden_state
        states = states[:, first : first + pieces.shape[1]]
        return states if self.project is None else self.project(states)


def swap_dropout(module: nn.Module, p: float) -> None:
    """Puts :class:`ByteDropout` of probability ``p`` in place of every ``nn.Dropout`` below ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout):
            setattr(module, name, ByteDropout(p))
        else:
            swap_dropout(child, p)
