"""A causal language model whose early layers can answer through the one head that all layers share."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from frames.errors import UsageError
from frames.tokenization import PieceTokenizer
from parsers.bounds import check_bounds
from parsers.layerskip.cache import RowCache
from parsers.layerskip.layer import few_product, is_plain, run_layer
from parsers.layerskip.spelling import EXTRA, Spelling
from parsers.pretrained import load_pretrained

#: Types of models, as transformers names them, whose logits are the head's product with the norm of the layers' states.
#: Others have attributes of the same names and multiply in between (Granite, Cohere), which a model cut at an exit would leave out.
FAMILY = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2", "stablelm", "starcoder2", "smollm3", "glm",
)  # fmt: skip


@dataclass
class LayerSkipConfig:
    """Which language model, and what of it is fitted.

    Attributes:
        language_model: hub name, local folder or short name (``smollm2``) of a causal language model of the Llama family;
            None builds one of the sizes below, with random weights.
        language_model_config: what the language model is made of; filled in on loading, so that a checkpoint needs no
            network.
        style: how frames are written: ``labels`` (ours: one new token a label) or ``json`` (the paper's).
        width, layers, heads, feed_forward: sizes of a model built from nothing.
        dropout: on embeddings and on what each layer adds, in training.
        read_both_ways: whether pieces of the utterance see those after them, as in a prefix language model (Raffel et al.
            2020, section 3.2.1); for models built from nothing.
        lora_rank: rank of LoRA matrices (Hu et al. 2022, arXiv 2106.09685) that are fitted in place of the language model's
            own; 0 fits the whole model.
        checkpoint_layers: compute what a layer does again in the backward pass in place of keeping it.
        max_length: tokens of a frame in training.
    """

    language_model: str | None = None
    language_model_config: dict[str, Any] = field(default_factory=dict)
    style: Literal["labels", "json"] = "labels"
    width: int = 256
    layers: int = 8
    heads: int = 4
    feed_forward: int = 704
    dropout: float = 0.0
    read_both_ways: bool = False
    lora_rank: int = 0
    checkpoint_layers: bool = False
    max_length: int = 512

    def __post_init__(self) -> None:
        check_bounds(self)
        built_here = self.language_model is None and not self.language_model_config
        if built_here and self.width % (2 * self.heads):
            raise ValueError(f"width {self.width}: a multiple of twice the heads ({self.heads})")


def load_language_model(name: str) -> PreTrainedModel:
    """A pretrained causal language model, its weights in fp32.

    Args:
        name: hub name, local folder, a ``.gguf`` file, or a short name of :mod:`frames.weights`.

    Raises:
        UsageError: it cannot be had here, is cut short, or is not of the Llama family.
    """
    try:
        model = load_pretrained(AutoModelForCausalLM, name, attn_implementation="sdpa")
    except ImportError as error:
        raise UsageError(
            "E482",
            f"the language model {name!r} needs a package that is not installed ({str(error).strip().splitlines()[0]}).",
            remedy="Run `pip install -e '.[llm]'`.",
        ) from error
    except (UsageError, RuntimeError, KeyError, IndexError, EOFError, struct.error) as error:
        if isinstance(error, UsageError) and not (Path(name).suffix == ".gguf" and Path(name).is_file()):
            raise
        cause = error.__cause__ if isinstance(error, UsageError) else error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UsageError(
            "E481",
            f"the language model {name!r} cannot be read ({reason}).",
            remedy="The file may be cut short: download it again, for instance by `framefill data weights smollm2`.",
        ) from error
    if model.config.model_type not in FAMILY:
        raise UsageError(
            "E483", f"{type(model).__name__} is not built as Llama is.", remedy=f"Use one of {', '.join(FAMILY)}."
        )
    return model


def build_language_model(config: LayerSkipConfig, pieces: int) -> PreTrainedModel:
    """A language model with random weights, to be trained from nothing or to be loaded into."""
    given = config.language_model_config or {
        "model_type": "llama",
        "vocab_size": pieces,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    }
    given = {key: value for key, value in given.items() if key not in ("dtype", "torch_dtype")}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**given), attn_implementation="sdpa", dtype=torch.float32
    )


class LayerSkip(nn.Module):
    """The language model with the frame's labels in its vocabulary.

    Args:
        config: sizes.
        language_model: as :func:`load_language_model` or :func:`build_language_model` returns it.
        spelling: new tokens.
        label_pieces: for each ontology symbol the pieces of its name, whose embeddings' mean is the new token's first
            embedding; None draws new tokens' embeddings at random.
    """

    def __init__(
        self,
        config: LayerSkipConfig,
        language_model: PreTrainedModel,
        spelling: Spelling,
        label_pieces: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.spelling = config, spelling
        self.vocab_size = spelling.vocab_size
        old: Any = language_model.get_input_embeddings().weight
        if spelling.vocabulary > len(old):
            raise UsageError(
                "E484",
                f"the tokenizer has {spelling.vocabulary} pieces, the language model {len(old)}.",
                remedy="Set data.pretrained to the same model as model.language_model.",
            )
        grow_vocabulary(language_model, spelling, label_pieces)
        if config.lora_rank:
            language_model = with_lora(language_model, config.lora_rank)
        self.lm = language_model
        base: Any = language_model.get_base_model() if config.lora_rank else language_model  # type: ignore[operator]
        # The parts by themselves, not registered a second time.
        self._parts: tuple[Any, Any] = (base.model, base.get_output_embeddings())
        layer = base.model.layers[0]
        self._plain = all(is_plain(part) for part in base.model.layers)
        self._cache_name = "cache" if "cache" in inspect.signature(layer.forward).parameters else "past_key_values"

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, first to last."""
        return self._parts[0].layers

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def head(self) -> Tensor:
        """Output embeddings ``[vocabulary, width]``."""
        return self._parts[1].weight

    @property
    def context(self) -> int:
        """Tokens that the language model has positions for."""
        return int(self._parts[0].config.max_position_embeddings)

    @property
    def cache_shape(self) -> tuple[int, int]:
        """Heads of keys and values, and their width."""
        attention: Any = self.layers[0].self_attn
        return attention.k_proj.weight.shape[0] // attention.head_dim, attention.head_dim

    def merged(self) -> LayerSkip:
        """Itself, or where LoRA matrices were fitted a copy whose own matrices have them added."""
        if not self.config.lora_rank:
            return self
        language_model: Any = deepcopy(self.lm)
        plain = replace(self.config, lora_rank=0)
        return LayerSkip(plain, language_model.merge_and_unload(), self.spelling).train(self.training)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings ``[B, T, width]`` of tokens ``[B, T]``."""
        return self._parts[0].embed_tokens(tokens)

    def run(
        self,
        hidden: Tensor,
        positions: Tensor,
        first: int,
        last: int,
        mask: Tensor | None,
        cache: Any = None,
    ) -> Tensor:
        """Layers ``first`` to ``last``, the last not included, over states ``[B, T, width]``.

        Args:
            hidden: what goes into layer ``first``.
            positions: ``[B, T]`` of the tokens in their sequences.
            first: a layer.
            last: a layer, or the number of layers.
            mask: ``[B, 1, T, K]``, True where a token sees; None sees all tokens before and itself.
            cache: keys and values of earlier tokens (:class:`RowCache`, or what has its ``update``); those of these tokens
                are put into it.
        """
        rotary = self._parts[0].rotary_emb(hidden, positions)
        for layer in self.layers[first:last]:
            if self._plain and isinstance(cache, RowCache):
                hidden = run_layer(layer, hidden, rotary, mask, cache)
            else:
                hidden = self._layer(layer, hidden, positions, rotary, mask, cache)
        return hidden

    def logits(self, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
        """What the shared norm and head say after any layer.

        Args:
            hidden: ``[..., width]``.
            tokens: ``[K]`` ids to score; None scores all.

        Returns:
            ``[..., K]`` or ``[..., vocabulary]`` logits.
        """
        states = self._parts[0].norm(hidden)
        head = self.head[: self.vocab_size] if tokens is None else nn.functional.embedding(tokens, self.head)
        return few_product(states, head.to(states.dtype))

    def candidate_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits ``[N, K]`` after states ``[N, width]`` of other tokens ``[N, K]`` for each."""
        states = self._parts[0].norm(hidden)
        return torch.bmm(self.head[tokens].to(states.dtype), states[:, :, None])[:, :, 0]

    @torch.no_grad()
    def load_extending_ontology(self, parameters: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]) -> None:
        """Loads the parameters of a model with other labels; embeddings of labels that it lacks stay as they are.

        Args:
            parameters: of the other model.
            old: its ontology tokens.
            new: the ontology tokens of this model.

        Raises:
            RuntimeError: the sizes differ.
        """
        vocabulary = self.vocab_size - len(new) - EXTRA
        loaded = dict(parameters)
        for name, value in self.state_dict().items():
            if name in loaded and name.endswith(("embed_tokens.weight", "lm_head.weight")):
                table, other = value.clone(), loaded[name]
                table[:vocabulary] = other[:vocabulary]
                for token in set(old) & set(new):
                    table[vocabulary + new.index(token)] = other[vocabulary + old.index(token)]
                for extra in range(EXTRA):
                    table[vocabulary + len(new) + extra] = other[vocabulary + len(old) + extra]
                loaded[name] = table
        self.load_state_dict(loaded)

    def forward(
        self, tokens: Tensor, mask: Tensor | None, kept: Sequence[Tensor | None], exits: Sequence[int]
    ) -> list[Tensor]:
        """States ``[B, T, width]`` after some layers, in training.

        Args:
            tokens: ``[B, T]``, padded at the end.
            mask: ``[B, 1, T, T]``, True where a token sees; None for a causal model.
            kept: for each layer the rows ``[B]`` that do not skip it, None for all.
            exits: numbers of layers, ascending, after which states are wanted.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None].expand(tokens.shape[0], -1)
        hidden = nn.functional.dropout(self.embed(tokens), self.config.dropout, self.training)
        rotary = self._parts[0].rotary_emb(hidden, positions)
        found = []
        for number, (layer, rows) in enumerate(zip(self.layers, kept, strict=True)):
            if self.config.checkpoint_layers and self.training:
                after = checkpoint(self._layer, layer, hidden, positions, rotary, mask, None, use_reentrant=False)
            else:
                after = self._layer(layer, hidden, positions, rotary, mask, None)
            if self.config.dropout and self.training:
                after = hidden + nn.functional.dropout(after - hidden, self.config.dropout)
            hidden = after if rows is None else torch.where(rows[:, None, None], after, hidden)
            if number in exits:
                found.append(hidden)
        return found

    def _layer(
        self, layer: nn.Module, hidden: Tensor, positions: Tensor, rotary: Any, mask: Tensor | None, cache: Any
    ) -> Tensor:
        after = layer(
            hidden,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=rotary,
            **{self._cache_name: cache},
        )
        return after[0] if isinstance(after, tuple) else after


@torch.no_grad()
def grow_vocabulary(model: PreTrainedModel, spelling: Spelling, label_pieces: Sequence[Sequence[int]] | None) -> None:
    """Appends the new tokens to the input and output embeddings.

    Args:
        model: changed in place.
        spelling: the new tokens.
        label_pieces: see :class:`LayerSkip`.
    """
    embeddings: tuple[Any, Any] = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = len(embeddings[0].weight)
    if rows < spelling.vocab_size:
        model.resize_token_embeddings(spelling.vocab_size, mean_resizing=False)
    if label_pieces is None:
        return
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    tables: dict[int, Any] = {id(part.weight): part.weight for part in embeddings}
    for weight in tables.values():
        mean = weight[: spelling.vocabulary].mean(dim=0)
        for token in range(spelling.vocabulary, spelling.vocab_size):
            weight[token] = mean
        for symbol, pieces in enumerate(label_pieces):
            weight[spelling.vocabulary + symbol] = weight[torch.tensor(list(pieces))].mean(dim=0)


def with_lora(model: PreTrainedModel, rank: int) -> Any:
    """The model with low-rank matrices beside the attention and feed-forward ones; embeddings stay fitted as a whole.

    Raises:
        UsageError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UsageError("E490", "LoRA needs the package peft.", remedy="Run `pip install -e '.[llm]'`.") from error
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        embeddings.weight.requires_grad_(True)
    return adapted


def label_pieces(spelling: Spelling, tokenizer: PieceTokenizer) -> list[list[int]]:
    """The pieces of each label's name, for :class:`LayerSkip`.

    Raises:
        UsageError: the tokenizer has no pieces for a label.
    """
    found = []
    for token in spelling.ontology.tokens:
        kind, _, label = token.partition(":")
        words = {"IN": "intent ", "SL": "slot "}.get(kind, "") + label.replace("_", " ").lower() if label else token
        pieces = tokenizer.backend.encode(words, add_special_tokens=False).ids
        if not pieces:
            raise UsageError(
                "E485",
                f"the language model's tokenizer cannot spell the label {token!r}.",
                remedy="Use a tokenizer of bytes, or rename the label.",
            )
        found.append(list(pieces))
    return found
