"""One layer of Llama without what transformers wraps around it: a few tokens on a processor cost little more than one.

A layer over one token reads every weight once, and nothing else takes as long. Over 2 to 16 tokens the usual matrix
product first copies all weights into another order, which costs more than the products. Products with blocks of the
weights that fit into the processor's cache do without that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

#: Output features of a block, tokens up to which blocks are used, and output features from which they pay.
BLOCK, FEW_TOKENS, WIDE = 192, 16, 1024


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is Llama's own, with nothing added (LoRA's matrices, for example)."""
    if type(layer) is not LlamaDecoderLayer:
        return False
    parts: Any = (layer.self_attn, layer.mlp)
    return all(type(part) is nn.Linear for module in parts for name, part in module.named_children() if "proj" in name)


def run_layer(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: Any) -> Tensor:
    """States ``[B, T, width]`` after a layer, without gradients.

    Args:
        layer: for which :func:`is_plain` holds.
        hidden: ``[B, T, width]`` states before it.
        rotary: cosines and sines of the positions, ``[B, T, head width]``.
        mask: ``[B, 1, T, K]``, True where a token sees; None sees all.
        cache: keys and values, see :class:`parsers.layerskip.cache.RowCache`.
    """
    attention, mlp = layer.self_attn, layer.mlp
    rows, tokens, _ = hidden.shape
    shape = (rows, tokens, -1, attention.head_dim)
    cos, sin = rotary[0][:, None], rotary[1][:, None]
    normed = _norm(layer.input_layernorm, hidden)
    queries = _rotated(few_linear(normed, attention.q_proj).view(shape).transpose(1, 2), cos, sin)
    keys = _rotated(few_linear(normed, attention.k_proj).view(shape).transpose(1, 2), cos, sin)
    values = few_linear(normed, attention.v_proj).view(shape).transpose(1, 2)
    keys, values = cache.update(keys, values, attention.layer_idx)
    seen = scaled_dot_product_attention(
        queries, keys, values, mask, scale=attention.scaling, enable_gqa=attention.num_key_value_groups > 1
    )
    hidden = hidden + few_linear(seen.transpose(1, 2).reshape(rows, tokens, -1), attention.o_proj)
    normed = _norm(layer.post_attention_layernorm, hidden)
    gated = mlp.act_fn(few_linear(normed, mlp.gate_proj)) * few_linear(normed, mlp.up_proj)
    return hidden + few_linear(gated, mlp.down_proj)


def few_linear(states: Tensor, part: nn.Linear) -> Tensor:
    """``part(states)``, states ``[..., features]``."""
    product = few_product(states, part.weight)
    return product if part.bias is None else product + part.bias


def few_product(states: Tensor, weight: Tensor) -> Tensor:
    """``states @ weight.T``, fast for a few states on a processor.

    Args:
        states: ``[..., features]``.
        weight: ``[outputs, features]``, contiguous.
    """
    outputs, features = weight.shape
    if torch.compiler.is_compiling():  # for an export, whose shapes are not those of a run
        return linear(states, weight)
    tokens = states.numel() // features
    if not 1 < tokens <= FEW_TOKENS or outputs < WIDE or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return linear(states, weight)
    blocks = outputs // BLOCK
    whole = weight[: blocks * BLOCK].view(blocks, BLOCK, features)
    flat = states.reshape(1, tokens, features)
    product = torch.bmm(flat.expand(blocks, -1, -1), whole.transpose(1, 2)).transpose(0, 1).reshape(tokens, -1)
    if blocks * BLOCK < outputs:
        product = torch.cat([product, linear(flat[0], weight[blocks * BLOCK :])], dim=-1)
    return product.view(*states.shape[:-1], outputs)


def _norm(norm: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    return rms_norm(hidden, (hidden.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embeddings (Su et al. 2021, arXiv 2104.09864) of ``[B, heads, T, head width]``."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin
