import numpy as np
import pytest
import torch
from hypothesis import given

from frames.frame import Frame
from frames.render import html, svg
from frames.scoring import exact_match, labelled_brackets, official_exact_match, validity
from lightning_modules.metrics import FrameExactMatch, ScenarioRecall
from tests.strategies import frames

UTTERANCE = "remind me to call mum at 6"
GOLD = Frame.parse("[IN:R remind [SL:P me ] to [SL:T call mum ] [SL:D at 6 ] ]", UTTERANCE)
SHORT = Frame.parse("[IN:R remind [SL:P me ] to call mum [SL:D at 6 ] ]", UTTERANCE)
MOVED = Frame.parse("[IN:R remind me to [SL:T call mum ] [SL:P at 6 ] ]", UTTERANCE)


def test_exact_match_by_form():
    decoupled = GOLD.decoupled()
    assert exact_match(GOLD, decoupled)
    assert not exact_match(GOLD, decoupled, form="full")
    assert not exact_match(GOLD, None)
    assert not exact_match(GOLD, SHORT)
    with pytest.raises(ValueError, match="decoupled"):
        exact_match(GOLD, GOLD, form="loose")


@given(frames())
def test_exact_match_is_reflexive_and_implies_all_brackets(frame: Frame):
    assert exact_match(frame, frame.decoupled())
    matched, gold, predicted = labelled_brackets(frame, frame.decoupled())
    assert matched == gold == predicted


def test_brackets_count_label_and_extent():
    assert labelled_brackets(GOLD, SHORT) == (3, 4, 3)
    assert labelled_brackets(GOLD, MOVED) == (1, 4, 3)
    assert labelled_brackets(GOLD, None) == (0, 4, 0)


def test_where_the_official_script_and_the_strict_scorer_differ():
    text = "[IN:R [SL:P me ] ]"
    assert official_exact_match(text, "[IN:R  [SL:P me ]  ]")
    assert official_exact_match(text, text + " ]")
    assert validity(text + " ]") is not None
    assert official_exact_match("", "")
    assert validity("") is not None
    assert not official_exact_match(text, "[XX:R [SL:P me ] ]")
    assert not official_exact_match(text, "[IN:R remind [SL:P me ] ]")
    assert not official_exact_match(text, "[IN:R [SL:P Me ] ]")


def test_metric_counts_what_it_says():
    metric = FrameExactMatch(["alarm", "reminder"])
    metric.update(
        [GOLD.decoupled(), SHORT.decoupled(), None], [GOLD] * 3, ["alarm", "reminder", "reminder"], [True, False, False]
    )
    result = metric.compute()
    assert result["exact_match"] == pytest.approx(100 / 3)
    assert result["count"] == 3
    assert result["macro_exact_match"] == pytest.approx(50)
    assert result["unseen_exact_match"] == 0
    assert result["unseen_count"] == 2
    assert result["well_formed"] == pytest.approx(200 / 3)
    assert result["bracket_recall"] == pytest.approx(100 * 7 / 12)
    assert result["bracket_precision"] == 100
    assert result["by_domain"]["alarm"] == {"exact_match": 100.0, "count": 1}
    assert result["by_slots"] == {"3": {"exact_match": pytest.approx(100 / 3), "count": 3}}
    with pytest.raises(ValueError, match="'music' is not among"):
        metric.update([GOLD, GOLD], [GOLD, GOLD], ["alarm", "music"])
    assert metric.compute() == result, "a batch that is refused is not counted in part"


def test_metric_of_two_processes_is_the_metric_of_one():
    whole, halves = FrameExactMatch(["a"]), [FrameExactMatch(["a"]) for _ in range(2)]
    for i, frame in enumerate([GOLD, SHORT, None, GOLD]):
        for metric in (whole, halves[i % 2]):
            metric.update([frame], [GOLD], ["a"])
    for name, reduction in whole._reductions.items():
        setattr(halves[0], name, reduction(torch.stack([getattr(half, name) for half in halves])))
    assert halves[0].compute() == whole.compute()


@given(frames())
def test_drawings_name_every_node(frame: Frame):
    drawn, text = svg(frame.root, frame.utterance), frame.tree()
    for node, _, _ in frame.nodes():
        assert node.label in drawn
        assert node.label in text
    assert text.count("\n") + 1 == sum(1 for _ in frame.nodes())
    assert drawn in html(frame.root, frame.utterance)


def test_drawings_escape_and_mark_differences():
    frame = Frame.parse("[IN:A [SL:B <b>&x ] ]")
    assert "<b>" not in svg(frame.root, frame.utterance)
    assert "&lt;b&gt;&amp;x" in svg(frame.root, frame.utterance)
    assert frame._repr_html_() == html(frame.root, frame.utterance)
    assert GOLD.tree().splitlines()[2] == "├── SL:T 'call mum'"
    assert "#c02626" in GOLD.diff_html(SHORT)
    assert "#c02626" not in GOLD.diff_html(GOLD)
    assert "no well-formed frame" in GOLD.diff_html(None)


def test_recall_counts_rows_whose_scenario_the_bank_has():
    metric = ScenarioRecall()
    near = np.arange(100)
    metric.update([near, near, near], [0, 7, None])
    metric.update([near], [200])
    assert metric.compute() == pytest.approx(
        {"recall_at_1": 100 / 3, "recall_at_5": 100 / 3, "recall_at_16": 200 / 3, "recall_at_100": 200 / 3}
    )
