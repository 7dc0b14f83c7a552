"""LayerSkip: sampling in distribution, batches, ends of frames, fast layers, colours, and the round trip over TOPv2."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from assistants import runtime
from benchmarks import layerskip as benchmark
from benchmarks.layerskip_exits import named
from benchmarks.layerskip_models import language_model
from benchmarks.layerskip_round_trip import RoundTrip
from data.topv2.reader import Example
from frames.nodes import Intent, Slot
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from parsers.layerskip import trace
from parsers.layerskip.cache import RowCache
from parsers.layerskip.decoding import Decoder, LayerSkipDecodingConfig
from parsers.layerskip.layer import few_product
from parsers.layerskip.parser import LayerSkipParser
from parsers.layerskip.policy import MAX_DRAFTS, ExitPolicy, worth_drafting
from scripts.cli import main
from tests.test_layerskip import ROWS, small_parser

UTTERANCE = ROWS[0].utterance
DRAWS = 1500


def frequencies(parser: LayerSkipParser) -> Counter[tuple[int, ...]]:
    """How often a frame begins with each pair of tokens."""
    source = parser.tokenizer(UTTERANCE)
    prompt, room = parser.prompt(source), 200
    cursors = [parser.automaton.start(source)] * DRAWS
    return Counter(
        tuple(w.token for w in written[:2]) for _, written in parser.decoder.decode([prompt] * DRAWS, cursors, room)
    )


def probabilities(parser: LayerSkipParser) -> dict[tuple[int, ...], float]:
    """The same under the whole model, computed."""
    source = parser.tokenizer(UTTERANCE)
    prompt, start = parser.prompt(source), parser.automaton.start(source)

    def following(tokens: list[int]) -> dict[int, float]:
        cursor = start
        for token in tokens:
            cursor = cursor.step(token)
        ids = np.array([[*prompt, *tokens]])
        memory = parser.backend.begin([prompt], 200)
        states = parser.backend.draft(memory, np.array([0]), ids, np.arange(ids.shape[1])[None], parser.backend.depth)
        (scores,) = parser.backend.scores(states, np.array([[0, ids.shape[1] - 1]]), [np.array(cursor.options)])
        raised = np.exp(scores - scores.max())
        return dict(zip(cursor.options, raised / raised.sum(), strict=True))

    return {(a, b): p * q for a, p in following([]).items() for b, q in following([a]).items()}


def excess(found: Counter[tuple[int, ...]], wanted: dict[tuple[int, ...], float]) -> float:
    """Pearson's chi-square in standard deviations above its mean; pairs expected less than 5 times are one class."""
    assert set(found) <= set(wanted)
    often = [pair for pair, p in wanted.items() if p * DRAWS >= 5]
    seen = np.array([found[pair] for pair in often] + [DRAWS - sum(found[pair] for pair in often)], dtype=float)
    shares = [wanted[pair] for pair in often]
    expected = np.array([*shares, max(1 - sum(shares), 1e-9)]) * DRAWS
    assert len(often) >= 5
    freedom = len(often)
    return (float(((seen - expected) ** 2 / np.maximum(expected, 1)).sum()) - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("copies", [0, 3])
def test_sampling_with_drafts_is_exact_in_distribution(copies, monkeypatch):
    config = LayerSkipDecodingConfig(exit_layer=1, drafts=3, copies=copies, temperature=1.0, skip_forced=False)
    parser = small_parser(config, sharp=12.0)
    wanted = probabilities(parser)
    assert excess(frequencies(parser), wanted) < 5
    assert 0 < parser.decoder.counts.accepted < parser.decoder.counts.drafted
    # The test can fail: drafts that stand as they are have the early layers' distribution.
    verified = Decoder._verified
    monkeypatch.setattr(
        Decoder, "_verified", lambda self, scored, draft: (draft.token, 0.0) if draft else verified(self, scored, draft)
    )
    assert excess(frequencies(parser), wanted) > 10


@pytest.mark.parametrize("exit_layer", [0, 2])
def test_batches_write_what_single_utterances_have(exit_layer):
    utterances = [row.utterance for row in ROWS[:12]]
    config = LayerSkipDecodingConfig(exit_layer=exit_layer, drafts=4, group=12)
    together = small_parser(config).parse(utterances)
    alone = small_parser(config)
    for utterance, (hypothesis,) in zip(utterances, together, strict=True):
        ((single,),) = alone.parse([utterance])
        assert single.frame == hypothesis.frame
        assert [t["token"] for t in single.trace["tokens"]] == [t["token"] for t in hypothesis.trace["tokens"]]
        assert single.score == pytest.approx(hypothesis.score, abs=1e-3)


def test_decoding_stops_at_the_end_of_each_frame():
    parser = small_parser(LayerSkipDecodingConfig(exit_layer=1, drafts=12, skip_forced=False, copies=4, group=12))
    for (hypothesis,) in parser.parse([row.utterance for row in ROWS[:12]]):
        tokens = [token["token"] for token in hypothesis.trace["tokens"]]
        opened = [
            sum(1 if t.startswith("[") else -1 if t == "]" else 0 for t in tokens[:n])
            for n in range(1, len(tokens) + 1)
        ]
        assert opened[-1] == 0
        assert all(level > 0 for level in opened[:-1])


@pytest.mark.parametrize("tokens", [1, 2, 7, 30])
@pytest.mark.parametrize("outputs", [64, 1024, 1100])
def test_products_in_blocks_are_the_usual_products(tokens, outputs):
    torch.manual_seed(0)
    states, weight = torch.randn(1, tokens, 48), torch.randn(outputs, 48)
    torch.testing.assert_close(few_product(states, weight), states @ weight.T)


@pytest.mark.parametrize("tokens", [1, 5])
def test_layers_run_directly_give_the_states_of_transformers(tokens):
    net = small_parser(LayerSkipDecodingConfig(), sharp=2.0).backend.model
    assert net._plain
    torch.manual_seed(0)
    hidden, positions = torch.randn(2, tokens, 32), torch.arange(tokens).expand(2, -1)
    found = []
    with torch.inference_mode():
        for plain in (True, False):
            net._plain = plain
            cache = RowCache(net.depth, 2, 8, *net.cache_shape, torch.device("cpu"), torch.float32)
            cache.select(None, positions, tokens)
            mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None].expand(2, -1, -1, -1)
            found.append(net.run(hidden, positions, 0, net.depth, mask, cache))
    torch.testing.assert_close(*found)


