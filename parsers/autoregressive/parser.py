"""Parsing token by token: a beam over the grammar of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from frames.linearization import POINTER_FORMS, TargetIds
from frames.ontology import Ontology
from frames.tokenization import Edges, PieceTokenizer, Source
from parsers.autoregressive.model import Autoregressive
from parsers.bounds import check_bounds
from parsers.constrained import Grammar, State
from parsers.groups import in_groups, pad
from parsers.interface import Hypothesis, answer_first, check_request
from parsers.torch_backend import evaluation_mode


@dataclass
class AutoregressiveDecodingConfig:
    """How scores become frames.

    Attributes:
        beam: prefixes kept at every step; 1 is greedy.
    """

    beam: int = 1

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a frame of one utterance."""

    row: int
    ids: tuple[int, ...]
    state: State
    score: float


class AutoregressiveParser:
    """Implements :class:`parsers.interface.Parser`; only what may follow in a frame of the ontology is ever taken.

    Every step reads its whole prefix again: frames are short, and the encoder, which is most of the work, runs once.

    Args:
        model: in whatever mode; it is put into evaluation while it parses.
        tokenizer: cuts utterances.
        ontology: labels and nesting.
        form: name in :data:`frames.linearization.POINTER_FORMS`.
        config: how to decode.
    """

    def __init__(
        self,
        model: Autoregressive,
        tokenizer: PieceTokenizer,
        ontology: Ontology,
        form: str,
        config: AutoregressiveDecodingConfig,
    ) -> None:
        self.model, self.tokenizer, self.ontology, self.config = model, tokenizer, ontology, config
        self.form = POINTER_FORMS[form]()
        self.ids = TargetIds(ontology)
        self.grammar = Grammar(ontology, form)

    @torch.inference_mode()
    def parse(self, utterances: Sequence[str], n_best: int = 1) -> list[list[Hypothesis]]:
        """See :class:`parsers.interface.Parser`."""
        sources = self.tokenizer.batch(check_request(utterances, n_best))
        with evaluation_mode(self.model):
            best = in_groups(sources, lambda group: self._parse(group, 1))
            if n_best == 1:
                return best
            several = in_groups(sources, lambda group: self._parse(group, n_best))
        return [answer_first(first, found)[:n_best] for (first,), found in zip(best, several, strict=True)]

    def _parse(self, sources: list[Source], n_best: int) -> list[list[Hypothesis]]:
        device = next(self.model.parameters()).device
        pieces, mask = (torch.from_numpy(array).to(device) for array in pad(sources, self.tokenizer.pad_id))
        memory = self.model.encoder(pieces, mask)
        width = max(self.config.beam, n_best)
        edges = [source.edges for source in sources]
        alive = [Prefix(row, (), self.grammar.start(), 0.0) for row in range(len(sources))]
        done: list[list[Prefix]] = [[] for _ in sources]
        for left in range(self.model.max_length - 1, -1, -1):
            rows = torch.tensor([prefix.row for prefix in alive], device=device)
            tokens = torch.tensor([prefix.ids for prefix in alive], dtype=torch.long, device=device)
            scores = self.model.next_token(memory[rows], pieces[rows], mask[rows], tokens).float().cpu().numpy()
            longer: list[list[Prefix]] = [[] for _ in sources]
            for prefix, row in zip(alive, scores, strict=True):
                longer[prefix.row] += self._continued(prefix, row, edges[prefix.row], left, width)
            alive = []
            for row, found in enumerate(longer):
                found.sort(key=lambda prefix: -prefix.score)
                done[row] += [prefix for prefix in found[:width] if not prefix.state.stack]
                kept = [prefix for prefix in found[:width] if prefix.state.stack]
                finished = sorted((prefix.score for prefix in done[row]), reverse=True)[n_best - 1 : n_best]
                # Scores only fall, so what is behind enough finished frames can't overtake them.
                alive += [prefix for prefix in kept if not finished or prefix.score > finished[0]]
            if not alive:
                break
        return [
            [self._hypothesis(p, source) for p in sorted(found, key=lambda p: -p.score)[:n_best]]
            for found, source in zip(done, sources, strict=True)
        ]

    def _continued(self, prefix: Prefix, scores: np.ndarray, edges: Edges, left: int, width: int) -> list[Prefix]:
        """The best continuations of a prefix that can still be finished in ``left`` more tokens."""
        options = np.array(self.grammar.options(prefix.state, edges), dtype=np.int64)
        pieces = edges.lasts[-1] + 1
        found = []
        for token in options[np.argsort(-scores[options], kind="stable")].tolist():
            state = self.grammar.step(prefix.state, token)
            if self.grammar.finishable(state, left, pieces):
                found.append(Prefix(prefix.row, (*prefix.ids, token), state, prefix.score + float(scores[token])))
                if len(found) == width:
                    break
        return found

    def _hypothesis(self, prefix: Prefix, source: Source) -> Hypothesis:
        tokens = self.ids.decode(prefix.ids)
        return Hypothesis(self.form.decode(tokens, source), prefix.score, {"tokens": tokens, "pieces": source.pieces})
