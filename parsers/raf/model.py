"""RAF over one encoder: vectors of utterances and scenarios, spans of a scenario's leaves, and frames without a bank.

Shrivastava, Desai, Gupta, Elkahky, Livshits, Zotov, Aly 2022, arXiv 2202.00901. In the paper the filling module reads
utterance and scenario together, once for every candidate. Here the scenario is read once and for all: the states of
its leaves are kept in a table, and what depends on the utterance is a light decoder. The span pointer that composes
frames outside of the bank shares the encoder. The paper's ways are there by config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel

from frames.errors import UsageError, one_of
from frames.lengths import by_length
from frames.tokenization import MAX_PIECES
from parsers.encoders import TransformerBlock
from parsers.layout import Layout
from parsers.pretrained import PretrainedEncoder
from parsers.span_pointer.model import SpanPointer, SpanPointerConfig
from retrieval.scenario import STYLES
from retrieval.scoring import POOLINGS, pool

SPANS = ("joint", "endpoints")
FILLINGS = ("table", "together")
ENCODERS = ("shared", "separate")
#: Pieces and padding that are read together of utterances and scenarios in one sequence.
TOGETHER = 2048
#: How names of parameters begin that a span pointer does not have.
RAF_PREFIXES = (
    "query_head.", "query_mlp.", "key_head.", "own_vectors", "sharpness", "leaf_head.", "leaf_entry.", "fill_blocks.", "spans.", "scenario_encoder.",
)  # fmt: skip
#: How names of parameters begin that only finding scenarios depends on, but for what glosses are read by.
RETRIEVAL_PREFIXES = ("query_head.", "query_mlp.", "own_vectors", "sharpness")


@dataclass
class RAFConfig(SpanPointerConfig):
    """Sizes of what RAF adds to a span pointer.

    Attributes:
        gloss: how scenarios are put into words, a name in :data:`retrieval.scenario.STYLES`.
        pooling: of states to a vector, ``mean`` or ``first``.
        retrieval_width: width of the vectors that are compared.
        query_hidden: width of a hidden layer beside the linear map from what is pooled of an utterance to its vector (ours);
            0 for none. What composes frames reads the encoder's states through layers of its own; retrieval had none.
        own_vectors: whether each scenario that a training row has shown has a vector of its own, which is learned and added
            to what its gloss says (ours): glosses alone hardly tell apart scenarios that differ in one slot.
        lift: what the vectors of scenarios are multiplied by that have none of their own where others have, since no row
            shows them or they come later; what was learned for the others makes these look more likely than glosses alone
            would.
        filling: ``table`` looks up what the encoder made of a scenario's leaves and decodes spans from it (ours);
            ``together`` has the encoder read utterance and scenario in one sequence, for every candidate (the paper).
        encoders: ``shared``, or ``separate`` ones for utterances and for scenarios that are retrieved.
        leaf_width: width of a leaf's state in the table.
        fill_layers: blocks of the decoder that fills from the table.
        spans: ``joint`` scores first and last piece of a leaf together (ours), ``endpoints`` each by itself (the
            paper's span pointers).
    """

    gloss: str = "intrinsic"
    pooling: str = "mean"
    retrieval_width: int = 128
    query_hidden: int = 0
    own_vectors: bool = False
    lift: float = 1.03
    filling: str = "table"
    encoders: str = "shared"
    leaf_width: int = 128
    fill_layers: int = 1
    spans: str = "joint"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("gloss", self.gloss, STYLES),
            ("pooling", self.pooling, POOLINGS),
            ("spans", self.spans, SPANS),
            ("filling", self.filling, FILLINGS),
            ("encoders", self.encoders, ENCODERS),
        ):
            one_of(name, value, known)


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
        """``[B, L, W]`` leaves over ``[B, S, W]`` utterance states (mask ``[B, S]``) to ``[B, L, S, S]``."""
        scale = memory.shape[2] ** -0.5
        firsts, lasts = (
            (torch.matmul(query, key.transpose(1, 2)) * scale).float()
            for query, key in zip(self.queries(leaves).chunk(2, -1), self.keys(memory).chunk(2, -1), strict=True)
        )
        if mask is not None:
            firsts, lasts = (logits.masked_fill(~mask[:, None, :], -1e4) for logits in (firsts, lasts))
        if self.pair_query is None or self.pair_keys is None:
            return F.log_softmax(firsts, dim=-1)[..., :, None] + F.log_softmax(lasts, dim=-1)[..., None, :]
        query = self.pair_query(leaves)
        first, last = self.pair_keys(memory).chunk(2, -1)
        asked = (query[:, :, None, :] * first[:, None, :, :]).flatten(1, 2)
        together = torch.matmul(asked, last.transpose(1, 2)).float() * query.shape[2] ** -0.5
        logits = firsts[..., :, None] + lasts[..., None, :] + together.unflatten(1, firsts.shape[1:])
        ordered = torch.ones(logits.shape[2:], dtype=torch.bool, device=logits.device).triu()
        logits = logits.masked_fill(~ordered, -1e4)
        return F.log_softmax(logits.flatten(2), dim=-1).view_as(logits)


class RAF(SpanPointer):
    """Retrieval and filling beside a span pointer, on its encoder.

    Args:
        config: sizes.
        transformer: the encoder.
        prefix: special ids before an utterance.
        suffix: special ids after it.
        ontology: ontology tokens.
        scenario_transformer: the encoder of scenarios, where they have their own.
        scenarios: how many of the bank have vectors of their own, the first ones.
    """

    def __init__(
        self,
        config: RAFConfig,
        transformer: PreTrainedModel,
        prefix: Sequence[int],
        suffix: Sequence[int],
        ontology: int,
        scenario_transformer: PreTrainedModel | None = None,
        scenarios: int = 0,
    ) -> None:
        super().__init__(config, transformer, prefix, suffix, ontology)
        c = config
        self.scenario_encoder = (
            None
            if scenario_transformer is None
            else PretrainedEncoder(config, scenario_transformer, prefix, suffix, c.width)
        )
        self.pooling = c.pooling
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
        self.own_vectors = nn.Parameter(torch.zeros(scenarios, c.retrieval_width)) if c.own_vectors else None
        self.lift = c.lift if c.own_vectors else 1.0
        self.sharpness = nn.Parameter(torch.tensor(math.log(20.0)))
        self.fills_together = c.filling == "together"
        # What is read together with an utterance leaves nothing for a table.
        self.leaf_width = 0 if self.fills_together else c.leaf_width
        self.leaf_head = nn.Linear(c.width, c.leaf_width) if self.leaf_width else None
        self.leaf_entry = nn.Linear(c.leaf_width, c.width) if self.leaf_width else None
        self.fill_blocks = nn.ModuleList(
            TransformerBlock(c.width, c.decoder_heads, c.decoder_heads, c.decoder_feed_forward, c.dropout)
            for _ in range(c.fill_layers if self.leaf_width else 0)
        )
        self.spans = SpanHead(c.width, c.spans == "joint")

    def load_extending_ontology(self, parameters: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]) -> None:
        """See :meth:`parsers.pointer_network.PointerNetwork.load_extending_ontology`; those of a span pointer will do as well."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith(RAF_PREFIXES)}
        loaded = {**own, **parameters}
        if self.own_vectors is not None and len(loaded["own_vectors"]) < len(self.own_vectors):
            # A bank that goes on from another has that one's scenarios first.
            known = loaded["own_vectors"]
            loaded["own_vectors"] = torch.cat((known.to(self.own_vectors), self.own_vectors.detach()[len(known) :]))
        super().load_extending_ontology(loaded, old, new)

    @property
    def bankable(self) -> bool:
        """Whether all that is known of a scenario, but for the utterance, can be had from the encoder of utterances."""
        return not self.fills_together and self.scenario_encoder is None

    @property
    def scale(self) -> Tensor:
        """Factor of inner products, a scalar."""
        return self.sharpness.exp()

    def query(self, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Utterance states ``[B, S, width]`` to unit vectors ``[B, retrieval_width]``."""
        pooled = pool(memory, mask, self.pooling)
        query = self.query_head(pooled)
        if self.query_mlp is not None:
            query = query + self.query_mlp(pooled)
        return F.normalize(query.float(), dim=-1)

    def keys(self, glosses: Tensor) -> Tensor:
        """What the scenarios of a bank are found by.

        Args:
            glosses: what their glosses say, unit vectors ``[N, retrieval_width]`` in the order of the bank, those that no
                row has shown last.

        Returns:
            Vectors ``[N, retrieval_width]``, of unit length but for those without one of their own where others have it.
        """
        if self.own_vectors is None:
            return glosses
        known = len(self.own_vectors)
        named = F.normalize(glosses[:known] + self.own_vectors, dim=-1)
        return named if len(glosses) == known else torch.cat((named, glosses[known:] * self.lift))

    def project_new_scenarios(self, states: Tensor, mask: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`project_scenarios`, for scenarios that are added after training: the vectors that they are found by."""
        glosses, leaf_states = self.project_scenarios(states, mask, leaves)
        return glosses * self.lift, leaf_states

    def describe(self, pieces: Tensor, mask: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """Scenarios by their glosses.

        Args:
            pieces: ids ``[N, G]``.
            mask: ``[N, G]``, True at pieces.
            leaves: ``[N, L]`` piece that each leaf stands at.

        Returns:
            Unit vectors ``[N, retrieval_width]`` and leaf states ``[N, L, leaf_width]``, of width 0 where the encoder
            fills.
        """
        return self.project_scenarios((self.scenario_encoder or self.encoder)(pieces, mask), mask, leaves)

    def project_scenarios(self, states: Tensor, mask: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`describe`, for glosses that the encoder has read: its states ``[N, G, width]``."""
        keys = F.normalize(self.key_head(pool(states, mask, self.pooling)).float(), dim=-1)
        if self.leaf_head is None:
            return keys, states.new_zeros((*leaves.shape, 0))
        return keys, self.leaf_head(at_places(states, leaves))

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

    def fill_together(
        self, pieces: Tensor, mask: Tensor | None, gloss: Tensor, gloss_mask: Tensor, leaves: Tensor
    ) -> Tensor:
        """As :meth:`fill`, the encoder reading utterance, its special ids after it, and scenario in one sequence.

        Args:
            pieces: of the utterances ``[B, S]``.
            mask: ``[B, S]``, True at pieces, or None.
            gloss: pieces of one scenario for each row ``[B, G]``.
            gloss_mask: ``[B, G]``, True at pieces.
            leaves: ``[B, L]`` piece of the gloss that each leaf stands at.

        Returns:
            Log-probabilities of first and last piece ``[B, L, S, S]``.

        Raises:
            UsageError: both together are longer than the encoder reads.
        """
        size = pieces.shape[1]
        here = torch.ones_like(pieces, dtype=torch.bool) if mask is None else mask
        assert isinstance(self.encoder, PretrainedEncoder)
        between = self.encoder.suffix.expand(len(pieces), -1)
        kept = torch.cat((here, torch.ones_like(between, dtype=torch.bool), gloss_mask), dim=1)
        lengths = kept.sum(dim=1).cpu().numpy()
        longest = len(self.encoder.prefix) + int(lengths.max()) + between.shape[1]
        if longest > MAX_PIECES:
            raise UsageError(
                "E417",
                f"an utterance and a scenario make {longest} pieces together; {MAX_PIECES} are read at most.",
                remedy="Pass one request at a time, or train with filling: table, which reads them apart.",
            )
        # Padding goes behind the scenario, for places are counted from the left; what no row needs is cut off, or a long
        # utterance and the long scenario of another row would make a sequence that the encoder has no places for. Rows of
        # like length are read together, for scenarios are of very different lengths.
        order = (~kept).to(torch.int8).sort(dim=1, stable=True).indices
        read, kept = torch.cat((pieces, between, gloss), dim=1).gather(1, order), kept.gather(1, order)
        at = here.sum(dim=1, keepdim=True) + between.shape[1] + leaves
        groups, asked, states = [], [], []
        for group in by_length(lengths, TOGETHER):
            rows, width = torch.from_numpy(group).to(pieces.device), max(size, int(lengths[group[-1]]))
            known = self.encoder(read[rows, :width], kept[rows, :width])
            asked.append(at_places(known, at[rows]))
            states.append(known[:, :size])
            groups.append(rows)
        back = torch.cat(groups).argsort()
        return self.spans(torch.cat(asked)[back], torch.cat(states)[back], mask)


def at_places(states: Tensor, places: Tensor) -> Tensor:
    """States ``[B, S, W]`` at ``places [B, L]``: ``[B, L, W]``."""
    return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))
