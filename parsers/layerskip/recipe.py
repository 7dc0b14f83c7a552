"""The LayerSkip recipe as arithmetic: layer dropout, early exit loss and their schedules (Elhoushi et al. 2024, section 4).

Layers are numbered from 0. ``progress`` is the share of the training that is done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from parsers.bounds import check_bounds


@dataclass
class RecipeConfig:
    """How early layers are made to predict. The defaults are ours; ``paper`` in configs restores the paper's.

    Attributes:
        layer_dropout: largest probability that a layer is skipped, that of the last layer (paper: 0.2 on TOPv2).
        dropout_schedule: ``constant`` (paper, fine-tuning) or ``exponential`` in time (paper, from nothing).
        dropout_until: share of the training after which no layer is skipped any more; 1 is the paper's.
        exit_scale: the paper's e_scale: how much early exits count beside the last layer; 0 leaves the exits out.
        curriculum: which exits count at a step: ``rotational`` (every ``rotation``-th layer, shifted by one each step),
            ``gradual`` (from the last layer down, all of them by half of the training) or ``all``.
        rotation: see ``curriculum``.
        exit_targets: what early exits learn: ``labels`` (paper) or ``last`` (ours: the last layer's own distribution,
            self-distillation, so that exits do not pull the last layer towards what they can tell).
        last_weight: share of the last layer in the loss, the exits having the rest; None is the paper's, which falls with
            the number of exits that count.
        exit_fade: share of the training at its end in which the weight of the exits falls to zero; 0 is the paper's.
    """

    layer_dropout: float = 0.2
    dropout_schedule: Literal["constant", "exponential"] = "constant"
    dropout_until: float = 1.0
    exit_scale: float = 1.0
    curriculum: Literal["rotational", "gradual", "all"] = "rotational"
    rotation: int = 5
    exit_targets: Literal["labels", "last"] = "labels"
    last_weight: float | None = None
    exit_fade: float = 0.0

    def __post_init__(self) -> None:
        check_bounds(self)
        if not 0 <= self.layer_dropout < 1:
            raise ValueError(f"layer_dropout {self.layer_dropout}: at least 0, below 1")
        if self.last_weight is not None and not 0 < self.last_weight <= 1:
            raise ValueError(f"last_weight {self.last_weight}: above 0, at most 1")


def skip_probabilities(config: RecipeConfig, layers: int, progress: float) -> list[float]:
    """Probability that each layer is skipped: ``S(t) D(l) p_max`` (section 4.1.1, equations 1 to 3).

    ``D`` rises exponentially from 0 at the first layer to 1 at the last, ``S`` likewise in time or is constant.
    """
    if progress >= config.dropout_until:
        return [0.0] * layers
    time = 1.0 if config.dropout_schedule == "constant" else math.exp(progress * math.log(2)) - 1
    depth = [math.exp(layer * math.log(2) / max(1, layers - 1)) - 1 for layer in range(layers)]
    return [config.layer_dropout * time * share for share in depth]


def exit_weights(config: RecipeConfig, layers: int, progress: float, step: int) -> list[float]:
    """Weight of the loss after each layer, together 1 (section 4.1.2, equations 4 to 6); the last layer always counts.

    Args:
        config: the recipe.
        layers: of the model.
        progress: share of the training that is done.
        step: number of the step, for the rotation.
    """
    if layers == 1:
        return [1.0]
    scale = config.exit_scale
    sums: list[float] = [scale * sum(range(layer + 1)) for layer in range(layers - 1)]
    last = layers - 1 + scale * sum(range(layers - 1))
    if config.curriculum == "rotational":
        counts = [layer % config.rotation == step % config.rotation for layer in range(layers - 1)]
    elif config.curriculum == "gradual":
        # Exits switch on from the last layer down, one every 1/(2L) of the training.
        counts = [layer >= layers - 1 - int(2 * layers * progress) for layer in range(layers - 1)]
    else:
        counts = [True] * (layers - 1)
    early = [weight if on else 0.0 for weight, on in zip(sums, counts, strict=True)]
    total = math.fsum(early) + last
    early, own = [weight / total for weight in early], last / total
    if config.last_weight is not None and any(early):
        share = (1 - config.last_weight) / math.fsum(early)
        early, own = [weight * share for weight in early], config.last_weight
    if config.exit_fade:
        fade = min(1.0, (1 - progress) / config.exit_fade)
        early = [weight * fade for weight in early]
        own = 1 - sum(early)
    return [*early, own]


def draw_kept(probabilities: list[float], rows: int, device: torch.device) -> list[Tensor | None]:
    """For each layer which rows ``[B]`` do not skip it; None where no row can."""
    return [None if p == 0 else torch.rand(rows, device=device) >= p for p in probabilities]
