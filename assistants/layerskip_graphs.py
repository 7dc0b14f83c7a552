"""The ONNX graphs of a LayerSkip model: its first layers, the other layers, and the head that all layers share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from assistants.graphs import Graph, Part
from assistants.layerskip import LanguageModel
from frames.errors import UsageError
from parsers.layerskip.decoding import LayerSkipDecodingConfig
from parsers.layerskip.model import LayerSkip


class _Grown:
    """The key-value cache of a graph: keys and values of earlier tokens come in, those of the tokens themselves go out."""

    def __init__(self, keys: Tensor, values: Tensor, first: int) -> None:
        self.keys, self.values, self.first = keys, values, first
        self.new: list[tuple[Tensor, Tensor]] = []

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """What the attention of a layer sees: earlier tokens, then the tokens themselves."""
        self.new.append((keys, values))
        earlier = layer - self.first
        return torch.cat((self.keys[:, earlier], keys), dim=2), torch.cat((self.values[:, earlier], values), dim=2)


class _Layers(nn.Module):
    """Some layers of a model as a module of its own.

    Args:
        model: the model.
        first: a layer; 0 reads tokens, others read states.
        last: the first layer after these.
    """

    def __init__(self, model: LayerSkip, first: int, last: int) -> None:
        super().__init__()
        self.model, self.first, self.last = model, first, last

    def forward(
        self, given: Tensor, positions: Tensor, seen: Tensor, sees: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States ``[N, T, width]`` after the layers, and the keys and values ``[N, layers, heads, T, head]`` of the tokens.

        Args:
            given: tokens ``[N, T]``, or the states ``[N, T, width]`` before the first of the layers.
            positions: ``[N, T]``.
            seen: ``[N, T, P]``, True where a token sees an earlier one.
            sees: ``[N, T, T]``, True where a token sees one of these tokens.
            keys: ``[N, layers, heads, P, head]`` of earlier tokens.
            values: as ``keys``.
        """
        cache = _Grown(keys, values, self.first)
        hidden = given if self.first else self.model.embed(given)
        states = self.model.run(
            hidden, positions, self.first, self.last, torch.cat((seen, sees), dim=2)[:, None], cache
        )
        new_keys, new_values = (torch.stack(parts, dim=1) for parts in zip(*cache.new, strict=True))
        return states, new_keys, new_values


class _Head(nn.Module):
    """The norm and the head that all layers share."""

    def __init__(self, model: LayerSkip) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Logits ``[M, K]`` of tokens ``[K]`` after states ``[M, width]``."""
        return self.model.logits(states, tokens)


def exit_of(model: LayerSkip, decoding: LayerSkipDecodingConfig) -> int:
    """Layers in the first graph: those that draft, or a quarter where nothing is drafted.

    Raises:
        UsageError: one layer cannot be cut in two.
    """
    if model.depth < 2:
        raise UsageError(
            "E584",
            "a LayerSkip bundle needs a model of two layers or more.",
            remedy="Train with model.layers of at least 2.",
        )
    return decoding.exit_layer or max(1, model.depth // 4)


def manifest_entry(model: LayerSkip, exit_layer: int) -> dict[str, Any]:
    """What the manifest says of the language model, as :class:`assistants.layerskip.LanguageModel` reads it."""
    heads, head_width = model.cache_shape
    return asdict(
        LanguageModel(
            exit_layer=exit_layer,
            layers=model.depth,
            heads=heads,
            head_width=head_width,
            width=model.head.shape[1],
            context=model.context,
            style=model.config.style,
            read_both_ways=model.config.read_both_ways,
        )
    )


def layerskip_graphs(model: LayerSkip, exit_layer: int) -> list[Graph]:
    """The graphs of a bundle.

    Args:
        model: in evaluation mode; adapters of LoRA are merged already.
        exit_layer: number of layers that draft.
    """
    width, (heads, head) = model.head.shape[1], model.cache_shape
    batch, new, earlier, states, candidates = (
        torch.export.Dim(name, min=low, max=high)
        for name, low, high in (
            ("batch", 1, 4096), ("new", 1, model.context), ("earlier", 0, model.context),
            ("states", 1, 2**20), ("candidates", 1, model.vocab_size),
        )
    )  # fmt: skip
    tokens, past = 4, 5

    def inputs(seed: int, layers: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (3, layers, heads, past, head)
        steps = torch.arange(past, past + tokens)
        seen = (torch.arange(past + tokens) <= steps[:, None]).expand(3, -1, -1)
        return {
            "positions": steps.expand(3, -1).contiguous(),
            "seen": seen[:, :, :past].contiguous(),
            "sees": seen[:, :, past:].contiguous(),
            "keys": torch.randn(shape, generator=generator),
            "values": torch.randn(shape, generator=generator),
        }

    def early(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "tokens": torch.randint(0, model.vocab_size, (3, tokens), generator=generator),
            **inputs(seed, exit_layer),
        }

    def late(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "states": torch.randn((3, tokens, width), generator=generator),
            **inputs(seed, model.depth - exit_layer),
        }

    def asked(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "states": torch.randn((3, width), generator=generator),
            "tokens": torch.randint(0, model.vocab_size, (7,), generator=generator),
        }

    cached = {0: batch, 3: earlier}
    rows = {0: batch, 1: new}
    axes = {
        "positions": rows,
        "seen": {**rows, 2: earlier},
        "sees": {**rows, 2: new},
        "keys": cached,
        "values": cached,
    }
    outputs = ("after", "new_keys", "new_values")
    return [
        Graph(
            "early", Part(_Layers(model, 0, exit_layer), "forward"), early, outputs, {"tokens": rows, **axes},
        ),
        Graph(
            "late", Part(_Layers(model, exit_layer, model.depth), "forward"), late, outputs, {"states": rows, **axes},
        ),
        Graph("head", Part(_Head(model), "forward"), asked, ("logits",), {"states": {0: states}, "tokens": {0: candidates}}),
    ]  # fmt: skip
