"""LayerSkip: the recipe, the constraint, and decoding that drafts with early layers."""

import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data.synthetic import generate
from frames.errors import UsageError
from frames.linearization import CopyForm, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from parsers.layerskip.automaton import MAX_NODES, FrameAutomaton, capacity, nodes_in, spelled
from parsers.layerskip.decoding import Draft, LayerSkipDecodingConfig
from parsers.layerskip.model import (
    LayerSkip,
    LayerSkipConfig,
    build_language_model,
    label_pieces,
    load_language_model,
    with_lora,
)
from parsers.layerskip.parser import LayerSkipParser
from parsers.layerskip.policy import ExitPolicy
from parsers.layerskip.recipe import RecipeConfig, exit_weights, skip_probabilities
from parsers.layerskip.spelling import Spelling
from parsers.layerskip.torch_backend import TorchBackend

ROWS = generate(train=300, evaluation=20, test=20)["train"]
TOKENIZER = PieceTokenizer.train_sentencepiece([row.utterance for row in ROWS], 300)
ONTOLOGY = Ontology.from_frames([row.frame.decoupled() for row in ROWS])


def spell(text: str) -> list[int]:
    return [ord(character) for character in text]


def small_parser(
    decoding: LayerSkipDecodingConfig, read_both_ways: bool = False, sharp: float = 8.0
) -> LayerSkipParser:
    torch.manual_seed(0)
    config = LayerSkipConfig(width=32, layers=4, heads=2, feed_forward=48, read_both_ways=read_both_ways)
    spelling = Spelling(ONTOLOGY, TOKENIZER.vocab_size)
    model = LayerSkip(
        config, build_language_model(config, TOKENIZER.vocab_size), spelling, label_pieces(spelling, TOKENIZER)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # Wide weights make drafts of early layers that the whole model often refuses.
                parameter.mul_(sharp)
    return LayerSkipParser(TorchBackend(model), TOKENIZER, ONTOLOGY, spelling, decoding)


def test_recipe_layer_dropout_rises_from_nothing_to_its_maximum():
    found = skip_probabilities(RecipeConfig(layer_dropout=0.2), 5, 0.5)
    assert found[0] == 0
    assert found[-1] == pytest.approx(0.2)
    assert found == sorted(found)
    assert skip_probabilities(RecipeConfig(dropout_until=0.5), 5, 0.5) == [0] * 5


@pytest.mark.parametrize("curriculum", ["rotational", "gradual", "all"])
def test_recipe_exit_weights_are_together_one(curriculum):
    for step in range(7):
        assert sum(exit_weights(RecipeConfig(curriculum=curriculum), 6, step / 7, step)) == pytest.approx(1)


def test_recipe_of_a_single_layer_has_no_exits():
    assert exit_weights(RecipeConfig(), 1, 0.5, 3) == [1.0]


def test_recipe_exit_weights_are_those_of_the_paper():
    # e(l) = sum of 0..l for l < 3, e(3) = 3 + sum of 0..2, of four layers with e_scale 1.
    assert exit_weights(RecipeConfig(curriculum="all"), 4, 0.5, 0) == pytest.approx([0, 1 / 10, 3 / 10, 6 / 10])
    assert exit_weights(RecipeConfig(curriculum="all", exit_scale=0), 4, 0.5, 0) == pytest.approx([0, 0, 0, 1])
    assert exit_weights(RecipeConfig(curriculum="all", exit_fade=0.5), 4, 1.0, 0) == pytest.approx([0, 0, 0, 1])


@pytest.mark.parametrize("style", ["labels", "json"])
def test_automaton_reads_back_every_frame(style):
    spelling = Spelling(ONTOLOGY, 10_000, style, spell)
    automaton, ids, form = FrameAutomaton(ONTOLOGY, spelling), TargetIds(ONTOLOGY), CopyForm()
    for row in ROWS[:60]:
        frame, source = row.frame.decoupled(), TOKENIZER(row.utterance)
        symbols = ids.encode(form.encode(frame, source))
        assert form.decode(ids.decode(symbols), source) == frame
        cursor = automaton.start(source)
        for token in spelled(symbols, source, spelling):
            cursor = cursor.step(token)
        assert cursor.done
        assert cursor.frame() == frame


def test_automaton_tells_repeated_words_apart():
    from frames.frame import Frame

    utterance = "show me who sent me messages"
    label, slot = next((i, s) for i, slots in ONTOLOGY.intent_slots.items() for s in slots if ONTOLOGY.slot_spans[s])
    source = TOKENIZER(utterance)
    spelling, ids = Spelling(ONTOLOGY, TOKENIZER.vocab_size), TargetIds(ONTOLOGY)
    found = set()
    for start in (5, 17):
        frame = Frame.from_dict(
            {"utterance": utterance, "frame": {"intent": label, "children": [
                {"slot": slot, "children": [{"start": start, "end": start + 2}]}]}}
        )  # fmt: skip
        tokens = spelled(ids.encode(CopyForm().encode(frame, source)), source, spelling)
        cursor = FrameAutomaton(ONTOLOGY, spelling).start(source)
        for token in tokens:
            cursor = cursor.step(token)
        assert cursor.frame() == frame
        found.add(tuple(tokens))
    assert len(found) == 2


WAYS = {
    "paper": {"exit_layer": 1, "skip_forced": False, "score_candidates": False, "copies": 0},
    "forced": {"exit_layer": 1, "score_candidates": False, "copies": 0},
    "candidates": {"exit_layer": 2, "skip_forced": False, "copies": 0},
    "copies": {"exit_layer": 1, "skip_forced": False, "score_candidates": False, "copies": 4},
    "all": {"exit_layer": 2, "drafts": 3},
    "adaptive": {"exit_layer": 1, "adaptive": True, "group": 4},
    "no drafts": {"exit_layer": 0, "copies": 4},
    "one by one": {"exit_layer": 2, "group": 1},
}


@pytest.mark.parametrize("read_both_ways", [False, True])
def test_decoding_with_drafts_writes_what_the_whole_model_writes(read_both_ways):
    utterances = [row.utterance for row in ROWS[:24]]
    plain = LayerSkipDecodingConfig(exit_layer=0, skip_forced=False, score_candidates=False, copies=0)
    greedy = small_parser(plain, read_both_ways)
    wanted = [hypotheses[0].frame for hypotheses in greedy.parse(utterances)]
    for name, options in WAYS.items():
        parser = small_parser(LayerSkipDecodingConfig(**options), read_both_ways)
        assert [hypotheses[0].frame for hypotheses in parser.parse(utterances)] == wanted, name
        assert (
            parser.decoder.counts.calls < greedy.decoder.counts.calls or "group" in options
        )  # smaller groups call more often


def test_decoding_refuses_some_drafts():
    parser = small_parser(LayerSkipDecodingConfig(exit_layer=1, copies=0))
    parser.parse([row.utterance for row in ROWS[:24]])
    assert 0 < parser.decoder.counts.accepted < parser.decoder.counts.drafted


@pytest.mark.parametrize("guessed", [False, True], ids=["drafted", "copied"])
def test_sampling_keeps_the_distribution_of_the_whole_model(guessed):
    """20,000 draws: a frequency's standard error is below 0.0036, and six of them are allowed."""
    decoder = small_parser(LayerSkipDecodingConfig(exit_layer=1, temperature=1.0)).decoder
    options, wanted = (3, 5, 8, 9), np.array([0.5, 0.3, 0.15, 0.05])
    drafting = np.array([0.05, 0.15, 0.2, 0.6])
    cursor = FrameAutomaton(ONTOLOGY, Spelling(ONTOLOGY, 10)).start(TOKENIZER("wake me"))
    rng = np.random.default_rng(0)
    counts: Counter[int] = Counter()
    for _ in range(20_000):
        token = 8 if guessed else int(rng.choice(options, p=drafting))
        draft = Draft(token, "drafted", cursor, None if guessed else drafting)
        counts[decoder._verified((options, np.log(wanted)), draft)[0]] += 1
    frequencies = np.array([counts[token] for token in options]) / 20_000
    assert np.abs(frequencies - wanted).max() < 6 * 0.0036


def test_a_sampled_token_has_its_own_probability():
    decoder = small_parser(LayerSkipDecodingConfig(exit_layer=1, verify=False, temperature=0.5)).decoder
    cursor = FrameAutomaton(ONTOLOGY, Spelling(ONTOLOGY, 10)).start(TOKENIZER("wake me"))
    options, logits = (*cursor.options[:2],), np.log([0.5, 0.25])
    drawn = {draft.token: draft.log_prob for draft in (decoder._chosen((options, logits), cursor) for _ in range(60))}
    # Half the temperature squares the odds.
    assert drawn == pytest.approx({options[0]: np.log(0.8), options[1]: np.log(0.2)})


def test_policy_prefers_the_exit_that_pays():
    policy = ExitPolicy((1, 4, 8), 8, 4)
    for _ in range(40):
        layer = policy.choose()
        policy.observe(layer, 10, 10, {1: 9, 4: 2}[layer])
    chosen = Counter(policy.choose() for _ in range(20))
    assert chosen.most_common(1)[0][0] == 4


def test_parser_refuses_what_it_cannot_decode():
    with pytest.raises(UsageError, match="E486"):
        small_parser(LayerSkipDecodingConfig(exit_layer=4))
    with pytest.raises(UsageError, match="E491"):
        small_parser(LayerSkipDecodingConfig(exit_layer=-1))
    parser = small_parser(LayerSkipDecodingConfig())
    parser.context = 18
    with pytest.raises(UsageError, match="E487"):
        parser.parse(["wake me at 6 in the morning"])
    with pytest.raises(UsageError, match="E453"):
        parser.parse("wake me at 6")
    with pytest.raises(ValueError, match="give exit_layer"):
        LayerSkipDecodingConfig(verify=False)


@pytest.mark.parametrize("style", ["labels", "json"])
def test_a_short_context_bounds_the_frame_in_place_of_refusing_it(style):
    """A greedy choice of the longest way never leaves the room that was kept."""
    spelling = Spelling(ONTOLOGY, 10_000, style, spell)
    labels = [symbol for symbol in range(spelling.size) if symbol != spelling.close]
    ends = {spelling.end(symbol, text)[0] for symbol in labels for text in (False, True)}
    source = TOKENIZER(ROWS[0].utterance)
    for room in (spelling.longest_node * 2 + 2 * len(source), spelling.longest_node * 6 + 2 * len(source), 5_000):
        nodes = nodes_in(room, source, spelling)
        assert 1 <= nodes <= MAX_NODES
        assert capacity(source, spelling, nodes) <= room
        for seed in range(8):
            rng = np.random.default_rng(seed)
            cursor, tokens = FrameAutomaton(ONTOLOGY, spelling).start(source, nodes), 0
            while not cursor.done:
                # Labels before the end of a node, as long as any may follow.
                options = [token for token in cursor.options if token not in ends]
                cursor = cursor.step(int(rng.choice(options or cursor.options)))
                tokens += 1
            assert tokens <= room
    assert nodes_in(2 * len(source), source, spelling) < 1


def test_labels_that_the_pieces_cannot_spell_are_refused():
    # The pieces were learned from utterances, where no brace stands.
    with pytest.raises(UsageError, match="E480"):
        Spelling.of(ONTOLOGY, TOKENIZER, "json")
    assert Spelling.of(ONTOLOGY, TOKENIZER, "labels").longest_node == 2


@pytest.mark.parametrize("rest", [b"", bytes(20), struct.pack("<IQQ", 3, 272, 30)])
def test_a_language_model_that_is_cut_short_is_refused(tmp_path, rest):
    path = tmp_path / "cut.gguf"
    path.write_bytes(b"GGUF" + rest)
    with pytest.raises(UsageError, match="E481"):
        load_language_model(str(path))
    with pytest.raises(UsageError, match="E424"):
        load_language_model(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("package", "code"), [("gguf", "E482"), ("peft", "E490")])
def test_a_package_of_the_extra_that_is_not_installed_is_named(tmp_path, monkeypatch, package, code):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(20))

    def missing(*args, **kwargs):
        raise ImportError(f"{package} is required")

    if package == "gguf":
        # How transformers answers where gguf is not installed.
        monkeypatch.setattr("parsers.layerskip.model.load_pretrained", missing)
    else:
        monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=code):
        if package == "gguf":
            load_language_model(str(path))
        else:
            with_lora(build_language_model(LayerSkipConfig(width=32, layers=2, heads=2, feed_forward=48), 100), 2)