def test_policy_seldom_tries_exits_that_do_not_pay():
    policy = ExitPolicy(range(1, 31), 30, 8)
    assert policy.choose() == 8
    chosen = []
    for _ in range(64):
        layer = policy.choose()
        chosen.append(layer)
        policy.observe(layer, 10, 10, 2 if layer >= 8 else 8)
    assert Counter(chosen).most_common(1)[0][0] == 8
    assert len(set(chosen)) > 1


def test_drafting_stops_where_early_layers_are_unsure():
    assert worth_drafting([])
    assert worth_drafting([0.9, 0.8])
    assert not worth_drafting([0.9, 0.8, 0.8])
    assert not worth_drafting([1.0] * MAX_DRAFTS)


def test_traces_are_drawn_by_origin():
    parser = small_parser(LayerSkipDecodingConfig(exit_layer=1, drafts=3))
    ((hypothesis,),) = parser.parse([UTTERANCE])
    assert trace.has_origins(hypothesis.trace)
    assert not trace.has_origins({"tokens": ["[IN:A", "]"]})
    tokens = hypothesis.trace["tokens"]
    lines = [line.plain for line in trace.lines(hypothesis.trace)]
    assert [line.split("\t")[0].strip() for line in lines] == [token["origin"] for token in tokens]
    refused = [{"token": "<b>", "origin": "corrected", "refused": "a&b", "log_prob": -0.5}]
    drawn = trace.html({"tokens": refused})
    assert "&lt;b&gt;" in drawn
    assert "<del" in drawn
    assert "a&amp;b" in drawn
    assert "<b>" not in drawn


def test_trace_of_the_command_line(bundle: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["parse", "--bundle", str(bundle), "wake me at 6", "--trace"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "wake me at 6"
    assert shown[1].startswith("{")
    assert shown[2].startswith("[IN:")


def test_names_of_checkpoints():
    assert named("none=runs/a/best.ckpt") == ("none", Path("runs/a/best.ckpt"))
    assert named("runs/a/best.ckpt") == ("a", Path("runs/a/best.ckpt"))


def test_benchmark_measures_every_way(repository: Path):
    bundle = repository / "models" / "layerskip-topv2"
    module, _ = language_model(bundle)
    utterances = ["rain today", "snow tonight"]
    for size in (1, 2):
        found = benchmark.timed(module, benchmark.ways(3, 3, 3), utterances, size, 3, 3)
        theirs = benchmark.TRANSFORMERS if size == 1 else ["greedy"]
        assert set(found) == {*benchmark.ways(3, 3, 3), *(f"transformers {name}" for name in theirs)}
        assert all(way.utterances == 2 and way.seconds > 0 for way in found.values())
        assert len({way.tokens for way in found.values()}) == 1
        assert found["all"].figures()["tokens_per_call"] > found["greedy"].figures()["tokens_per_call"]


def test_the_weights_of_a_bundle_give_its_frames_in_torch(repository: Path):
    bundle = repository / "models" / "layerskip-topv2"
    module, training = language_model(bundle)
    utterances = [row.utterance for row in ROWS[:8]]
    theirs, ours = runtime.load(bundle, threads=1).parse(utterances), module.parser().parse(utterances)
    assert [found[0].frame for found in ours] == [found[0].frame for found in theirs]
    assert training["model"]["layers"] == module.net.depth
    with pytest.raises(SystemExit, match="another kind"):
        language_model(repository / "models" / "conv-nar-topv2")


def test_round_trip_over_official_rows(official_rows: dict[str, list[Example]], repository: Path):
    """All rows whose slots hold an intent and a span, and one in 150 of all rows and of those that repeat a word."""
    folder = repository / "models" / "conv-nar-topv2"
    tokenizer = PieceTokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ontology = Ontology.from_dict(json.loads((folder / "ontology.json").read_text(encoding="utf-8")))
    for split, mixed in (("train", 3), ("eval", 0)):
        rows = official_rows[split]
        held = [row for row in rows if any(_is_mixed(node) for node, *_ in row.frame.decoupled().nodes())]
        repeating = [row for row in rows if len(set(words := row.utterance.split())) < len(words)]
        some = [*held, *rows[::150], *repeating[::150]]
        # A few eval rows have labels that training lacks.
        trip = RoundTrip(tokenizer, ontology.merged(Ontology.from_frames([row.frame.decoupled() for row in some])))
        found = trip.counts(some)
        assert found["copy_form_exact"] == found["automaton_exact"] == len(some)
        assert found["parser_cannot_write"] == mixed
        assert found["outside_ontology"] == 0


def _is_mixed(node: object) -> bool:
    kinds = {isinstance(child, Intent) for child in node.children} if isinstance(node, Slot) else set()
    return len(kinds) == 2
