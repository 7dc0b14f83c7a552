"""The best spans of a scenario's leaves."""

import itertools

import numpy as np
import pytest
import torch

from parsers.raf.filling import NEVER, best_spans
from parsers.raf.model import SpanHead


@pytest.mark.parametrize("leaves", [0, 1, 2, 3])
def test_best_spans_matches_brute_force(leaves: int):
    rng = np.random.default_rng(leaves)
    size = 4
    for _ in range(20):
        scores = rng.normal(size=(1, 3, size, size))
        words = np.sort(rng.integers(0, 3, size))
        firsts = np.array([i == 0 or words[i] != words[i - 1] for i in range(size)])
        lasts = np.array([i == size - 1 or words[i] != words[i + 1] for i in range(size)])
        spans = [(i, j) for i in range(size) for j in range(i, size) if firsts[i] and lasts[j]]
        best = max(
            (
                sum(scores[0, leaf, i, j] for leaf, (i, j) in enumerate(chosen))
                for chosen in itertools.product(spans, repeat=leaves)
                if all(one[1] < other[0] for one, other in itertools.pairwise(chosen))
            ),
            default=None,
        )
        found, total = best_spans(scores, np.array([leaves]), firsts[None], lasts[None])
        if best is None:
            assert total[0] <= NEVER / 2
        else:
            assert total[0] == pytest.approx(best)
            filled = [tuple(span) for span in found[0, :leaves].tolist()]
            # The spans are allowed, in order, and their scores sum to the total.
            assert all(span in spans for span in filled)
            assert all(one[1] < other[0] for one, other in itertools.pairwise(filled))
            assert sum(scores[0, leaf, i, j] for leaf, (i, j) in enumerate(filled)) == pytest.approx(best)


def test_best_spans_of_a_batch_are_those_of_its_rows():
    rng = np.random.default_rng(0)
    scores, leaves = rng.normal(size=(5, 3, 6, 6)), np.array([0, 3, 1, 2, 3])
    anywhere = np.ones((5, 6), dtype=bool)
    spans, totals = best_spans(scores, leaves, anywhere, anywhere)
    for i in range(5):
        alone, total = best_spans(scores[i : i + 1], leaves[i : i + 1], anywhere[:1], anywhere[:1])
        assert total[0] == pytest.approx(totals[i])
        assert (alone[0] == spans[i]).all()


@pytest.mark.parametrize("joint", [True, False])
def test_span_head_gives_a_distribution(joint: bool):
    torch.manual_seed(0)
    head = SpanHead(16, joint)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    scores = head(torch.randn(2, 3, 16), torch.randn(2, 5, 16), mask)
    assert scores.shape == (2, 3, 5, 5)
    assert torch.allclose(scores.exp().sum(dim=(2, 3)), torch.ones(2, 3), atol=1e-4)
    # Padding has no probability, and with joint scores neither have spans that end before they begin.
    assert (scores[1, :, 3:].exp() < 1e-6).all() and (scores[1, :, :, 3:].exp() < 1e-6).all()
    if joint:
        assert (scores.exp().tril(-1) < 1e-6).all()
