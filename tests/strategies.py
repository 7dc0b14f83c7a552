"""Random utterances and frames for hypothesis."""

from hypothesis import strategies as st

from frames.frame import Frame
from frames.nodes import Intent, Slot, Span

LABELS = st.sampled_from(["CREATE_ALARM", "GET_EVENT", "SEND_MESSAGE", "X", "A_1"])
WORDS = st.text(
    st.characters(blacklist_categories=("Z", "C", "M"), blacklist_characters="[]▁") | st.sampled_from("abc019'’.,-"),
    min_size=1,
    max_size=6,
)


@st.composite
def frames(
    draw: st.DrawFn,
    full: bool = True,
    words: st.SearchStrategy[str] = WORDS,
    labels: st.SearchStrategy[str] = LABELS,
) -> Frame:
    """A frame over words and the places between them; slots may be empty, or mix text and an intent.

    A full frame holds all words, or its intents hold some, so that its string tells where each stands.
    """
    chosen = draw(st.lists(words, min_size=1, max_size=9))
    utterance, spans = "", []
    for word in chosen:
        utterance += draw(st.sampled_from([" ", "  "])) if utterance else ""
        spans.append((len(utterance), len(utterance) + len(word)))
        utterance += word
    position = 0

    def text() -> tuple[Span, ...]:
        nonlocal position
        if position >= len(spans):
            return ()
        last = draw(st.integers(position, min(position + 2, len(spans) - 1)))
        span = Span(spans[position][0], spans[last][1])
        position = last + 1
        return (span,)

    def slot(depth: int) -> Slot:
        kind = draw(st.sampled_from(["text", "text", "intent", "mixed", "empty"] if depth < 3 else ["text", "empty"]))
        before = text() if kind in ("text", "mixed") else ()
        inside = (intent(depth + 1),) if kind in ("intent", "mixed") else ()
        return Slot(draw(labels), (*before, *inside))

    def intent(depth: int) -> Intent:
        children: list[Span | Slot] = []
        for _ in range(draw(st.integers(0, 3))):
            if full and draw(st.booleans()) and not (children and isinstance(children[-1], Span)):
                children.extend(text())
            children.append(slot(depth))
        return Intent(draw(labels), tuple(children))

    root = intent(0)
    if full and position < len(spans) and not (root.children and isinstance(root.children[-1], Span)):
        root = Intent(root.label, (*root.children, Span(spans[position][0], len(utterance))))
    return Frame(root, utterance)
