"""Blocks and encoders that the parsers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from parsers.dropout import ByteDropout
from parsers.layout import Layout


class LightweightConv(nn.Module):
    """Lightweight convolution over time (Wu et al. 2019; Babu et al. 2021): depthwise, weights shared within heads.

    Utterances are short and kernels long, so most taps of a sliding kernel would meet padding. The kernel is
    therefore laid out as a banded ``T x T`` matrix for each head and applied as one batched matrix product,
    whose cost does not grow with the kernel.

    Args:
        width: channels.
        heads: groups of channels that share a kernel.
        kernel: taps, odd; not causal.
    """

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0 or width % heads:
            raise ValueError(f"kernel {kernel} must be odd and width {width} a multiple of heads {heads}")
        self.heads, self.kernel = heads, kernel
        self.weight = nn.Parameter(torch.empty(heads, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.weight, std=1 / math.sqrt(kernel))
        with torch.no_grad():
            self.weight[:, kernel // 2] += 1.0

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``[B, T, width]`` to the same shape; ``mask`` ``[B, T]`` is True at tokens, None where nothing is padded."""
        batch, length, width = x.shape
        if mask is not None:
            x = x * mask[:, :, None].to(x.dtype)
        positions = torch.arange(length, device=x.device)
        taps = positions[None, :] - positions[:, None] + self.kernel // 2
        reached = (taps >= 0) & (taps < self.kernel)
        band = self.weight[:, taps.clamp(0, self.kernel - 1)] * reached
        heads = x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        return torch.matmul(band.to(x.dtype), heads).transpose(1, 2).reshape(batch, length, width) + self.bias


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) without dropout on its weights.

    Args:
        width: channels of queries and output.
        heads: attention heads.
        causal: whether a position reads only itself and those before it.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, layout: Layout, memory: Tensor, memory_layout: Layout) -> Tensor:
        """Attends from ``x`` to ``memory``.

        Args:
            x: states, laid out by ``layout``.
            layout: groups of ``x``.
            memory: states that are read; pass ``x`` itself for self-attention.
            memory_layout: groups of ``memory``, as many and of as many rows as those of ``x``.

        Returns:
            As ``x``.
        """
        query, (key, value) = self.query(x), self.key_value(memory).chunk(2, dim=-1)
        parts = (layout.split(query), memory_layout.split(key), memory_layout.split(value), memory_layout.masks)
        return self.out(layout.join([self._attend(*part) for part in zip(*parts, strict=True)]))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = query.shape

        def split(y: Tensor) -> Tensor:
            return y.reshape(batch, -1, self.heads, width // self.heads).transpose(1, 2)

        # Written out: at ten positions the fused kernel's backward pass takes longer on a CPU than all else here.
        logits = torch.matmul(split(query), split(key).transpose(2, 3)) * (width // self.heads) ** -0.5
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None, :], -1e4)
        if self.causal:
            later = torch.ones(length, key.shape[1], dtype=torch.bool, device=query.device).triu(1)
            logits = logits.masked_fill(later, -1e4)
        attended = torch.matmul(F.softmax(logits, dim=-1), split(value))
        return attended.transpose(1, 2).reshape(batch, length, width)


class LightConvBlock(nn.Module):
    """One block of encoder or decoder: GLU and lightweight convolution, optional attention, feed-forward.

    Post-norm, as in the paper's code. Self-attention stands before the convolution, attention to the encoder
    after it.

    Args:
        width: channels.
        kernel: taps of the convolution.
        conv_heads: heads of the convolution.
        self_heads: heads of self-attention, 0 for none.
        cross_heads: heads of attention to the encoder's states, 0 for none (an encoder's block).
        feed_forward: inner width of the feed-forward part.
        dropout: on the output of each part.
    """

    def __init__(
        self,
        width: int,
        kernel: int,
        conv_heads: int,
        self_heads: int,
        cross_heads: int,
        feed_forward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = Attention(width, self_heads) if self_heads else None
        self.cross_attention = Attention(width, cross_heads) if cross_heads else None
        self.gate = nn.Linear(width, 2 * width)
        self.conv = LightweightConv(width, conv_heads, kernel)
        self.mix = nn.Linear(width, width)
        self.inner = nn.Linear(width, feed_forward)
        self.outer = nn.Linear(feed_forward, width)
        self.dropout = ByteDropout(dropout)
        self.norm_self = nn.LayerNorm(width) if self_heads else None
        self.norm_conv = nn.LayerNorm(width)
        self.norm_cross = nn.LayerNorm(width) if cross_heads else None
        self.norm_feed = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, layout: Layout, memory: Tensor | None = None, memory_layout: Layout | None = None
    ) -> Tensor:
        """States to states of the same shape.

        Args:
            x: states, laid out by ``layout``.
            layout: groups of ``x``.
            memory: encoder states, for a decoder's block.
            memory_layout: groups of ``memory``, matching those of ``x``.
        """
        if self.self_attention is not None and self.norm_self is not None:
            x = self.norm_self(x + self.dropout(self.self_attention(x, layout, x, layout)))
        gated = layout.split(F.glu(self.gate(x), dim=-1))
        hidden = layout.join([self.conv(part, mask) for part, mask in zip(gated, layout.masks, strict=True)])
        x = self.norm_conv(x + self.dropout(self.mix(hidden)))
        if self.cross_attention is not None and self.norm_cross is not None:
            assert memory is not None and memory_layout is not None
            x = self.norm_cross(x + self.dropout(self.cross_attention(x, layout, memory, memory_layout)))
        return self.norm_feed(x + self.dropout(self.outer(F.relu(self.inner(x)))))


