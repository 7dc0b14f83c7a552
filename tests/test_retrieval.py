import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from data.topv2.reader import read_split
from frames.errors import BundleError, FrameError, UsageError
from frames.frame import Frame
from frames.linearization import SpanForm
from frames.tokenization import PieceTokenizer
from retrieval.bank import ScenarioBank
from retrieval.glosses import Glosses
from retrieval.index import KINDS, ScenarioIndex
from retrieval.scenario import STYLES, Scenario
from retrieval.scoring import pool, retrieval_nll
from retrieval.table import ScenarioTable
from tests.strategies import frames

TOKENIZER = PieceTokenizer.train_sentencepiece(["a b c 0 1 9 abc 019"], 20)
NESTED = "[IN:A_B x [SL:C_D one [IN:E [SL:F two ] ] three ] [SL:G ] y ]"


def test_a_scenario_is_the_frame_without_its_words():
    scenario = Scenario.from_frame(Frame.parse(NESTED))
    assert str(scenario) == "[IN:A_B [SL:C_D * [IN:E [SL:F * ] ] * ] [SL:G ] ]"
    assert scenario.leaves == 3
    assert Scenario.parse(str(scenario)) == scenario


def test_people_write_slots_without_stars():
    assert str(Scenario.parse("[IN:A [SL:B ] [SL:C [IN:D ] ] ]")) == "[IN:A [SL:B * ] [SL:C [IN:D ] ] ]"
    with pytest.raises(FrameError, match="never closed"):
        Scenario.parse("[IN:A [SL:B ]")


@settings(deadline=None)
@given(frames())
def test_filling_gives_the_frame_back(frame: Frame):
    decoupled = frame.decoupled()
    scenario = Scenario.from_frame(frame)
    assert Scenario.parse(str(scenario)) == scenario or scenario.leaves == 0
    source = TOKENIZER(frame.utterance)
    tokens = SpanForm().encode(decoupled, source)
    pointers = [token for token in tokens if isinstance(token, int)]
    filled = scenario.fill(list(zip(pointers[::2], pointers[1::2], strict=True)))
    assert filled == tokens
    assert SpanForm().decode(filled, source) == decoupled
    with pytest.raises(FrameError, match="E140"):
        scenario.fill([(0, 0)] * (scenario.leaves + 1))


def test_glosses_name_labels_and_say_where_each_leaf_stands():
    scenario = Scenario.from_frame(Frame.parse(NESTED))
    texts = {style: scenario.gloss(style).text for style in STYLES}
    assert texts == {
        "intrinsic": "[ intent | a b [ slot | c d text [ intent | e [ slot | f ] ] text ] [ slot | g ] ]",
        "names": "[ a b [ c d text [ e [ f ] ] text ] [ g ] ]",
        "labels": "[IN:A_B [SL:C_D text [IN:E [SL:F ] ] text ] [SL:G ] ]",
    }
    for style, text in texts.items():
        words = [text[place:].split()[0] for place in scenario.gloss(style).leaves]
        assert words == ["text", "[SL:F" if style == "labels" else "f", "text"]
    with pytest.raises(ValueError, match="intrinsic"):
        scenario.gloss("long")


def test_bank_counts_and_changes(corpus: Path, tmp_path: Path):
    rows = read_split(corpus, "train")
    bank = ScenarioBank.from_frames([row.frame for row in rows])
    assert sum(bank.count(scenario) for scenario in bank) == len(rows)
    assert [bank.id(scenario) for scenario in bank] == list(range(len(bank)))
    assert all(Scenario.from_frame(row.frame) in bank for row in rows)
    new = Scenario.parse("[IN:BREW_COFFEE [SL:AMOUNT ] ]")
    more = bank.added([new, bank[0]])
    assert (len(more), more.count(new), more.id(new)) == (len(bank) + 1, 0, len(bank))
    assert bank.num_seen == more.num_seen == len(bank) and ScenarioBank({}).num_seen == 0
    assert more.merged(ScenarioBank({new: 1})).num_seen == len(more)
    assert more.digest != bank.digest == more.removed(new).digest
    with pytest.raises(UsageError, match="E440"):
        bank.removed(new)
    both = bank.merged(more)
    assert both.digest == more.digest and both.count(bank[0]) == 2 * bank.count(bank[0])
    more.save(tmp_path / "bank.json")
    again = ScenarioBank.from_dict(json.loads((tmp_path / "bank.json").read_text()))
    assert again.digest == more.digest and again.count(again[0]) == more.count(more[0])


