"""RAF over one encoder: vectors of utterances and scenarios, spans of a scenario's leaves, frames outside of the bank.

Shrivastava, Desai, Gupta, Elkahky, Livshits, Zotov, Aly 2022, arXiv 2202.00901. In the paper the filling module reads
utterance and scenario together, once for every candidate. Here the scenario is encoded once and for all: the states of
its leaves are kept in a table, and only a light decoder depends on the utterance. The span pointer that composes
frames outside of the bank shares the encoder. Options choose the paper's way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel

from frames.errors import UsageError
from frames.lengths import by_length
from frames.tokenization import MAX_PIECES
from parsers.encoders import TransformerBlock
from parsers.layout import Layout
from parsers.pretrained import PretrainedEncoder
from parsers.span_pointer.model import SpanPointer, SpanPointerConfig
from retrieval.glosses import Glosses
from retrieval.scenario import GlossStyle
from retrieval.scoring import pool

#: Pieces and padding of a group of sequences that hold utterance and scenario both.
MAX_TOKENS_PER_GROUP = 2048
#: Width of a leaf's state in the table.
LEAF_WIDTH = 128
#: Name prefixes of the parameters that only RAF has, not its span pointer.
RAF_PREFIXES = (
    "query_head.", "query_mlp.", "key_head.", "scenario_embeddings", "sharpness", "leaf_head.", "leaf_entry.", "fill_blocks.",
    "spans.", "scenario_encoder.",
)  # fmt: skip
#: Name prefixes of the parameters that only retrieval depends on, without those that encode glosses.
RETRIEVAL_PREFIXES = ("query_head.", "query_mlp.", "scenario_embeddings", "sharpness")


@dataclass
class RAFConfig(SpanPointerConfig):
    """Sizes of the parts that RAF adds to a span pointer.

    Attributes:
        gloss: style of the scenarios' glosses, a name in :data:`retrieval.scenario.STYLES`.
        retrieval_width: width of the vectors that are compared.
        query_hidden: width of a hidden layer beside the linear map from an utterance's pooled states to its vector (ours);
            0 for none. The modules that compose frames have layers of their own over the encoder's states; without it,
            retrieval has none.
        scenario_embeddings: whether each scenario of a training row has a learned vector of its own, added to that of its
            gloss (ours): glosses alone hardly tell apart scenarios that differ in one slot.
        unseen_scale: factor of the vectors of scenarios without a learned one where others have one, because no training
            row has them or they were added later; with glosses alone these scenarios would look too unlikely.
        filling: ``table`` (ours) keeps the states of each scenario's leaves, by the encoder of utterances, in a table and
            decodes spans from them, first and last piece together. ``cross_encoder`` (the paper) encodes utterance and
            scenario in one sequence, for every candidate, scores first and last piece each by itself, and has a second
            encoder for the scenarios that are retrieved.
    """

    gloss: GlossStyle = "intrinsic"
    retrieval_width: int = 128
    query_hidden: int = 0
    scenario_embeddings: bool = False
    unseen_scale: float = 1.03
    filling: Literal["table", "cross_encoder"] = "table"


class SpanHead(nn.Module):
    """Log-probabilities of spans for each leaf.

    Args:
        width: channels of leaf and utterance states.
        joint: whether first and last piece are scored together, as a bilinear form beside the two endpoints.
        rank: width of that form.
    """

    def __init__(self, width: int, joint: bool, rank: int = 64) -> None:
        super().__init__()
        self.queries = nn.Linear(width, 2 * width)
        self.keys = nn.Linear(width, 2 * width)
        self.pair_query = nn.Linear(width, rank) if joint else None
        self.pair_keys = nn.Linear(width, 2 * rank) if joint else None

    def forward(self, leaves: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Scores the spans of each leaf.

        Args:
            leaves: leaf states ``[B, L, W]``.
            memory: utterance states ``[B, S, W]``.
            mask: ``[B, S]``, True at pieces, or None.

        Returns:
            Log-probabilities of first and last piece ``[B, L, S, S]``.
        """
        scale = memory.shape[2] ** -0.5
        first_query, last_query = self.queries(leaves).chunk(2, -1)  # each [B, L, W]
        first_key, last_key = self.keys(memory).chunk(2, -1)  # each [B, S, W]
        firsts = (torch.matmul(first_query, first_key.transpose(1, 2)) * scale).float()  # [B, L, S]
        lasts = (torch.matmul(last_query, last_key.transpose(1, 2)) * scale).float()  # [B, L, S]
        if mask is not None:
            firsts, lasts = (logits.masked_fill(~mask[:, None, :], -1e4) for logits in (firsts, lasts))
        if self.pair_query is None or self.pair_keys is None:
            return F.log_softmax(firsts, dim=-1)[..., :, None] + F.log_softmax(lasts, dim=-1)[..., None, :]
        pair_query = self.pair_query(leaves)  # [B, L, R]
        first, last = self.pair_keys(memory).chunk(2, -1)  # each [B, S, R]
        first = (pair_query[:, :, None, :] * first[:, None, :, :]).flatten(1, 2)  # [B, L * S, R]
        pairs = torch.matmul(first, last.transpose(1, 2)).float() * pair_query.shape[2] ** -0.5  # [B, L * S, S]
        pairs = pairs.unflatten(1, firsts.shape[1:])  # [B, L, S, S]
        logits = firsts[..., :, None] + lasts[..., None, :] + pairs  # [B, L, S, S]
        ordered = torch.ones(logits.shape[2:], dtype=torch.bool, device=logits.device).triu()  # [S, S]
        logits = logits.masked_fill(~ordered, -1e4)
        return F.log_softmax(logits.flatten(2), dim=-1).view_as(logits)  # over [S * S], then [B, L, S, S]


