import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from benchmarks.coverage import FAMILIES, canonical, covered
from data.synthetic import generate
from data.topv2.reader import Example
from frames.errors import FrameError, UsageError
from frames.frame import Frame
from frames.linearization import Canonical, IndexForm, ScenarioForm, SpanForm, TargetIds
from frames.nodes import Intent, Slot, Span
from frames.ontology import Ontology
from frames.tokenization import MAX_PIECES, PieceTokenizer, with_atoms

FORMS = [IndexForm(), SpanForm(), ScenarioForm()]
EXAMPLES = generate(seed=1, train=600, evaluation=1, test=1)["train"]
UTTERANCES = [example.utterance for example in EXAMPLES]


@pytest.fixture(scope="module", params=[*FAMILIES, "metaspace"])
def tokenizer(request) -> PieceTokenizer:
    """One tokenizer of each family, trained small; each is preceded by the same rule."""
    if request.param in FAMILIES:
        return FAMILIES[request.param](UTTERANCES, 500)
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = {"unk_token": "<unk>", "special_tokens": ["<unk>"]}
    backend.train_from_iterator(UTTERANCES, trainers.UnigramTrainer(vocab_size=400, show_progress=False, **special))
    backend.pre_tokenizer = with_atoms(backend.pre_tokenizer)
    return PieceTokenizer(backend)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_decode_inverts_encode_for_every_tokenizer(tokenizer: PieceTokenizer, form):
    for example, source in zip(EXAMPLES, tokenizer.batch(UTTERANCES), strict=True):
        for frame in (example.frame, example.frame.decoupled()):
            assert form.decode(form.encode(frame, source), source) == frame


@st.composite
def atomic_frames(draw):
    """A frame whose leaf edges are edges of atoms: words of letters, digits or single marks."""
    words = draw(
        st.lists(
            st.sampled_from(["wake", "8", "pm", "'", "s", "ü", "😀", "don", "…", "שלום", "42"]), min_size=1, max_size=8
        )
    )
    joints = draw(st.lists(st.sampled_from([" ", "  "]), min_size=len(words), max_size=len(words)))
    utterance, spans = "", []
    for word, joint in zip(words, joints, strict=True):
        utterance += joint if utterance else ""
        spans.append(Span(len(utterance), len(utterance) + len(word)))
        utterance += word
    cuts = sorted(draw(st.lists(st.integers(0, len(words)), max_size=4)))
    slots = tuple(
        Slot("B", (Span(spans[a].start, spans[b - 1].end),)) for a, b in zip([0, *cuts], cuts, strict=False) if a < b
    )
    return Frame(Intent("A", slots), utterance)


@settings(max_examples=60)
@given(frame=atomic_frames())
def test_decode_inverts_encode_on_random_frames(frame: Frame):
    tokenizer = _RANDOM
    source = tokenizer(frame.utterance)
    for form in FORMS:
        assert form.decode(form.encode(frame, source), source) == frame


_RANDOM = PieceTokenizer.train_sentencepiece(UTTERANCES, 400)


def test_the_forms_of_the_module_table():
    source = _RANDOM("set alarm at 8:30")
    frame = Frame.parse("[IN:CREATE_ALARM set alarm [SL:DATE_TIME at 8 : 30 ] ]", source.text).decoupled()
    starts = [source.text[start:end] for start, end in zip(source.starts, source.ends, strict=True)]
    first, last = starts.index("at"), len(starts) - 1
    assert SpanForm().encode(frame, source) == ["IN:CREATE_ALARM", "SL:DATE_TIME", first, last, "]", "]"]
    assert IndexForm().encode(frame, source) == ["IN:CREATE_ALARM", "SL:DATE_TIME", *range(first, last + 1), "]", "]"]
    assert ScenarioForm().encode(frame, source) == ["IN:CREATE_ALARM", "SL:DATE_TIME", "]", "]", first, last]
    assert Canonical().encode(frame, source) == ["[IN:CREATE_ALARM", "[SL:DATE_TIME", "at", "8:30", "]", "]"]


def test_canonical_is_exact_on_full_frames_and_aligns_decoupled_ones():
    for example, source in zip(EXAMPLES, _RANDOM.batch(UTTERANCES), strict=True):
        form = Canonical()
        assert form.decode(form.encode(example.frame, source), source) == example.frame
    source = _RANDOM("set 15 or 5")
    frame = Frame(Intent("A", (Slot("B", (Span(10, 11),)),)), source.text)
    assert Canonical().decode(["[IN:A", "[SL:B", "5", "]", "]"], source) == frame