class TransformerBlock(nn.Module):
    """One block of a transformer decoder (Vaswani et al. 2017), post-norm.

    Args:
        width: channels.
        self_heads: heads of self-attention, 0 for none.
        cross_heads: heads of attention to the encoder's states.
        feed_forward: inner width of the feed-forward part.
        dropout: on the output of each part.
        causal: whether a position sees only those before it.
    """

    def __init__(
        self,
        width: int,
        self_heads: int,
        cross_heads: int,
        feed_forward: int,
        dropout: float,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.self_attention = Attention(width, self_heads, causal) if self_heads else None
        self.cross_attention = Attention(width, cross_heads)
        self.inner = nn.Linear(width, feed_forward)
        self.outer = nn.Linear(feed_forward, width)
        self.dropout = ByteDropout(dropout)
        self.norm_self = nn.LayerNorm(width) if self_heads else None
        self.norm_cross = nn.LayerNorm(width)
        self.norm_feed = nn.LayerNorm(width)

    def forward(self, x: Tensor, layout: Layout, memory: Tensor, memory_layout: Layout) -> Tensor:
        """See :meth:`LightConvBlock.forward`."""
        if self.self_attention is not None and self.norm_self is not None:
            x = self.norm_self(x + self.dropout(self.self_attention(x, layout, x, layout)))
        x = self.norm_cross(x + self.dropout(self.cross_attention(x, layout, memory, memory_layout)))
        return self.norm_feed(x + self.dropout(self.outer(F.gelu(self.inner(x)))))


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Under autocast ``x`` in the type of the matrix products, so that sums and norms between them move half the bytes."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def noised(x: Tensor, noise: float) -> Tensor:
    """``x`` moved by uniform noise of up to ``noise`` in every channel."""
    return x + torch.empty_like(x).uniform_(-noise, noise)


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions ``[length, width]`` (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(length)[:, None] * rates[None, :]
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class LightConvEncoder(nn.Module):
    """Embeddings with sinusoidal and learned positions ("hybrid"), then lightweight convolution blocks.

    Args:
        vocabulary: number of pieces.
        width: channels.
        kernels: taps of each block.
        conv_heads: heads of the convolutions.
        self_heads: heads of self-attention in each block, 0 for none.
        feed_forward: inner width of the feed-forward parts.
        dropout: inside the blocks.
        input_dropout: on the embeddings.
        max_positions: longest utterance, in pieces.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        kernels: Sequence[int],
        conv_heads: int,
        self_heads: int,
        feed_forward: int,
        dropout: float,
        input_dropout: float,
        max_positions: int,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.scale = math.sqrt(width)
        self.positions = nn.Parameter(torch.zeros(max_positions, width))
        self.sinusoids: Tensor
        self.register_buffer("sinusoids", sinusoids(max_positions, width), persistent=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = ByteDropout(input_dropout)
        self.blocks = nn.ModuleList(
            LightConvBlock(width, kernel, conv_heads, self_heads, 0, feed_forward, dropout) for kernel in kernels
        )

    def forward(self, pieces: Tensor, mask: Tensor | None, noise: float = 0.0) -> Tensor:
        """See :meth:`parsers.pretrained.PretrainedEncoder.forward`."""
        length = pieces.shape[1]
        x = self.embedding(pieces)
        if noise:
            x = noised(x, noise)
        x = x * self.scale + self.positions[:length] + self.sinusoids[:length]
        x = self.dropout(to_autocast_dtype(self.norm(x)))
        layout = Layout.single(x, mask)
        for block in self.blocks:
            x = block(x, layout)
        return x