class RAF(SpanPointer):
    """Retrieval and filling beside a span pointer, on its encoder.

    Args:
        config: sizes.
        transformer: the encoder.
        prefix: special ids before an utterance.
        suffix: special ids after it.
        num_ontology_tokens: ontology tokens.
        scenario_transformer: the encoder of retrieved scenarios; only with ``filling: cross_encoder``.
        scenarios: the first so many scenarios of the bank have learned vectors.
    """

    def __init__(
        self,
        config: RAFConfig,
        transformer: PreTrainedModel,
        prefix: Sequence[int],
        suffix: Sequence[int],
        num_ontology_tokens: int,
        scenario_transformer: PreTrainedModel | None = None,
        scenarios: int = 0,
    ) -> None:
        super().__init__(config, transformer, prefix, suffix, num_ontology_tokens)
        c = config
        self.scenario_encoder = (
            None
            if scenario_transformer is None
            else PretrainedEncoder(scenario_transformer, prefix, suffix, c.width, c.dropout, c.train_embeddings)
        )
        self.query_head = nn.Linear(c.width, c.retrieval_width)
        self.query_mlp = (
            nn.Sequential(
                nn.Linear(c.width, c.query_hidden),
                nn.GELU(),
                nn.Dropout(c.dropout),
                nn.Linear(c.query_hidden, c.retrieval_width),
            )
            if c.query_hidden
            else None
        )
        self.key_head = nn.Linear(c.width, c.retrieval_width)
        embedded = c.scenario_embeddings
        self.scenario_embeddings = nn.Parameter(torch.zeros(scenarios, c.retrieval_width)) if embedded else None
        self.unseen_scale = c.unseen_scale if embedded else 1.0
        self.sharpness = nn.Parameter(torch.tensor(math.log(20.0)))
        self.uses_cross_encoder = c.filling == "cross_encoder"
        # Without a table, there are no leaf states to keep.
        self.leaf_width = 0 if self.uses_cross_encoder else LEAF_WIDTH
        self.leaf_head = nn.Linear(c.width, LEAF_WIDTH) if self.leaf_width else None
        self.leaf_entry = nn.Linear(LEAF_WIDTH, c.width) if self.leaf_width else None
        self.fill_blocks = nn.ModuleList(
            TransformerBlock(c.width, c.decoder_heads, c.decoder_heads, c.decoder_feed_forward, c.dropout)
            for _ in range(1 if self.leaf_width else 0)
        )
        self.spans = SpanHead(c.width, not self.uses_cross_encoder)

    def load_extending_ontology(self, parameters: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]) -> None:
        """See :meth:`parsers.pointer_network.PointerNetwork.load_extending_ontology`; a span pointer's parameters do as well."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith(RAF_PREFIXES)}
        loaded = {**own, **parameters}
        if self.scenario_embeddings is not None and len(loaded["scenario_embeddings"]) < len(self.scenario_embeddings):
            # A bank merged into another one's has the other's scenarios first.
            known = loaded["scenario_embeddings"]
            loaded["scenario_embeddings"] = torch.cat(
                (known.to(self.scenario_embeddings), self.scenario_embeddings.detach()[len(known) :])
            )
        super().load_extending_ontology(loaded, old, new)

    @property
    def scale(self) -> Tensor:
        """Factor of inner products, a scalar."""
        return self.sharpness.exp()

    def query(self, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Utterance states ``[B, S, width]`` to unit vectors ``[B, retrieval_width]``."""
        pooled = pool(memory, mask)
        query = self.query_head(pooled)
        if self.query_mlp is not None:
            query = query + self.query_mlp(pooled)
        return F.normalize(query.float(), dim=-1)

    def keys(self, glosses: Tensor) -> Tensor:
        """Vectors of the scenarios of a bank.

        Args:
            glosses: unit vectors of their glosses ``[N, retrieval_width]`` in the order of the bank; scenarios without a
                learned vector come last.

        Returns:
            Vectors ``[N, retrieval_width]``; of unit length, or of length ``unseen_scale`` for scenarios without
            a learned vector where others have one.
        """
        if self.scenario_embeddings is None:
            return glosses
        known = len(self.scenario_embeddings)
        named = F.normalize(glosses[:known] + self.scenario_embeddings, dim=-1)
        return named if len(glosses) == known else torch.cat((named, glosses[known:] * self.unseen_scale))

    def project_new_scenarios(self, states: Tensor, mask: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`project_scenarios`, for scenarios added after training; the vectors are of length ``unseen_scale``."""
        glosses, leaf_states = self.project_scenarios(states, mask, leaves)
        return glosses * self.unseen_scale, leaf_states

    def encode_scenarios(self, pieces: Tensor, mask: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes scenarios by their glosses.

        Args:
            pieces: ids ``[N, G]``.
            mask: ``[N, G]``, True at pieces.
            leaves: ``[N, L]`` piece of each leaf.

        Returns:
            Unit vectors ``[N, retrieval_width]`` and leaf states ``[N, L, leaf_width]``, of width 0 without a table.
        """
        return self.project_scenarios((self.scenario_encoder or self.encoder)(pieces, mask), mask, leaves)

    def project_scenarios(self, states: Tensor, mask: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`encode_scenarios`, from the encoder's states of the glosses ``[N, G, width]``."""
        keys = F.normalize(self.key_head(pool(states, mask)).float(), dim=-1)
        if self.leaf_head is None:
            return keys, states.new_zeros((*leaves.shape, 0))
        return keys, self.leaf_head(at_positions(states, leaves))

    def fill_scenarios(
        self,
        memory: Tensor,
        pieces: Tensor,
        mask: Tensor | None,
        scenario_ids: np.ndarray,
        glosses: Glosses,
        leaf_states: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Scores the spans of one scenario for each row, from leaf states or from the gloss, as ``filling`` says.

        Args:
            memory: utterance states ``[B, S, width]``.
            pieces: of the utterances ``[B, S]``.
            mask: ``[B, S]``, True at pieces, or None.
            scenario_ids: ``[B]`` positions in the bank.
            glosses: of the bank.
            leaf_states: gives the states ``[B, L, leaf_width]`` and the mask ``[B, L]`` of the leaves of scenarios.

        Returns:
            Log-probabilities of first and last piece ``[B, L, S, S]``, and the mask of the leaves ``[B, L]``.
        """
        if self.uses_cross_encoder:
            gloss, gloss_mask, leaves, leaf_mask = (
                torch.from_numpy(array).to(pieces.device) for array in glosses.batch(scenario_ids)
            )
            return self.fill_cross_encoded(pieces, mask, gloss, gloss_mask, leaves), leaf_mask
        leaves, leaf_mask = leaf_states(scenario_ids)
        return self.fill(memory, mask, leaves, leaf_mask), leaf_mask

    def fill(self, memory: Tensor, mask: Tensor | None, leaves: Tensor, leaf_mask: Tensor | None) -> Tensor:
        """Scores the spans of each leaf.

        Args:
            memory: utterance states ``[B, S, width]``.
            mask: ``[B, S]``, True at pieces, or None.
            leaves: leaf states ``[B, L, leaf_width]`` of one scenario for each row.
            leaf_mask: ``[B, L]``, True at leaves, or None.

        Returns:
            Log-probabilities of first and last piece ``[B, L, S, S]``.
        """
        assert self.leaf_entry is not None
        x = self.leaf_entry(leaves.to(memory.dtype))
        layout, memory_layout = Layout.single(x, leaf_mask), Layout.single(memory, mask)
        for block in self.fill_blocks:
            x = block(x, layout, memory, memory_layout)
        return self.spans(x, memory, mask)

    def fill_cross_encoded(
        self, pieces: Tensor, mask: Tensor | None, gloss: Tensor, gloss_mask: Tensor, leaves: Tensor
    ) -> Tensor:
        """As :meth:`fill`, with the encoder over one sequence of utterance, special ids and scenario.

        Args:
            pieces: of the utterances ``[B, S]``.
            mask: ``[B, S]``, True at pieces, or None.
            gloss: pieces of one scenario for each row ``[B, G]``.
            gloss_mask: ``[B, G]``, True at pieces.
            leaves: ``[B, L]`` piece of the gloss for each leaf.

        Returns:
            Log-probabilities of first and last piece ``[B, L, S, S]``.

        Raises:
            UsageError: both together are longer than the encoder accepts.
        """
        size = pieces.shape[1]
        here = torch.ones_like(pieces, dtype=torch.bool) if mask is None else mask
        assert isinstance(self.encoder, PretrainedEncoder)
        between = self.encoder.suffix.expand(len(pieces), -1)  # [B, special ids]
        kept = torch.cat((here, torch.ones_like(between, dtype=torch.bool), gloss_mask), dim=1)  # [B, T]
        lengths = kept.sum(dim=1).cpu().numpy()
        longest = len(self.encoder.prefix) + int(lengths.max()) + between.shape[1]
        if longest > MAX_PIECES:
            raise UsageError(
                "E417",
                f"an utterance and a scenario have {longest} pieces together; the encoder accepts {MAX_PIECES} at most.",
                remedy="Pass one request at a time, or train with filling: table, which encodes them apart.",
            )
        # Padding moves behind the scenario, because positions count from the left. Columns of padding alone are cut off, so
        # that a long utterance and the long scenario of another row do not exceed the encoder's positions. Rows of like
        # length share a group, because scenarios differ much in length.
        order = (~kept).to(torch.int8).sort(dim=1, stable=True).indices  # [B, T], padding last
        sequence = torch.cat((pieces, between, gloss), dim=1).gather(1, order)  # [B, T]
        kept = kept.gather(1, order)
        leaf_pieces = here.sum(dim=1, keepdim=True) + between.shape[1] + leaves  # [B, L] positions in the sequence
        groups, leaf_states, utterance_states = [], [], []
        for group in by_length(lengths, MAX_TOKENS_PER_GROUP):
            rows, width = torch.from_numpy(group).to(pieces.device), max(size, int(lengths[group[-1]]))
            states = self.encoder(sequence[rows, :width], kept[rows, :width])  # [group, width, W]
            leaf_states.append(at_positions(states, leaf_pieces[rows]))  # [group, L, W]
            utterance_states.append(states[:, :size])  # [group, S, W]
            groups.append(rows)
        back = torch.cat(groups).argsort()  # from the order of the groups to that of the rows
        return self.spans(torch.cat(leaf_states)[back], torch.cat(utterance_states)[back], mask)


def at_positions(states: Tensor, positions: Tensor) -> Tensor:
    """States ``[B, S, W]`` at ``positions [B, L]``: ``[B, L, W]``."""
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.shape[2]))
