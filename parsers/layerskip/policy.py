"""Which layer drafts, and how many tokens, chosen while decoding from the acceptance so far."""

from __future__ import annotations

from collections.abc import Sequence

#: Most drafts before they are verified.
MAX_DRAFTS = 12
#: Decodings that each exit is tried for at the beginning, and how often another exit is tried later.
TRIALS, EXPLORE_EVERY = 2, 24
#: Weight of the newest decoding in the acceptance rate.
NEWEST = 0.1


class AcceptancePolicy:
    """Chooses the exit layer and the number of drafts with the highest expected speed.

    With acceptance rate a, d drafts and one pass that verifies them give ``(1 - a^(d+1)) / (1 - a)`` tokens on average
    (Leviathan et al. 2023, equation 1) and cost ``(d + 1) E + (L - E)`` layers of L. The choice changes the speed alone.

    Args:
        exits: layers that can draft; one that equals ``depth`` is left out.
        depth: layers of the model.
        exit_layer: where to begin.
        drafts: number of drafts to begin with.
    """

    def __init__(self, exits: Sequence[int], depth: int, exit_layer: int, drafts: int) -> None:
        self.depth, self.drafts = depth, drafts
        self.exits = sorted({e for e in (*exits, exit_layer) if 0 < e < depth})
        self.acceptance: dict[int, float] = {}
        self.trials = dict.fromkeys(self.exits, 0)
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
        untried = [e for e in self.exits if self.trials[e] < TRIALS]
        if untried:
            return untried[0], self.drafts
        if self._decodings % EXPLORE_EVERY == 0:
            least = min(self.exits, key=lambda e: self.trials[e])
            return least, self._best(least)[1]
        speed = {e: self._best(e) for e in self.exits}
        best = max(self.exits, key=lambda e: speed[e][0])
        return best, speed[best][1]

    def _best(self, exit_layer: int) -> tuple[float, int]:
        """Highest expected tokens for each pass of all layers, and the number of drafts that has it."""
        rate = min(self.acceptance[exit_layer], 0.995)
        return max(
            ((1 - rate ** (d + 1)) / (1 - rate) * self.depth / ((d + 1) * exit_layer + self.depth - exit_layer), d)
            for d in range(1, MAX_DRAFTS + 1)
        )
