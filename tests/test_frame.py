import pytest
from hypothesis import given

from data.topv2.reader import read_split
from frames.errors import FrameError
from frames.frame import Frame
from frames.nodes import Intent, Slot, Span
from tests.strategies import frames

ALARM = "[IN:CREATE_ALARM Set it [SL:DATE_TIME for 8 am ] . ]"


def test_words_align_to_the_raw_utterance_whatever_its_whitespace():
    frame = Frame.parse(ALARM, "Set  it for 8am.")
    slot = next(frame.slots())
    assert [frame.text(span) for span in slot.children] == ["for 8am"]
    assert str(frame) == "[IN:CREATE_ALARM Set it [SL:DATE_TIME for 8am ] . ]"


def test_equal_frames_come_from_differently_spaced_parses():
    assert Frame.parse(ALARM, "Set it for 8am.") == Frame.parse(ALARM.replace("8 am", "8am"), "Set it for 8am.")


def test_decoupled_depth_scenario():
    text = "[IN:A do [SL:T [IN:B call [SL:C mum ] ] ] now ]"
    frame = Frame.parse(text)
    assert str(frame.decoupled()) == "[IN:A [SL:T [IN:B [SL:C mum ] ] ] ]"
    assert frame.depth == 2
    assert frame.scenario() == "[IN:A [SL:T [IN:B [SL:C ] ] ] ]"
    assert [(node.label, start, end) for node, start, end in frame.nodes()][1:] == [
        ("T", 3, 11),
        ("B", 3, 11),
        ("C", 8, 11),
    ]


@given(frames())
def test_print_and_parse_are_inverse(frame: Frame):
    assert Frame.parse(str(frame), frame.utterance) == frame
    assert Frame.from_dict(frame.to_dict()) == frame


@given(frames())
def test_decoupling_is_idempotent_and_keeps_the_scenario(frame: Frame):
    once = frame.decoupled()
    assert once.decoupled() == once
    assert once.scenario() == frame.scenario()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[IN:A x", "E108"),
        ("[IN:A x ] ]", "E108"),
        ("[IN:A ] [IN:B ]", "E104"),
        ("[SL:A x ]", "E105"),
        ("[IN:A [SL:B [SL:C x ] ] ]", "E106"),
        ("[IN:A [IN:B ] ]", "E106"),
        ("[IN:a x ]", "E103"),
        ("hello", "E109"),
        ("", "E110"),
        ("[IN:A [SL:B " * 60 + "x" + " ] ]" * 60, "E107"),
    ],
)
def test_malformed_trees_are_told_by_code(text: str, code: str):
    with pytest.raises(FrameError) as caught:
        Frame.parse(text, where="rows.tsv:7")
    assert caught.value.code == code


def test_words_that_the_utterance_lacks():
    with pytest.raises(FrameError, match=r"rows.tsv:7.*'mum'"):
        Frame.parse("[IN:A call [SL:C mum ] ]", "call dad", where="rows.tsv:7")


def test_spans_must_fit_and_follow_the_utterance():
    with pytest.raises(FrameError, match="E101"):
        Frame(Intent("A", (Slot("B", (Span(0, 9),)),)), "abc")
    with pytest.raises(FrameError, match="E102"):
        Frame(Intent("A", (Slot("B", (Span(1, 2),)), Slot("B", (Span(0, 1),)))), "abc")


def test_every_official_row_survives_print_and_parse(topv2_root):
    count = 0
    for split in ("train", "eval"):
        for example in read_split(topv2_root, split):
            assert Frame.parse(str(example.frame), example.utterance) == example.frame
            count += 1
    assert count == 124_597 + 17_160
