"""Trainings of structured tickets, beside the dense parser and the same small parser trained from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lightning_modules.lottery.experiment import FRESH, Experiment, Values
from lightning_modules.lottery.masks import weights_of
from lightning_modules.lottery.structured import shrunk, structured_ticket
from lightning_modules.parser_module import ParserModule
from parsers.nar_model import NARModel

#: How a parser begins: ``dense``, a ticket with its trained or its initial values, or a small parser from nothing.
Start = Literal["dense", "trained", "initial", "nothing"]


@dataclass(frozen=True)
class Smaller:
    """A trained parser.

    Attributes:
        module: the parser, with its parameters.
        record: its figures.
        weights: the parameters by name.
    """

    module: ParserModule
    record: Mapping[str, Any]
    weights: Mapping[str, Tensor]


def train_smaller(experiment: Experiment, domain: str, seed: int, start: Start, kept: float = 1.0) -> Smaller:
    """A dense parser, a structured ticket of it, or a parser of the ticket's sizes trained from nothing.

    The ticket is chosen by the dense parser's trained weights. A small parser from nothing takes twice the steps: as many
    as the dense parser and its ticket together.

    Args:
        experiment: sizes, corpus and stages.
        domain: to train on and score in.
        seed: of values and order.
        start: what the training begins with.
        kept: share of heads and channels, for all but ``dense``.

    Raises:
        UsageError: no parser of this share can be made, see :func:`lightning_modules.lottery.structured.shrunk`.
    """
    steps = experiment.study.steps * (2 if start == "nothing" else 1)
    made = {"start": start, "kept": kept, "steps": steps}
    key = {**experiment.key(domain, seed, None, Values(seed)), "structured": made}
    module = experiment.new_module(seed)
    if start != "dense":
        dense, config = module, shrunk(module.sizes, kept)
        module = experiment.new_module(FRESH + seed, config)
        if start != "nothing":
            trained = train_smaller(experiment, domain, seed, "dense")
            begins = trained.module if start == "trained" else dense
            assert isinstance(begins.model, NARModel) and isinstance(module.model, NARModel)
            _load(module, structured_ticket(begins.model, module.model, trained.weights))
    record = experiment.store.read(key)
    if record is None:
        record = experiment.fit(module, experiment.domain(domain), seed, steps, [])
        experiment.store.write(key, record, {"weights": weights_of(module.net)})
    weights = experiment.store.tensors(key, "weights")
    _load(module, weights)
    return Smaller(module, record, weights)


def _load(module: ParserModule, weights: Mapping[str, Tensor]) -> None:
    module.net.load_state_dict({**module.net.state_dict(), **weights})
