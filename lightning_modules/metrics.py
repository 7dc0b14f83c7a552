"""Frame exact match with its breakdowns, as a torchmetric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from frames.frame import Frame
from frames.nodes import Node, Span
from frames.scoring import exact_match, labelled_brackets

#: Buckets of the breakdowns by depth and by number of slots; the last one holds that many or more.
DEPTHS = 4
SLOTS = 7
#: Scenarios retrieved among which the gold one is looked for.
RECALL_AT = (1, 5, 16, 100)


class FrameExactMatch(Metric):
    """Exact match of decoupled frames over all processes, with breakdowns.

    Args:
        domains: names that ``update`` may be given.
        is_valid: further demand on a well-formed prediction, such as ``Ontology.valid``.
    """

    full_state_update = False
    counts: Tensor
    domain_counts: Tensor
    depth_counts: Tensor
    slot_counts: Tensor

    #: Rows of ``counts``.
    _NAMES = (
        "count", "exact", "unordered", "well_formed", "length", "scenario",
        "matched", "gold_brackets", "predicted_brackets", "unseen_count", "unseen_exact",
    )  # fmt: skip

    def __init__(self, domains: Sequence[str], is_valid: Callable[[Frame], bool] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domains = tuple(domains)
        self.is_valid = is_valid
        for name, rows in (
            ("counts", 0),
            ("domain_counts", len(self.domains)),
            ("depth_counts", DEPTHS),
            ("slot_counts", SLOTS + 1),
        ):
            zero = torch.zeros((rows, 2) if rows else len(self._NAMES), dtype=torch.long)
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(
        self,
        predicted: Sequence[Frame | None],
        gold: Sequence[Frame],
        domains: Sequence[str],
        seen: Sequence[bool] | None = None,
    ) -> None:
        """Counts a batch.

        Args:
            predicted: the parser's frames, None for a sequence that spells no frame.
            gold: annotated frames of the same utterances.
            domains: domain of each.
            seen: whether the utterance stands in the training data; without it all count as unseen.

        Raises:
            ValueError: an unknown domain, or lists of different lengths.
        """
        # Before anything is counted.
        if unknown := {*domains} - {*self.domains}:
            raise ValueError(f"domain {min(unknown)!r} is not among {', '.join(self.domains)}")
        totals = dict.fromkeys(self._NAMES, 0)
        for i, (guess, target, domain) in enumerate(zip(predicted, gold, domains, strict=True)):
            target = target.decoupled()
            exact = exact_match(target, guess)
            matched, expected, found = labelled_brackets(target, guess)
            fresh = seen is None or not seen[i]
            totals["count"] += 1
            totals["exact"] += exact
            totals["unordered"] += exact_match(target, guess, ordered=False)
            totals["matched"] += matched
            totals["gold_brackets"] += expected
            totals["predicted_brackets"] += found
            totals["unseen_count"] += fresh
            totals["unseen_exact"] += fresh and exact
            if guess is not None:
                totals["well_formed"] += self.is_valid is None or self.is_valid(guess)
                totals["length"] += _size(guess.root) == _size(target.root)
                totals["scenario"] += guess.scenario() == target.scenario()
            slots = sum(1 for _ in target.slots())
            for table, row in (
                (self.domain_counts, self.domains.index(domain)),
                (self.depth_counts, min(target.depth, DEPTHS) - 1),
                (self.slot_counts, min(slots, SLOTS)),
            ):
                table[row, 0] += 1
                table[row, 1] += int(exact)
        self.counts += torch.tensor([int(totals[name]) for name in self._NAMES], device=self.counts.device)

    def compute(self) -> dict[str, Any]:
        """All figures; shares in percent, on decoupled frames unless named otherwise.

        Returns:
            ``exact_match`` (micro), ``count``, ``macro_exact_match`` (mean over domains),
            ``unordered_exact_match``, ``unseen_exact_match`` and ``unseen_count`` (utterances not in training),
            ``well_formed``, ``frame_length_accuracy`` (number of nodes and leaves), ``scenario_accuracy``
            (template), ``bracket_precision``, ``bracket_recall``, ``bracket_f1`` (as in the TOP evaluation), and
            ``by_domain``, ``by_depth``, ``by_slots`` of ``{"exact_match", "count"}``.
        """
        c = dict(zip(self._NAMES, self.counts.tolist(), strict=True))
        by_domain = _table(self.domains, self.domain_counts)
        filled = [entry["exact_match"] for entry in by_domain.values()]
        precision, recall = _percent(c["matched"], c["predicted_brackets"]), _percent(c["matched"], c["gold_brackets"])
        return {
            "exact_match": _percent(c["exact"], c["count"]),
            "count": c["count"],
            "well_formed": _percent(c["well_formed"], c["count"]),
            "macro_exact_match": sum(filled) / max(1, len(filled)),
            "unordered_exact_match": _percent(c["unordered"], c["count"]),
            "unseen_exact_match": _percent(c["unseen_exact"], c["unseen_count"]),
            "unseen_count": c["unseen_count"],
            "frame_length_accuracy": _percent(c["length"], c["count"]),
            "scenario_accuracy": _percent(c["scenario"], c["count"]),
            "bracket_precision": precision,
            "bracket_recall": recall,
            "bracket_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            "by_domain": by_domain,
            "by_depth": _table(
                [str(d + 1) if d + 1 < DEPTHS else f"{DEPTHS}+" for d in range(DEPTHS)], self.depth_counts
            ),
            "by_slots": _table([str(s) if s < SLOTS else f"{SLOTS}+" for s in range(SLOTS + 1)], self.slot_counts),
        }


def rounded(result: Any) -> Any:
    """The result with every float rounded to two decimals, for files and tables."""
    if isinstance(result, dict):
        return {key: rounded(value) for key, value in result.items()}
    return round(result, 2) if isinstance(result, float) else result


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def _table(names: Sequence[str], counts: Tensor) -> dict[str, dict[str, float]]:
    rows = zip(names, counts.tolist(), strict=True)
    return {name: {"exact_match": _percent(exact, count), "count": count} for name, (count, exact) in rows if count}


def _size(node: Node) -> int:
    return 1 + sum(1 if isinstance(child, Span) else _size(child) for child in node.children)


class ScenarioRecall(Metric):
    """Share of the rows with a gold scenario in the bank for which it is among the first that are retrieved."""

    full_state_update = False
    hits: Tensor
    rows: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.zeros(len(RECALL_AT), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, retrieved: Sequence[np.ndarray], gold: Sequence[int | None]) -> None:
        """Counts a batch.

        Args:
            retrieved: for each row places in the bank, best first, the longest of :data:`RECALL_AT` of them.
            gold: place of its gold scenario, None where the bank lacks it.
        """
        for places, place in zip(retrieved, gold, strict=True):
            if place is not None:
                self.rows += 1
                self.hits += torch.tensor(
                    [bool((places[:n] == place).any()) for n in RECALL_AT], device=self.hits.device
                )

    def compute(self) -> dict[str, float]:
        """Percent, by ``recall_at_<n>``."""
        shares = 100 * self.hits / self.rows.clamp(min=1)
        return {f"recall_at_{n}": float(share) for n, share in zip(RECALL_AT, shares, strict=True)}
