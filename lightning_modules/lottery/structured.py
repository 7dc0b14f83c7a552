"""Structured tickets: whole attention heads, feed-forward, convolution and residual channels are removed.

The ticket of a model is a smaller model of the same kind whose parameters are slices of the larger one's. Every layer
keeps the same share, so the smaller model is described by a configuration like any other, and exporting, saving and
loading it need nothing new. Channels and heads are ranked by the L2 norm of all weights that read or write them (Li et al.
2017, arXiv 1608.08710, for filters; Michel et al. 2019, arXiv 1905.10650, for heads).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from frames.errors import UsageError
from parsers.conv_nar.model import ConvNARConfig
from parsers.encoders import Attention, LightConvBlock, LightConvEncoder, TransformerBlock
from parsers.length import LengthModule
from parsers.nar_model import NARConfig, NARModel
from parsers.pointer_network import PointerDecoder
from parsers.pretrained import PretrainedEncoder
from parsers.span_pointer.model import SpanPointerConfig

#: Types of encoders whose parameters are named and laid out as BERT's.
LIKE_BERT = ("bert", "roberta", "xlm-roberta")


@dataclass(frozen=True)
class Axis:
    """Channels that are kept or removed together in all parameters that have them.

    Attributes:
        name: of the axis.
        unit: channels of a head, which is kept or removed whole.
        groups: parts of equal size of which equally many channels are kept.
    """

    name: str
    unit: int = 1
    groups: int = 1


@dataclass(frozen=True)
class Dimension:
    """How a dimension of a parameter lies along axes.

    Attributes:
        axes: axes of equal size that are laid out end to end, one of them several times if need be.
        heads: whether there is one place for each head, not each channel.
    """

    axes: tuple[Axis, ...]
    heads: bool = False


#: Dimensions by parameter; None where a dimension is not pruned.
Dimensions = dict[str, tuple[Dimension | None, ...]]


def shrunk(config: NARConfig, kept: float) -> NARConfig:
    """The configuration of a structured ticket.

    Args:
        config: of the dense model (:attr:`lightning_modules.parser_module.ParserModule.sizes`).
        kept: share of heads and channels that is kept.

    Raises:
        UsageError: a layer would keep no head or a part of one, or the kind of parser is another.
    """
    heads, sizes = _sizes(config)
    smaller: dict[str, Any] = {name: _share(name, getattr(config, name), kept) for name in (*heads, *sizes)}
    if not isinstance(config, SpanPointerConfig):
        return replace(config, **smaller)
    if isinstance(config.encoder, str):
        raise UsageError(
            "E567",
            f"the architecture of the encoder {config.encoder!r} is not known yet, so it cannot be shrunk.",
            remedy="Build the dense model first, or give model.encoder an architecture.",
        )
    if (laid_out := config.encoder.get("model_type")) not in LIKE_BERT:
        raise UsageError(
            "E574",
            f"the parameters of a {laid_out!r} encoder are not laid out as BERT's, so it cannot be shrunk.",
            remedy=f"Take an encoder of {', '.join(LIKE_BERT)}; unstructured masks fit every kind.",
        )
    names = ("hidden_size", "num_attention_heads", "intermediate_size")
    encoder = {name: _share(name, config.encoder[name], kept) for name in names}
    return replace(config, **smaller, encoder={**config.encoder, **encoder})


def structured_ticket(dense: NARModel, small: NARModel, ranked_by: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Slices of a dense model's parameters that fit a smaller one.

    Args:
        dense: gives the values, by its state.
        small: of the configuration that :func:`shrunk` gave.
        ranked_by: trained parameters of the dense model, whose norms say what is kept.

    Returns:
        Parameters of ``small`` by name.
    """
    dimensions = dimensions_of(dense)
    chosen = _chosen(dimensions, ranked_by, {name: value.shape for name, value in small.named_parameters()})
    found = {}
    for name, parameter in dense.named_parameters():
        value = parameter.detach()
        for place, dimension in enumerate(dimensions.get(name, ())):
            if dimension is not None:
                value = value.index_select(place, _places(dimension, chosen, value.shape[place]))
        found[name] = value.clone()
    return found


def dimensions_of(model: NARModel) -> Dimensions:
    """Which dimensions of which parameters lie along which axis."""
    found: Dimensions = {}
    decoder = Axis("decoder")
    encoder = _encoder(model.encoder, found)
    _decoder(model, "", encoder, decoder, found)
    if model.rescorer is not None:
        _decoder(model.rescorer, "rescorer.", encoder, Axis("rescorer"), found)
    _length(model.length, encoder, found)
    if model.lengths is not None:
        found["lengths.weight"] = (None, Dimension((decoder,)))
    return found


