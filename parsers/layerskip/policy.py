"""Which layer drafts, and when drafting stops, chosen while decoding; the choice changes the speed alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

#: Most drafts before they are verified.
MAX_DRAFTS = 12
#: Drafting stops when all drafts together are less likely than this to be accepted, as the early layers see it.
LEAST_SURE = 0.6
#: How often an exit beside the best one is tried.
EXPLORE_EVERY = 8
#: Exits that are compared, as shares of the layers, beside the one to begin with.
SHARES = (1 / 6, 1 / 4, 1 / 3, 1 / 2)
#: What a layer costs over several tokens, as a multiple of what it costs over one (measured on a processor).
SEVERAL = 1.7
#: What a call costs beside its layers, in layers over one token: scores, and the grammar.
CALL = 1.0
#: Weight of the newest decoding in the cost of an exit.
NEWEST = 0.1


def worth_drafting(sure: Iterable[float]) -> bool:
    """Whether one draft more is likely to be used (after Zhang et al. 2023, arXiv 2309.08168, section 3.3).

    A draft after a wrong one is a pass of the early layers for nothing. So drafting stops where the early layers are unsure.

    Args:
        sure: probability of each draft so far under the early layers.
    """
    found = list(sure)
    return len(found) < MAX_DRAFTS and math.prod(found) >= LEAST_SURE


class ExitPolicy:
    """Chooses the exit layer that costs least, in layers a token, as decodings so far tell.

    Now and then a neighbour of the best exit is tried, so few decodings are spent on exits that do not pay.

    Args:
        exits: layers that can draft; one that equals ``depth`` is left out.
        depth: layers of the model.
        exit_layer: where to begin.
    """

    def __init__(self, exits: Sequence[int], depth: int, exit_layer: int) -> None:
        self.depth = depth
        near = {min(exits, key=lambda e: abs(e - share * depth)) for share in SHARES} | {exit_layer}
        self.exits = sorted(e for e in near if 0 < e < depth)
        self.cost: dict[int, float] = {}
        self.trials = dict.fromkeys(self.exits, 0)
        self._begin = exit_layer
        self._decodings = 0

    def observe(self, exit_layer: int, tokens: int, early_calls: int, calls: int) -> None:
        """Notes what one decoding did.

        Args:
            exit_layer: that drafted.
            tokens: written.
            early_calls: passes of the layers that draft.
            calls: passes of the other layers.
        """
        if not tokens or exit_layer not in self.trials:
            return
        late = SEVERAL * (self.depth - exit_layer)
        cost = (early_calls * (exit_layer + CALL) + calls * (late + CALL)) / tokens
        before = self.cost.get(exit_layer, cost)
        self.cost[exit_layer] = before + NEWEST * (cost - before)
        self.trials[exit_layer] += 1

    def choose(self) -> int:
        """Exit layer of the next decoding."""
        self._decodings += 1
        if not self.cost:
            return self._begin
        best = min(self.cost, key=lambda e: self.cost[e])
        at = self.exits.index(best)
        beside = self.exits[max(0, at - 1) : at] + self.exits[at + 1 : at + 2]
        if beside and self._decodings % EXPLORE_EVERY == 0:
            return min(beside, key=lambda e: self.trials[e])
        return best