def test_early_layers_alone_give_answers_and_scores_of_their_own():
    parser = small_parser(LayerSkipDecodingConfig(exit_layer=2, verify=False, adaptive=True))
    utterance = ROWS[0].utterance
    fixed = small_parser(LayerSkipDecodingConfig(exit_layer=2, verify=False)).parse([utterance], n_best=2)
    for _ in range(12):
        # What was parsed before must not move the exit, which decides the answer here.
        assert parser.parse([utterance], n_best=2) == fixed
    parser.decoder.config.verify = True
    (several,) = parser.parse([utterance], n_best=2)
    assert several[1].score != fixed[0][1].score


def test_models_that_multiply_in_between_are_refused(tmp_path: Path):
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 100,
    }
    config = AutoConfig.for_model("granite", **sizes, num_key_value_heads=2, logits_scaling=8.0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="E483.*Granite"):
        load_language_model(str(tmp_path))


def test_sizes_that_cannot_be_rotated_are_refused():
    with pytest.raises(ValueError, match="twice the heads"):
        LayerSkipConfig(width=100, heads=4)


def test_n_best_begins_with_the_best():
    parser = small_parser(LayerSkipDecodingConfig(exit_layer=2))
    utterances = [row.utterance for row in ROWS[:4]]
    best, several = parser.parse(utterances), parser.parse(utterances, n_best=3)
    assert [h[0].frame for h in best] == [h[0].frame for h in several]
    assert any(len(h) == 3 for h in several)
    assert all(np.isfinite(x.score) for h in several for x in h)