def _sizes(config: NARConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the options that count heads, and of those that count channels."""
    if isinstance(config, ConvNARConfig):
        heads = (
            "encoder_conv_heads",
            "encoder_self_heads",
            "decoder_conv_heads",
            "decoder_self_heads",
            "decoder_cross_heads",
        )
        return heads, ("width", "encoder_feed_forward", "decoder_feed_forward", "length_hidden")
    if isinstance(config, SpanPointerConfig):
        return ("decoder_heads",), ("width", "decoder_feed_forward", "length_hidden")
    raise UsageError(
        "E568",
        f"structured tickets are not made of a {type(config).__name__.removesuffix('Config')}.",
        remedy="Take a conv_nar or a span_pointer parser; unstructured masks fit every kind.",
    )


def _share(name: str, size: int, kept: float) -> int:
    left = round(size * kept)
    if size and (not left or abs(left - size * kept) > 1e-6):
        raise UsageError(
            "E569",
            f"of {name} {size}, a share of {kept} is {size * kept:g}, which is no whole number of at least 1.",
            remedy="Give a share that leaves whole heads in every layer, e.g. a multiple of 1 / the smallest number of heads.",
        )
    return left


def _encoder(encoder: nn.Module, found: Dimensions) -> Axis:
    """Notes the encoder's parameters; returns the axis of its states."""
    axis = Axis("encoder")
    if isinstance(encoder, LightConvEncoder):
        found["encoder.embedding.weight"] = found["encoder.positions"] = (None, Dimension((axis,)))
        _norm("encoder.norm", axis, found)
        for place, block in enumerate(encoder.blocks):
            assert isinstance(block, LightConvBlock)
            _block(block, f"encoder.blocks.{place}.", axis, None, found)
        return axis
    assert isinstance(encoder, PretrainedEncoder)
    if encoder.project is None:
        _transformer(encoder.transformer, axis, found)
    else:
        hidden = Axis("transformer")
        _transformer(encoder.transformer, hidden, found)
        _linear("encoder.project", Dimension((hidden,)), Dimension((axis,)), found)
    return axis


def _transformer(transformer: nn.Module, axis: Axis, found: Dimensions) -> None:
    """An encoder laid out as BERT is (RoBERTa, MiniLM), by the names of its parameters."""
    config: Any = transformer.config
    unit = config.hidden_size // config.num_attention_heads
    states = Dimension((axis,))
    for name, parameter in transformer.named_parameters():
        path, _, last = name.rpartition(".")
        layer = f"transformer.{path.split('.')[2]}" if path.startswith("encoder.layer.") else ""
        heads, inner = Dimension((Axis(f"{layer}.heads", unit),)), Dimension((Axis(f"{layer}.inner"),))
        if path.endswith(("self.query", "self.key", "self.value")):
            out, read = heads, states
        elif path.endswith("attention.output.dense"):
            out, read = states, heads
        elif path.endswith("intermediate.dense"):
            out, read = inner, states
        elif path.endswith("output.dense"):
            out, read = states, inner
        elif parameter.ndim == 1:
            out = read = states
        else:
            found[f"encoder.transformer.{name}"] = (None, states)
            continue
        found[f"encoder.transformer.{name}"] = (out, read) if parameter.ndim > 1 else (out,)


def _decoder(part: PointerDecoder, prefix: str, encoder: Axis, decoder: Axis, found: Dimensions) -> None:
    states, memory = Dimension((decoder,)), Dimension((encoder,))
    found[f"{prefix}mask_embedding"] = (states,)
    found[f"{prefix}positions"] = (None, states)
    if part.token_embedding is not None:
        found[f"{prefix}token_embedding.weight"] = (None, states)
        _linear(f"{prefix}copied", memory, states, found)
    _norm(f"{prefix}norm", decoder, found)
    for place, block in enumerate(part.blocks):
        assert isinstance(block, (LightConvBlock, TransformerBlock))
        _block(block, f"{prefix}blocks.{place}.", decoder, encoder, found)
    pointer = Dimension((Axis(f"{prefix}pointer"),))
    _linear(f"{prefix}head.ontology", states, None, found)
    _linear(f"{prefix}head.query", states, pointer, found)
    _linear(f"{prefix}head.key", memory, pointer, found)
    # The gate reads the encoder states that were pointed at, then the decoder's own.
    _linear(f"{prefix}head.gate", Dimension((encoder, decoder)), None, found)


def _block(
    block: LightConvBlock | TransformerBlock, prefix: str, axis: Axis, memory: Axis | None, found: Dimensions
) -> None:
    states, inner = Dimension((axis,)), Dimension((Axis(f"{prefix}inner"),))
    for name, reads in (("self_attention", axis), ("cross_attention", memory)):
        attention = getattr(block, name)
        if isinstance(attention, Attention) and reads is not None:
            unit = attention.query.out_features // attention.heads
            heads = Axis(f"{prefix}{name}", unit)
            _linear(f"{prefix}{name}.query", states, Dimension((heads,)), found)
            _linear(f"{prefix}{name}.key_value", Dimension((reads,)), Dimension((heads, heads)), found)
            _linear(f"{prefix}{name}.out", Dimension((heads,)), states, found)
    if isinstance(block, LightConvBlock):
        conv = Axis(f"{prefix}conv", block.mix.in_features // block.conv.heads)
        _linear(f"{prefix}gate", states, Dimension((conv, conv)), found)
        found[f"{prefix}conv.weight"] = (Dimension((conv,), heads=True), None)
        found[f"{prefix}conv.bias"] = (Dimension((conv,)),)
        _linear(f"{prefix}mix", Dimension((conv,)), states, found)
    _linear(f"{prefix}inner", states, inner, found)
    _linear(f"{prefix}outer", inner, states, found)
    for norm in ("norm_self", "norm_conv", "norm_cross", "norm_feed"):
        if getattr(block, norm, None) is not None:
            _norm(f"{prefix}{norm}", axis, found)


def _length(length: LengthModule, encoder: Axis, found: Dimensions) -> None:
    # Its convolutions have four heads whatever their channels, so each head keeps equally many.
    groups = length.convs[0].heads if len(length.convs) else 1
    assert isinstance(groups, int)
    hidden = Axis("length", groups=groups)
    _linear("length.enter", Dimension((encoder,)), Dimension((hidden,)), found)
    for place in range(len(length.gates)):
        _linear(f"length.gates.{place}", Dimension((hidden,)), Dimension((hidden, hidden)), found)
        found[f"length.convs.{place}.bias"] = (Dimension((hidden,)),)
    pooled = Dimension((hidden,) * (2 if length.peaks else 1))
    found["length.out.weight"] = (None, pooled)


def _linear(name: str, reads: Dimension | None, writes: Dimension | None, found: Dimensions) -> None:
    found[f"{name}.weight"] = (writes, reads)
    found[f"{name}.bias"] = (writes,)


def _norm(name: str, axis: Axis, found: Dimensions) -> None:
    found[f"{name}.weight"] = found[f"{name}.bias"] = (Dimension((axis,)),)


def _chosen(
    dimensions: Dimensions, weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[Axis, Tensor]:
    """Channels of each axis that are kept, ascending."""
    norms: dict[Axis, Tensor] = {}
    left: dict[Axis, int] = {}
    for name, along in dimensions.items():
        # Biases and norms say little of a channel's worth: those of norms begin at 1 and stay near it.
        matrices = weights[name].ndim > 1
        for place, dimension in enumerate(along):
            if dimension is None or dimension.heads or not matrices:
                continue
            squares = weights[name].square().movedim(place, 0).flatten(1).sum(1)
            for axis, part in zip(dimension.axes, squares.chunk(len(dimension.axes)), strict=True):
                norms[axis] = norms[axis] + part if axis in norms else part
                left[axis] = shapes[name][place] // len(dimension.axes)
    return {axis: _best(axis, norm, left[axis]) for axis, norm in norms.items()}


def _best(axis: Axis, norms: Tensor, count: int) -> Tensor:
    if axis.unit > 1:
        heads = norms.view(-1, axis.unit).sum(1).topk(count // axis.unit).indices.sort().values
        return (heads[:, None] * axis.unit + torch.arange(axis.unit)).flatten()
    grouped = norms.view(axis.groups, -1)
    best = grouped.topk(count // axis.groups, dim=1).indices.sort(dim=1).values
    return (best + torch.arange(axis.groups)[:, None] * grouped.shape[1]).flatten()


def _places(dimension: Dimension, chosen: Mapping[Axis, Tensor], size: int) -> Tensor:
    """Places that are kept along a dimension of this size."""
    if dimension.heads:
        (axis,) = dimension.axes
        return chosen[axis][:: axis.unit] // axis.unit
    each = size // len(dimension.axes)
    return torch.cat([chosen[axis] + copy * each for copy, axis in enumerate(dimension.axes)])
