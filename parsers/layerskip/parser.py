"""Parsing with a language model that writes frames."""

from __future__ import annotations

from collections.abc import Sequence

from frames.errors import UsageError
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer, Source
from parsers.interface import Hypothesis
from parsers.layerskip.automaton import Cursor, FrameAutomaton, capacity
from parsers.layerskip.backend import Backend
from parsers.layerskip.decoding import Decoder, LayerSkipDecodingConfig, Written
from parsers.layerskip.spelling import Spelling


class LayerSkipParser:
    """Implements :class:`parsers.interface.Parser`; only what may follow in a frame over the utterance is ever written.

    Args:
        backend: the language model.
        tokenizer: cuts utterances.
        ontology: labels and nesting.
        spelling: how frames are written.
        config: how to decode.
        context: tokens that the language model has positions for.

    Raises:
        UsageError: the model has too few layers for the exit.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: PieceTokenizer,
        ontology: Ontology,
        spelling: Spelling,
        config: LayerSkipDecodingConfig,
        context: int = 2048,
    ) -> None:
        if config.exit_layer and config.exit_layer >= backend.depth:
            raise UsageError(
                "E486",
                f"decoding.exit_layer {config.exit_layer} needs a model of more layers than that; this has {backend.depth}.",
                remedy=f"Set decoding.exit_layer between 1 and {backend.depth - 1}, or 0 to decode without drafts.",
            )
        self.backend, self.tokenizer, self.ontology = backend, tokenizer, ontology
        self.spelling, self.config, self.context = spelling, config, context
        self.automaton = FrameAutomaton(ontology, spelling)
        self.decoder = Decoder(backend, config)

    def parse(self, utterances: Sequence[str], n_best: int = 1) -> list[list[Hypothesis]]:
        """See :class:`parsers.interface.Parser`; further readings branch off where the best one was least sure."""
        sources = self.tokenizer.batch(list(utterances))
        prompts = [self.prompt(source) for source in sources]
        order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        found: list[list[Hypothesis]] = [[] for _ in sources]
        for begin in range(0, len(order), self.config.group):
            group = order[begin : begin + self.config.group]
            for i, hypotheses in zip(
                group, self._parse([(sources[i], prompts[i]) for i in group], n_best), strict=True
            ):
                found[i] = hypotheses
        return found

    def prompt(self, source: Source) -> list[int]:
        """Tokens before the frame.

        Raises:
            UsageError: utterance and frame are longer than the language model can read.
        """
        prompt = [*self.tokenizer.prefix, *source.ids, self.spelling.prompt_end]
        if len(prompt) + capacity(source, self.spelling) > self.context:
            raise UsageError(
                "E487",
                f"the utterance of {len(source)} pieces and its frame may exceed the {self.context} tokens of the model.",
                remedy="Pass one request at a time.",
            )
        return prompt

    def _parse(self, asked: list[tuple[Source, list[int]]], n_best: int) -> list[list[Hypothesis]]:
        cursors = [self.automaton.start(source) for source, _ in asked]
        room = max(len(prompt) + capacity(source, self.spelling) for source, prompt in asked)
        written = self.decoder.decode([prompt for _, prompt in asked], cursors, room)
        best = [[self._hypothesis(cursor, tokens)] for cursor, tokens in written]
        if n_best > 1:
            for i, (source, prompt) in enumerate(asked):
                best[i] += self._others(source, prompt, written[i][1], room, n_best - 1)
        return best

    def _others(
        self, source: Source, prompt: list[int], written: list[Written], room: int, wanted: int
    ) -> list[Hypothesis]:
        """Frames that take another token at one point and go on greedily, the likeliest first."""
        branches = self.decoder.alternatives(prompt, self.automaton.start(source), [w.token for w in written], room)
        chosen = sorted(branches, key=lambda branch: -branch.log_prob)[: wanted * 2]
        if not chosen:
            return []
        ends = self.decoder.decode([[*prompt, *b.tokens] for b in chosen], [b.cursor for b in chosen], room)
        found: dict[str, Hypothesis] = {}
        for branch, (cursor, rest) in zip(chosen, ends, strict=True):
            hypothesis = self._hypothesis(cursor, rest, branch.log_prob)
            found.setdefault(str(hypothesis.frame), hypothesis)
        return sorted(found.values(), key=lambda hypothesis: -hypothesis.score)[:wanted]

    def _hypothesis(self, cursor: Cursor, written: Sequence[Written], before: float = 0.0) -> Hypothesis:
        tokens = [
            {"token": self.name(w.token), "origin": w.origin, "log_prob": round(w.log_prob, 6)}
            | ({} if w.refused is None else {"refused": self.name(w.refused)})
            for w in written
        ]
        return Hypothesis(cursor.frame(), before + sum(w.log_prob for w in written), {"tokens": tokens})

    def name(self, token: int) -> str:
        """A token as people read it."""
        spelling = self.spelling
        if token < spelling.vocabulary:
            return self.tokenizer.backend.decode([token])
        if token < spelling.pass_over:
            label = self.ontology.tokens[token - spelling.vocabulary]
            return label if label == "]" else f"[{label}"
        return "<pass over>" if token == spelling.pass_over else "<frame>"
