"""Parsing with a language model that writes frames."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from frames.errors import UsageError
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer, Source
from parsers.interface import Hypothesis, check_request
from parsers.layerskip.automaton import Cursor, FrameAutomaton, capacity, nodes_in
from parsers.layerskip.backend import Backend
from parsers.layerskip.decoding import Decoder, LayerSkipDecodingConfig, Written
from parsers.layerskip.spelling import Spelling


def check_exit(exit_layer: int, depth: int) -> None:
    """Whether a model of ``depth`` layers can draft with ``exit_layer`` of them.

    Raises:
        UsageError: the number is no number of layers, or the model has too few.
    """
    if exit_layer < 0:
        raise UsageError(
            "E491",
            f"decoding.exit_layer {exit_layer} is no number of layers.",
            remedy=f"Set it between 1 and {depth - 1}, or to 0 to decode without drafts.",
        )
    if exit_layer and exit_layer >= depth:
        raise UsageError(
            "E486",
            f"decoding.exit_layer {exit_layer} needs a model of more layers than that; this has {depth}.",
            remedy=f"Set decoding.exit_layer between 1 and {depth - 1}, or 0 to decode without drafts.",
        )


class LayerSkipParser:
    """Implements :class:`parsers.interface.Parser`; only what may follow in a frame over the utterance is ever written.

    Args:
        backend: the language model.
        tokenizer: cuts utterances.
        ontology: labels and nesting.
        spelling: how frames are written.
        config: how to decode.
        context: tokens that the language model has positions for.

    Attributes:
        workers: threads that parse groups of utterances side by side, where nothing is drawn at random.

    Raises:
        UsageError: see :func:`check_exit`.
    """

    workers = 1

    def __init__(
        self,
        backend: Backend,
        tokenizer: PieceTokenizer,
        ontology: Ontology,
        spelling: Spelling,
        config: LayerSkipDecodingConfig,
        context: int = 2048,
    ) -> None:
        check_exit(config.exit_layer, backend.depth)
        self.backend, self.tokenizer, self.ontology = backend, tokenizer, ontology
        self.spelling, self.config, self.context = spelling, config, context
        self.automaton = FrameAutomaton(ontology, spelling)
        self.decoder = Decoder(backend, config)

    def parse(self, utterances: Sequence[str], n_best: int = 1) -> list[list[Hypothesis]]:
        """See :class:`parsers.interface.Parser`; further readings branch off where the best one was least sure."""
        sources = self.tokenizer.batch(check_request(utterances, n_best))
        prompts = [self.prompt(source) for source in sources]
        order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        size = self.config.group
        groups = [order[begin : begin + size] for begin in range(0, len(order), size)]

        def work(group: list[int]) -> list[list[Hypothesis]]:
            return self._parse([(sources[i], prompts[i]) for i in group], n_best)

        if self.workers > 1 and len(groups) > 1 and not self.config.temperature:
            with ThreadPoolExecutor(self.workers) as pool:
                results = list(pool.map(work, groups))
        else:
            results = [work(group) for group in groups]
        found = {
            i: best
            for group, several in zip(groups, results, strict=True)
            for i, best in zip(group, several, strict=True)
        }
        return [found[i] for i in range(len(sources))]

    def prompt(self, source: Source) -> list[int]:
        """Tokens before the frame.

        Raises:
            UsageError: the utterance leaves no room for a frame in what the language model can read.
        """
        prompt = [*self.tokenizer.prefix, *source.ids, self.spelling.prompt_end]
        if self._nodes(source, prompt) < 1:
            raise UsageError(
                "E487",
                f"the utterance of {len(source)} pieces leaves no room for a frame in the {self.context} tokens of the model.",
                remedy="Pass one request at a time.",
            )
        return prompt

    def _nodes(self, source: Source, prompt: Sequence[int]) -> int:
        """Intents and slots for which the model has positions."""
        return nodes_in(self.context - len(prompt), source, self.spelling)

    def _parse(self, asked: list[tuple[Source, list[int]]], n_best: int) -> list[list[Hypothesis]]:
        nodes = [self._nodes(source, prompt) for source, prompt in asked]
        cursors = [self.automaton.start(source, count) for (source, _), count in zip(asked, nodes, strict=True)]
        room = max(
            len(prompt) + capacity(source, self.spelling, count)
            for (source, prompt), count in zip(asked, nodes, strict=True)
        )
        written = self.decoder.decode([prompt for _, prompt in asked], cursors, room)
        best = [[self._hypothesis(cursor, tokens)] for cursor, tokens in written]
        if n_best > 1:
            for i, (source, prompt) in enumerate(asked):
                start = self.automaton.start(source, nodes[i])
                best[i] += self._others(start, prompt, written[i][1], room, n_best - 1)
        return best

    def _others(
        self, start: Cursor, prompt: list[int], written: list[Written], room: int, wanted: int
    ) -> list[Hypothesis]:
        """Frames that take another token at one point and go on greedily, the likeliest first."""
        branches = self.decoder.alternatives(prompt, start, [w.token for w in written], room)
        chosen = sorted(branches, key=lambda branch: -branch.log_prob)[: wanted * 2]
        if not chosen:
            return []
        prompts = [prompt] * len(chosen)
        ends = self.decoder.decode(prompts, [b.cursor for b in chosen], room, [b.tokens for b in chosen])
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
