"""Which layer drafts, and how many tokens, chosen while decoding from the acceptance so far."""

from __future__ import annotations

from collections.abc import Sequence

#: Most drafts before they are verified.
MAX_DRAFTS = 12
#: How often an exit beside the best one is tried.
EXPLORE_EVERY = 8
#: Exits that are compared, as shares of the layers, beside the one to begin with.
SHARES = (1 / 6, 1 / 4, 1 / 3, 1 / 2)
#: What a layer costs over several tokens, as a multiple of what it costs over one (measured on a processor).
SEVERAL = 1.7
#: Weight of the newest decoding in the acceptance rate.
NEWEST = 0.1


class AcceptancePolicy:
    """Chooses the exit layer and the number of drafts with the highest expected speed.

    With acceptance rate a, d drafts and one pass that verifies them give ``(1 - a^(d+1)) / (1 - a)`` tokens on average
    (Leviathan et al. 2023, equation 1) and cost ``(d + 1) E + SEVERAL (L - E)`` layers of L. The choice changes the speed
    alone. Now and then a neighbour of the best exit is tried, so few decodings are spent on exits that do not pay.

    Args:
        exits: layers that can draft; one that equals ``depth`` is left out.
        depth: layers of the model.
        exit_layer: where to begin.
        drafts: number of drafts to begin with.
    """

    def __init__(self, exits: Sequence[int], depth: int, exit_layer: int, drafts: int) -> None:
        self.depth, self.drafts = depth, drafts
        near = {min(exits, key=lambda e: abs(e - share * depth)) for share in SHARES} | {exit_layer}
        self.exits = sorted(e for e in near if 0 < e < depth)
        self.acceptance: dict[int, float] = {}
        self.trials = dict.fromkeys(self.exits, 0)
        self._begin = exit_layer
        self._decodings = 0

    def observe(self, exit_layer: int, drafted: int, accepted: int) -> None:
        """Notes what one decoding did."""
        if not drafted or exit_layer not in self.trials:
            return
        rate = accepted / drafted
        before = self.acceptance.get(exit_layer, rate)
        self.acceptance[exit_layer] = before + NEWEST * (rate - before)
        self.trials[exit_layer] += 1

    def choose(self) -> tuple[int, int]:
        """Exit layer and number of drafts of the next decoding."""
        self._decodings += 1
        if not self.acceptance:
            return self._begin, self.drafts
        speed = {e: self._best(e) for e in self.acceptance}
        best = max(speed, key=lambda e: speed[e][0])
        at = self.exits.index(best)
        beside = self.exits[max(0, at - 1) : at] + self.exits[at + 1 : at + 2]
        if beside and self._decodings % EXPLORE_EVERY == 0:
            least = min(beside, key=lambda e: self.trials[e])
            return least, speed[least][1] if least in speed else speed[best][1]
        return best, speed[best][1]

    def _best(self, exit_layer: int) -> tuple[float, int]:
        """Highest expected tokens for each pass of all layers, and the number of drafts that has it."""
        rate = min(self.acceptance[exit_layer], 0.995)
        rest = SEVERAL * (self.depth - exit_layer)
        return max(
            ((1 - rate ** (d + 1)) / (1 - rate) * self.depth / ((d + 1) * exit_layer + rest), d)
            for d in range(1, MAX_DRAFTS + 1)
        )
