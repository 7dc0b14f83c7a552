import itertools
import math
import random
from collections.abc import Sequence

import pytest

from frames.errors import FrameError
from frames.frame import Frame
from frames.linearization import POINTER_FORMS, TargetIds
from frames.ontology import Ontology
from frames.tokenization import Source
from parsers import constrained
from parsers.constrained import Grammar, LengthCandidate, decode, greedy

FRAMES = [
    Frame.parse("[IN:A [SL:S x ] [SL:T [IN:B [SL:S y ] ] ] ]"),
    Frame.parse("[IN:B ]"),
    Frame.parse("[IN:B [SL:S x ] ]"),
    Frame.parse("[IN:A [SL:E ] ]"),
]
ONTOLOGY = Ontology.from_frames(FRAMES)
IDS = TargetIds(ONTOLOGY)


def source(atoms: Sequence[int]) -> Source:
    """One character for each piece, which lies in this atom."""
    pieces = len(atoms)
    return Source("x" * pieces, (1,) * pieces, tuple(range(pieces)), tuple(range(1, pieces + 1)), tuple(atoms))


def table(rng: random.Random, length: int, pieces: int) -> list[list[float]]:
    rows = []
    for _ in range(length):
        weights = [rng.random() ** 4 + 1e-9 for _ in range(IDS.size + pieces)]
        rows.append([math.log(weight / sum(weights)) for weight in weights])
    return rows


def spelled(form: str, ids: tuple[int, ...], atoms: Sequence[int]) -> Frame | None:
    linearization = POINTER_FORMS[form]()
    try:
        frame = linearization.decode(IDS.decode(ids), source(atoms))
        assert linearization.encode(frame, source(atoms)) == IDS.decode(ids)
    except FrameError:
        return None
    wanted = ONTOLOGY.valid(frame) and frame.root.label in ONTOLOGY.roots and frame == frame.decoupled()
    return frame if wanted else None


WORDS = source((0, 1, 2))


@pytest.mark.parametrize("form", ["span", "index"])
@pytest.mark.parametrize(
    ("length", "atoms"), [(2, (0, 1)), (4, (0,)), (5, (0, 1)), (5, (0, 0)), (5, (0, 1, 1)), (6, (0,)), (6, (0, 0))]
)
def test_the_search_finds_what_trying_everything_finds(form: str, length: int, atoms: tuple[int, ...]):
    pieces = len(atoms)
    rng = random.Random(length * 10 + pieces)
    grammar = Grammar(ONTOLOGY, form)
    scores = table(rng, length, pieces)
    every = itertools.product(range(IDS.size + pieces), repeat=length)
    valid = {ids: sum(scores[i][token] for i, token in enumerate(ids)) for ids in every if spelled(form, ids, atoms)}
    found = list(itertools.islice(decode(grammar, [LengthCandidate(0.0, scores)], source(atoms).edges), len(valid) + 5))
    if not valid:
        assert [d.ids[1:] for d in found] == [(grammar.close,)]
    else:
        assert [d.score for d in found] == pytest.approx(sorted(valid.values(), reverse=True))
        assert {d.ids for d in found} == set(valid)


@pytest.mark.parametrize("form", ["span", "index"])
def test_every_result_is_a_frame_of_the_ontology(form: str):
    rng = random.Random(0)
    grammar = Grammar(ONTOLOGY, form)
    for _ in range(60):
        pieces = rng.randint(1, 5)
        atoms = sorted(rng.choices(range(3), k=pieces))
        lengths = [LengthCandidate(-rng.random(), table(rng, rng.randint(1, 16), pieces)) for _ in range(3)]
        best = next(decode(grammar, lengths, source(atoms).edges))
        assert spelled(form, best.ids, atoms) is not None


def test_lengths_compete_by_their_prior_and_their_tokens():
    rng = random.Random(3)
    grammar = Grammar(ONTOLOGY, "span")
    candidates = [
        LengthCandidate(-0.1, table(rng, 2, 3)),
        LengthCandidate(-2.0, table(rng, 6, 3)),
        LengthCandidate(-0.5, table(rng, 6, 3)),
    ]
    scores = [decoded.score for decoded in itertools.islice(decode(grammar, candidates, WORDS.edges), 40)]
    alone = sorted(
        (d.score for c in candidates for d in itertools.islice(decode(grammar, [c], WORDS.edges), 40)), reverse=True
    )
    assert scores == pytest.approx(alone[:40])


def test_a_hopeless_search_answers_a_bare_intent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constrained, "MAX_STEPS", 3)
    best = next(decode(Grammar(ONTOLOGY, "span"), [LengthCandidate(0.0, table(random.Random(0), 9, 3))], WORDS.edges))
    assert spelled("span", best.ids, WORDS.atoms) is not None


def test_greedy_takes_the_best_token_of_each_position():
    scores = table(random.Random(1), 4, 2)
    assert greedy([LengthCandidate(0.0, scores)]).ids == tuple(row.index(max(row)) for row in scores)


def test_unknown_leaf_form():
    with pytest.raises(ValueError, match="'span' or 'index'"):
        Grammar(ONTOLOGY, "words")
