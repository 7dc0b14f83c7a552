import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_dicts_that_no_frame_wrote():
    def read(frame: object, utterance: object = "call mum") -> Frame:
        return Frame.from_dict({"utterance": utterance, "frame": frame})  # type: ignore[dict-item]

    def intent(*children: object, label: object = "A") -> dict[str, object]:
        return {"intent": label, "children": list(children)}

    def slot(*children: object) -> dict[str, object]:
        return {"slot": "S", "children": list(children)}

    deep = intent()
    for _ in range(60):
        deep = intent(slot(deep))
    assert read(intent(slot({"start": 5, "end": 8}))).scenario() == "[IN:A [SL:S ] ]"
    for value, code in (
        (intent(intent()), "E106"),
        (intent(slot(slot())), "E106"),
        (intent(label="A B"), "E103"),
        (intent(label=3), "E111"),
        (intent(slot({"start": "x", "end": 8})), "E111"),
        (intent(slot({"start": 5.5, "end": 8})), "E111"),
        (intent(slot({"start": 5, "end": 80})), "E101"),
        (slot(), "E111"),
        (deep, "E107"),
        ([], "E111"),
    ):
        with pytest.raises(FrameError, match=code):
            read(value)
    with pytest.raises(FrameError, match="E111"):
        read(intent(), 3)


@given(frames())
def test_decoupling_is_idempotent_and_keeps_the_scenario(frame: Frame):
    once = frame.decoupled()
    assert once.decoupled() == once
    assert once.scenario() == frame.scenario()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[IN:A x", "E115"),
        ("[IN:A x ] ]", "E108"),
        ("[IN:A ] [IN:B ]", "E104"),
        ("[SL:A x ]", "E105"),
        ("[IN:A [SL:B [SL:C x ] ] ]", "E106"),
        ("[IN:A [IN:B ] ]", "E106"),
        ("[IN: x ]", "E103"),
        ("[IN:A! x ]", "E103"),
        ("[IN:-A x ]", "E103"),
        ("[IN:A] x ]", "E103"),
        ("[IN:A [SL:[B x ] ]", "E103"),
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


BRACKETS = st.sampled_from(
    ["]", "[IN:X", "[SL:", "[SL:Y", "[", "[[", "\\", "\\]", "\\\\]", "\\[IN:", "x]", "]x", "[in:a", "*"]
)


@given(frames(words=BRACKETS | st.text(st.characters(blacklist_categories=("Z", "C")), min_size=1, max_size=5)))
def test_words_that_look_like_brackets_are_read_back(frame: Frame):
    text = str(frame)
    assert Frame.parse(text, frame.utterance) == frame
    assert str(Frame.parse(text)) == text
    assert Frame.parse(text).scenario() == frame.scenario()


def test_brackets_of_the_utterance_have_a_backslash():
    frame = Frame(Intent("A", (Slot("B", (Span(0, 3),)),)), "a ] [IN:X")
    assert str(frame) == "[IN:A [SL:B a \\] ] ]"
    assert Frame.parse("[IN:A \\[IN:X \\\\] ]").utterance == "[IN:X \\]"


@given(frames(labels=st.sampled_from(["set_alarm", "Set-Alarm", "music.play", "v1.2-b", "créer", "7"])))
def test_labels_in_other_spellings_are_read_back(frame: Frame):
    assert Frame.parse(str(frame), frame.utterance) == frame


@pytest.mark.parametrize(
    ("text", "utterance", "expected"),
    [
        ("[IN:A [SL:B two cups ] ]", "brew two  cups now", ["two  cups"]),
        ("[IN:A [SL:B me ] [SL:C [IN:D [SL:E me ] ] ] ]", "remind me to call me", ["me", "me"]),
        ("[IN:A [SL:B 5 ] ]", "15 or 5", ["5"]),
        ("[IN:A [SL:B 8 am ] ]", "at 8am", ["8am"]),
        ("[IN:A [SL:B larm ] ]", "alarm", ["larm"]),
        ("[IN:A ]", "whatever", []),
        ("[IN:A [SL:B \\] ] ]", "say ]", ["]"]),
    ],
)
def test_decoupled_frames_are_read_over_their_utterance(text: str, utterance: str, expected: list[str]):
    frame = Frame.parse(text, utterance)
    assert [frame.text(span) for span in frame.spans()] == expected
    assert Frame.parse(str(frame), utterance) == frame


@pytest.mark.parametrize(
    ("text", "utterance", "code"),
    [
        ("[IN:A [SL:B me ] ]", "remind me to call me", r"E114.*'me'"),
        ("[IN:A [SL:B at ] [SL:C 6 ] ]", "be at 6 or 6", r"E114.*'6'"),
        ("[IN:A [SL:B 8 ] ]", "at 8am or 8", "E114"),
        ("[IN:A [SL:B 6 ] [SL:C at ] ]", "be at 6", "E116.*'6', then 'at'"),
        ("[IN:A [SL:B noon ] ]", "be at 6", "E116"),
        ("[IN:A be [SL:C 6 ] ]", "be at 6", "E112"),
    ],
)
def test_frames_that_stand_nowhere_or_anywhere_are_refused(text: str, utterance: str, code: str):
    with pytest.raises(FrameError, match=f"here:3.*{code}|{code}.*here:3|.*here:3: .*") as caught:
        Frame.parse(text, utterance, where="here:3")
    assert code.split(".")[0] == caught.value.code


def test_decoupled_official_rows_are_read_back_exactly_or_refused(topv2_root):
    refused = 0
    rows = read_split(topv2_root, "eval")
    for example in rows:
        frame = example.frame.decoupled()
        try:
            assert Frame.parse(str(frame), example.utterance) == frame
        except FrameError as error:
            assert error.code == "E114"
            refused += 1
    assert refused < 0.002 * len(rows)