@pytest.mark.parametrize(
    ("form", "tokens", "code"),
    [
        (SpanForm(), ["IN:A", "SL:B", 0, "]", "]"], "E131"),
        (SpanForm(), ["IN:A", "SL:B", 1, 0, "]", "]"], "E134"),
        (SpanForm(), ["IN:A", "SL:B", 0, 9, "]", "]"], "E134"),
        (SpanForm(), ["IN:A", "SL:B", 0, 0, "]"], "E138"),
        (SpanForm(), ["SL:B", 0, 0, "]"], "E135"),
        (SpanForm(), ["IN:A", "IN:A", "]", "]"], "E136"),
        (SpanForm(), ["IN:A", "]", "]"], "E135"),
        (IndexForm(), ["IN:A", "SL:B", 0, 2, "]", "]"], "E130"),
        (ScenarioForm(), ["IN:A", "SL:B", "]", "]", 0, 0, 1, 1], "E132"),
    ],
)
def test_token_sequences_that_spell_no_frame(form, tokens, code):
    with pytest.raises(FrameError) as caught:
        form.decode(tokens, _RANDOM("a b c"))
    assert caught.value.code == code


def test_a_leaf_inside_an_atom_is_an_error_not_a_dropped_row():
    frame = Frame(Intent("A", (Slot("B", (Span(1, 3),)),)), "wake")
    with pytest.raises(FrameError, match="E133"):
        SpanForm().encode(frame, _RANDOM("wake"))


def test_ids_and_unknown_labels():
    ids = TargetIds(Ontology.from_frames(example.frame for example in EXAMPLES))
    tokens = ["IN:CREATE_ALARM", "SL:DATE_TIME", 3, 5, "]", "]"]
    assert ids.decode(ids.encode(tokens)) == tokens
    with pytest.raises(FrameError, match="E120.*IN:NOPE"):
        ids.encode(["IN:NOPE"])


def test_odd_utterances():
    for blank in ("", "   ", "\n", "\x00", "\x1b \x07", "\u200b", "\ufeff\u00ad", "\u202e\u2028"):
        with pytest.raises(UsageError, match="E410"):
            _RANDOM(blank)
    with pytest.raises(UsageError, match="E411"):
        _RANDOM("wake me at 6 " * (10_000 // 13))
    framed = PieceTokenizer(_RANDOM.backend, prefix=(1,), suffix=(1,))
    for tokenizer, most in ((_RANDOM, MAX_PIECES), (framed, MAX_PIECES - 2)):
        assert len(tokenizer("6 " * most)) == most
        with pytest.raises(UsageError, match=f"E411.*; {most} are read"):
            tokenizer("6 " * (most + 1))
    for text in ("😀 wake 😀", "ذكرني غدا", "wake\x00me", "﷽ " * 3, "don't"):
        source = _RANDOM(text)
        assert len(source) <= MAX_PIECES
        assert all(a < b for a, b in zip(source.starts, source.ends, strict=True))
        assert all(a <= b for a, b in zip(source.ends, source.starts[1:], strict=False))
    assert [_RANDOM("don't").text[a:b] for a, b in zip(_RANDOM("don't").starts, _RANDOM("don't").ends, strict=True)][
        -3:
    ] == ["n", "'", "t"]


@pytest.mark.parametrize("mark", ["e\u0301", "e\u0301\u0323", "❤\ufe0f"])
def test_accents_that_an_uncased_encoder_drops_stay_in_their_slot(mark: str):
    backend = Tokenizer(
        models.WordPiece({"[UNK]": 0, "caf": 1, "##e": 2, "❤": 3, "order": 4, "a": 5}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = with_atoms(pre_tokenizers.BertPreTokenizer())
    tokenizer = PieceTokenizer(backend)
    source = tokenizer(f"order a caf{mark} caf{mark} a")
    assert source.pieces == ["order", "a", "caf", mark, "caf", mark, "a"]
    for leaf in (f"caf{mark}", f"caf{mark} caf{mark}"):
        begin = source.text.index("caf")
        frame = Frame(Intent("A", (Slot("X", (Span(begin, begin + len(leaf)),)),)), source.text)
        assert all(form.decode(form.encode(frame, source), source) == frame for form in FORMS)
    plain = tokenizer("order  a café")
    assert (plain.starts, plain.ends) == ((0, 7, 9, 12), (5, 8, 12, 13))


def test_tokenizers_survive_their_json(tokenizer: PieceTokenizer):
    again = PieceTokenizer.from_json(tokenizer.to_json())
    assert again.batch(UTTERANCES[:50]) == tokenizer.batch(UTTERANCES[:50])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_official_row_in_every_form(official_rows: dict[str, list[Example]], family: str):
    rows = [*official_rows["train"], *official_rows["eval"]]
    tokenizer = FAMILIES[family]([example.utterance for example in official_rows["train"]], 6000)
    assert set(covered(rows, tokenizer).values()) == {len(rows)}
    # That a printed frame is read back is tested on all rows in test_frame.py.
    assert canonical(rows[::20], tokenizer) == len(rows[::20])