def test_the_last_scenario_stays():
    bank = ScenarioBank({Scenario.parse("[IN:A ]"): 1, Scenario.parse("[IN:B ]"): 1})
    one = bank.removed(bank[0])
    with pytest.raises(UsageError, match="E348.*IN:B"):
        one.removed(one[0])


def test_words_under_an_intent_are_no_part_of_a_scenario():
    written = Scenario.parse("[IN:CREATE_ALARM set an alarm [SL:DATE_TIME at 6 ] ]")
    assert written == Scenario.parse("[IN:CREATE_ALARM [SL:DATE_TIME ] ]")
    assert Scenario.parse("[IN:CREATE_ALARM please [SL:DATE_TIME ] ]") == written


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"version": 9}, "E340"),
        ({"version": 1, "scenarios": {"[IN:A": 1}}, "E341"),
        ({"version": 1, "scenarios": ["[IN:A ]"]}, "E341"),
        ({"version": 1, "scenarios": {}}, "E341"),
    ],
)
def test_damaged_banks_are_refused(content: dict, code: str):
    with pytest.raises(BundleError, match=rf"{code}.*bank\.json"):
        ScenarioBank.from_dict(content, "bank.json")


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_finds_the_nearest_and_is_never_stale(kind: str):
    vectors = np.random.default_rng(0).normal(size=(900, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = ScenarioIndex.build(vectors, "encoder", "bank", kind)
    scores, places = index.search(vectors[:200], 3)
    assert scores.shape == places.shape == (200, 3)
    assert (places[:, 0] == np.arange(200)).mean() >= (1.0 if kind == "flat" else 0.8)
    assert (np.diff(scores, axis=1) <= 0).all()
    again = ScenarioIndex.from_bytes(index.to_bytes(), index.to_dict(), "bank")
    assert (again.search(vectors[:50], 3)[1] == index.search(vectors[:50], 3)[1]).all()
    with pytest.raises(BundleError, match="E343.*there.*bank"):
        ScenarioIndex.from_bytes(index.to_bytes(), index.to_dict(), "another", "there")


@pytest.mark.parametrize("kind", KINDS)
def test_scenarios_are_added_to_an_index_and_removed(kind: str):
    vectors = np.random.default_rng(1).normal(size=(300, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = ScenarioIndex.build(vectors[:250], "encoder", "bank", kind)
    more = index.added(vectors[250:], "larger")
    assert len(more) == 300
    if kind in ("hnsw", "ivfpq"):
        with pytest.raises(UsageError, match=f"E442.*{kind}"):
            more.removed(10, "other")
        return
    more = more.removed(10, "other")
    kept = np.delete(np.arange(300), 10)
    assert (more.search(vectors[kept], 1)[1][:, 0] == np.arange(299)).all()
    assert len(index) == 250, "the index that was there before changed"


def test_a_small_bank_gives_what_it_has():
    index = ScenarioIndex.build(np.eye(3, dtype=np.float32), "e", "b")
    assert index.search(np.eye(3, dtype=np.float32), 10)[1].shape == (3, 3)
    with pytest.raises(ValueError, match="ivfpq"):
        ScenarioIndex.build(np.eye(3, dtype=np.float32), "e", "b", "tree")


def test_a_product_quantizer_needs_some_scenarios():
    vectors = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    assert len(ScenarioIndex.build(vectors, "e", "b", "ivfpq")) == 16
    with pytest.raises(UsageError, match="E347.* 15 scenarios.* 16 "):
        ScenarioIndex.build(vectors[:15], "e", "b", "ivfpq")


def test_pooling_leaves_padding_out():
    states = torch.tensor([[[1.0], [3.0], [100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert pool(states, mask).item() == 2.0
    assert pool(states[:, :2], None).item() == 2.0


def test_the_gold_scenario_is_told_from_the_others():
    queries, keys, scale = torch.eye(3)[:2], torch.eye(3), 5.0
    right, wrong = (retrieval_nll(queries, keys, torch.tensor(gold), scale) for gold in ([0, 1], [1, 0]))
    assert torch.allclose(wrong - right, torch.full((2,), scale))
    probabilities = torch.softmax(scale * queries @ keys.T, dim=1)
    assert torch.allclose(right, -probabilities[[0, 1], [0, 1]].log())
    smoothed = retrieval_nll(queries, keys, torch.tensor([0, 1]), scale, 0.1)
    assert torch.allclose(smoothed, 0.9 * right - 0.1 * probabilities.log().mean(dim=1))


def test_glosses_are_cut_with_their_leaves():
    bank = ScenarioBank({Scenario.parse("[IN:A_B [SL:C ] [SL:D ] ]"): 2, Scenario.parse("[IN:A_B ]"): 1})
    tokenizer = PieceTokenizer.train_sentencepiece(["[ intent | a b slot c d ]"] * 5, 40)
    glosses = Glosses(bank, tokenizer, "intrinsic")
    assert glosses.leaf_counts.tolist() == [2, 0]
    batch = glosses.batch(np.array([1, 0]))
    assert batch.leaf_mask.tolist() == [[False, False], [True, True]]
    source = tokenizer(bank[0].gloss().text)
    assert [source.pieces[piece] for piece in batch.leaves[1]] == ["c", "d"]
    assert batch.mask.sum(axis=1).tolist()[1] == len(source)
    ((ids, together),) = glosses.groups(np.array([0, 1]), 2 * len(source))
    assert ids.tolist() == [1, 0] and (together.pieces == batch.pieces).all()
    apart = list(glosses.groups(np.array([0, 1]), len(source)))
    assert [group.tolist() for group, _ in apart] == [[1], [0]]
    assert (apart[0][1].pieces == glosses.batch(np.array([1])).pieces).all()


def test_table_finds_the_leaves_of_each_scenario_also_after_a_removal():
    bank = ScenarioBank({Scenario.parse(f"[IN:A {'[SL:B ] ' * leaves}]"): 1 for leaves in (2, 0, 3, 1)})
    vectors = np.eye(4, dtype=np.float32)
    leaves = np.array([[10], [11], [30], [31], [32], [40]], dtype=np.float32)
    table = ScenarioTable(bank, ScenarioIndex.build(vectors, "encoder", bank.digest), 1.0, leaves)
    states, mask = table.leaf_states(np.array([2, 1, 0]))
    assert mask.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert states[mask][:, 0].tolist() == [30, 31, 32, 10, 11]
    fewer = table.removed(bank[0])
    states, mask = fewer.leaf_states(np.array([1, 2]))
    assert states[mask][:, 0].tolist() == [30, 31, 32, 40] and len(fewer.index) == 3
    # Scenarios without leaves still get one column, all padding.
    assert table.leaf_states(np.array([1]))[0].shape == (1, 1, 1)


def test_index_options_of_earlier_versions_are_read():
    index = ScenarioIndex.build(np.eye(3, dtype=np.float32), "e", "b", "sq8")
    old = {**index.to_dict(), "index": {"kind": "sq8", "links": 32, "build_effort": 80, "effort": 64, "code_bytes": 32}}
    assert ScenarioIndex.from_bytes(index.to_bytes(), old, "b").kind == "sq8"
    with pytest.raises(BundleError, match="E346.*tree"):
        ScenarioIndex.from_bytes(index.to_bytes(), {**old, "index": {"kind": "tree"}}, "b")
