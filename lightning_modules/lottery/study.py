"""The transfer study of Desai, Zhan and Aly 2019 (arXiv 1910.12708), with the controls that it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.topv2.reader import data_root, split_files
from frames.errors import UsageError
from lightning_modules.lottery.config import read_config
from lightning_modules.lottery.experiment import FRESH, JOIN, Experiment, StudyConfig, Values, find_ticket
from lightning_modules.lottery.masks import random_mask
from lightning_modules.lottery.strategies import STRATEGIES, TRANSFERRED


@dataclass(frozen=True)
class Plan:
    """What a study consists of.

    Attributes:
        config: file with the sections model, data and study.
        root: corpus folder.
        stages: folder of the stages.
        sources: domains where tickets are sought; one may be several, joined by ``+``.
        targets: domains where they are trained again.
        seeds: of the repetitions.
        strategies: some of :data:`lightning_modules.lottery.strategies.STRATEGIES`.
        split: training split of the targets.
    """

    config: str
    root: str
    stages: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    strategies: tuple[str, ...] = STRATEGIES
    split: str = "train"

    def check(self) -> None:
        """Looks for what cannot be done before anything is trained.

        Raises:
            CorpusError: a domain or a split is not there.
            UsageError: a source is, or holds, one of the targets.
        """
        root = data_root(self.root)
        for source in self.sources:
            split_files(root, "train", source.split(JOIN))
            for target in self.targets:
                if target in source.split(JOIN):
                    raise UsageError(
                        "E565",
                        f"the source {source} and the target {target} share a domain, so nothing is transferred.",
                        remedy="Name other domains; ticket_target is the ticket of the target itself.",
                    )
        split_files(root, self.split, self.targets)
        split_files(root, "eval", self.targets)


@dataclass(frozen=True)
class Training:
    """One figure of the study: a training in the target.

    Attributes:
        source: where the mask is from; None where the target's parser knows no source.
        target: where it is trained.
        seed: of the repetition.
        strategy: one of :data:`lightning_modules.lottery.strategies.STRATEGIES`.
        round: of pruning, 0 for dense.
    """

    source: str | None
    target: str
    seed: int
    strategy: str
    round: int


@dataclass(frozen=True)
class Search:
    """One search for a ticket, which is a chain of trainings.

    Attributes:
        domain: where.
        seed: of the repetition.
        rewound: whether rounds return to early values.
        split: name of the training split.
    """

    domain: str
    seed: int
    rewound: bool
    split: str


def searches(plan: Plan, seed: int) -> list[Search]:
    """Searches for tickets that a repetition needs; those that return to early values need the others."""
    needed = set(TRANSFERRED) & set(plan.strategies)
    found = [Search(source, seed, False, "train") for source in plan.sources if needed]
    if {"ticket_target", "random_mask"} & set(plan.strategies):
        found += [Search(target, seed, False, plan.split) for target in plan.targets]
    if "masks_rewound" in plan.strategies:
        found += [Search(source, seed, True, "train") for source in plan.sources]
    return found


def trainings(plan: Plan, study: StudyConfig, seed: int) -> list[Training]:
    """Figures of a repetition."""
    found = []
    for target in plan.targets:
        for strategy in plan.strategies:
            rounds = [0] if strategy == "dense" else study.transferred
            sources: Sequence[str | None] = plan.sources if strategy in TRANSFERRED else [None]
            found += [Training(source, target, seed, strategy, r) for r in rounds for source in sources]
    return found


def run_study(
    plan: Plan, jobs: int = 1, progress: Callable[[int, int, str], None] | None = None
) -> list[dict[str, Any]]:
    """Makes all stages that are missing and gives back the figures.

    Args:
        plan: the study.
        jobs: trainings side by side, each in a process of its own.
        progress: called with the number of trainings done, that of all, and the last one's name.

    Returns:
        For each training in a target ``source`` (of every source where it knows none), ``target``, ``strategy``,
        ``sparsity``, ``seed`` and ``exact_match``.

    Raises:
        FramefillError: something is missing or wrong; what is done is kept.
    """
    try:
        from joblib import Parallel, delayed
    except ImportError as error:
        raise UsageError(
            "E572", "trainings side by side need the package joblib.", remedy="Run `pip install -e '.[lottery]'`."
        ) from error
    plan.check()
    _, _, study = read_config(plan.config)
    by_seed = [(searches(plan, seed), trainings(plan, study, seed)) for seed in plan.seeds]
    total = sum(study.rounds * len(sought) + len(found) for sought, found in by_seed)
    done, results = 0, []
    with Parallel(n_jobs=jobs, return_as="generator_unordered") as parallel:
        for sought, found in by_seed:
            # Searches that return to early values begin with the dense training of the others.
            for rewound in (False, True):
                for name in parallel(delayed(_search)(plan, s) for s in sought if s.rewound == rewound):
                    done += study.rounds
                    if progress:
                        progress(done, total, name)
            for training, sparsity, exact_match in parallel(delayed(_train)(plan, t) for t in found):
                results.append((training, sparsity, exact_match))
                done += 1
                if progress:
                    where = training.target if training.source is None else f"{training.source} to {training.target}"
                    progress(done, total, f"{where}, {training.strategy}, seed {training.seed}: {exact_match}")
    return list(_rows(plan, results))


def _rows(plan: Plan, results: Sequence[tuple[Training, float, float]]) -> Iterator[dict[str, Any]]:
    for training, sparsity, exact_match in results:
        for source in plan.sources if training.source is None else [training.source]:
            yield {
                "source": source,
                "target": training.target,
                "strategy": training.strategy,
                "sparsity": round(sparsity, 6),
                "seed": training.seed,
                "exact_match": exact_match,
            }


@lru_cache(maxsize=1)
def experiment_of(config: str, root: str, stages: str) -> Experiment:
    """The experiment of a process, which reads the corpus once."""
    module, data, study = read_config(config)
    return Experiment(module, data, study, root, Path(stages))


def _experiment(plan: Plan) -> Experiment:
    return experiment_of(plan.config, plan.root, plan.stages)


def _search(plan: Plan, search: Search) -> str:
    experiment = _experiment(plan)
    records = find_ticket(experiment, search.domain, search.seed, search.rewound, search.split)
    rewound = "_rewound" if search.rewound else ""
    experiment.write_masks(records, f"{search.domain}_{search.split}_seed_{search.seed}{rewound}")
    return f"ticket of {search.domain}{', early values' if search.rewound else ''}, seed {search.seed}"


def _train(plan: Plan, training: Training) -> tuple[Training, float, float]:
    """The training, its sparsity and its exact match in the target."""
    record = _record(_experiment(plan), plan, training)
    return training, record["sparsity"], record["exact_match"]


def _record(experiment: Experiment, plan: Plan, training: Training) -> dict[str, Any]:
    t = training
    if t.strategy == "dense":
        return experiment.train(t.target, t.seed, None, Values(t.seed), prunes=True, split=plan.split)
    if t.strategy == "ticket_target":
        return find_ticket(experiment, t.target, t.seed, split=plan.split)[t.round]
    if t.strategy == "random_mask":
        # With layers pruned alike everywhere, the sparsity of each layer is that of any ticket of this round.
        like = find_ticket(experiment, t.target, t.seed, split=plan.split)[t.round - 1]
        mask = random_mask(experiment.next_mask(like), FRESH + t.seed)
        return experiment.train(t.target, t.seed, mask, Values(t.seed), split=plan.split)
    assert t.source is not None
    found = find_ticket(experiment, t.source, t.seed, rewound=t.strategy == "masks_rewound")
    mask = experiment.next_mask(found[t.round - 1])
    values = {
        "masks_reset": Values(t.seed),
        "masks_random": Values(FRESH + t.seed),
        "masks_rewound": Values(t.seed, found[0]["key"]),
    }[t.strategy]
    return experiment.train(t.target, t.seed, mask, values, split=plan.split)
