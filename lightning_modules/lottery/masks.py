"""Masks of a model's weights: magnitude pruning, random masks, and their application by parametrization."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from frames.errors import BundleError, UsageError

#: Whether magnitudes compete within a layer or across the whole model.
Scope = Literal["layer", "global"]


@dataclass
class PruningConfig:
    """How a round of pruning chooses its weights.

    Attributes:
        share: of the weights that are left, how many a round removes (Desai et al. 2019: 0.35).
        scope: ``layer`` removes this share in every layer (the paper), ``global`` the smallest of all layers together.
        smallest_layer: layers of fewer weights stay dense, or high sparsities would empty them; biases and norms are
            never pruned.
    """

    share: float = 0.35
    scope: Scope = "layer"
    smallest_layer: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share {self.share}: between 0 and 1")


@dataclass(frozen=True)
class Mask:
    """Which weights are kept.

    Attributes:
        kept: for each pruned parameter a boolean tensor of its shape, True where the weight is kept.
    """

    kept: Mapping[str, Tensor]

    @property
    def sparsity(self) -> float:
        """Share of the weights of pruned layers that is removed."""
        return 1 - sum(self.counts.values()) / sum(kept.numel() for kept in self.kept.values())

    @property
    def counts(self) -> dict[str, int]:
        """Weights kept in each layer."""
        return {name: int(kept.sum()) for name, kept in self.kept.items()}

    @property
    def layers(self) -> dict[str, float]:
        """Sparsity of each layer."""
        return {name: 1 - float(kept.float().mean()) for name, kept in self.kept.items()}

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes and bits."""
        digest = hashlib.sha256()
        for name in sorted(self.kept):
            digest.update(f"{name} {tuple(self.kept[name].shape)}".encode())
            digest.update(self.kept[name].numpy().tobytes())
        return digest.hexdigest()


class Masked(nn.Module):
    """Parametrization that multiplies a weight by its mask: pruned weights are exact zeros whatever an optimizer does.

    Args:
        kept: True where the weight is kept.
    """

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.kept: Tensor
        self.register_buffer("kept", kept)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with zeros, of the same shape."""
        return torch.where(self.kept, weight, 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is stored for a weight that is assigned."""
        return torch.where(self.kept, weight, 0.0)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The effective parameters by their names without parametrizations, detached copies."""
    found = {}
    for name, value in model.named_parameters():
        if ".parametrizations." in f".{name}":
            module, parameter = _owner(model, plain_name(name))
            value = getattr(module, parameter)
        found[plain_name(name)] = value.detach().clone()
    return found


def plain_name(name: str) -> str:
    """``a.parametrizations.weight.original`` as ``a.weight``; other names as they are."""
    return name.replace("parametrizations.", "").removesuffix(".original") if "parametrizations." in name else name


def dense_mask(weights: Mapping[str, Tensor], smallest_layer: int) -> Mask:
    """Keeps every weight of the matrices that are large enough to be pruned.

    Raises:
        UsageError: none is.
    """
    matrices = {name: value for name, value in weights.items() if value.ndim > 1}
    chosen = {name: value for name, value in matrices.items() if value.numel() >= smallest_layer}
    if not chosen:
        largest = max((value.numel() for value in matrices.values()), default=0)
        raise UsageError(
            "E573",
            f"no layer has the {smallest_layer} weights that pruning begins at; the largest has {largest}.",
            remedy="Set a lower smallest_layer.",
        )
    return Mask({name: torch.ones(value.shape, dtype=torch.bool) for name, value in chosen.items()})


def pruned(weights: Mapping[str, Tensor], mask: Mask, config: PruningConfig) -> Mask:
    """One round of magnitude pruning.

    Args:
        weights: trained parameters by name.
        mask: weights that are left.
        config: how many more to remove, and how they compete.

    Returns:
        A mask within ``mask``.

    Raises:
        UsageError: a layer would have no weight left.
    """
    scores = {name: weights[name].abs().where(kept, -torch.inf).flatten() for name, kept in mask.kept.items()}
    if config.scope == "layer":
        chosen = {name: _top(score, _left(mask.counts[name], config.share)) for name, score in scores.items()}
    else:
        total = _top(torch.cat(list(scores.values())), _left(sum(mask.counts.values()), config.share))
        chosen = dict(zip(scores, total.split([score.numel() for score in scores.values()]), strict=True))
    return checked(Mask({name: bits.view(mask.kept[name].shape) for name, bits in chosen.items()}))


def random_mask(like: Mask, seed: int) -> Mask:
    """A mask that keeps as many weights of each layer as another, drawn uniformly."""
    generator = torch.Generator().manual_seed(seed)
    kept = {
        name: _top(torch.rand(bits.numel(), generator=generator), int(bits.sum())).view(bits.shape)
        for name, bits in sorted(like.kept.items())
    }
    return Mask(kept)


def checked(mask: Mask) -> Mask:
    """The mask itself.

    Raises:
        UsageError: a layer has no weight left.
    """
    for name, count in mask.counts.items():
        if count == 0:
            raise UsageError(
                "E560",
                f"a sparsity of {mask.sparsity:.4f} leaves no weight of the layer {name} "
                f"({mask.kept[name].numel()} weights).",
                remedy="Take fewer rounds, a smaller share, or a higher smallest_layer, which leaves small layers dense.",
            )
    return mask


def apply_mask(model: nn.Module, mask: Mask, where: str = "") -> None:
    """Sets the pruned weights of a model to zero for good; a mask that it has is replaced.

    Args:
        model: the model, whose values of kept weights stay as they are.
        mask: of its parameters.
        where: file of the mask, for errors.

    Raises:
        BundleError: the mask is of another model.
    """
    weights = weights_of(model)
    for name, kept in mask.kept.items():
        if name not in weights or weights[name].shape != kept.shape:
            has = f"shape {tuple(weights[name].shape)}" if name in weights else "no such parameter"
            raise BundleError(
                "E561",
                f"the mask is of another model: {name} has shape {tuple(kept.shape)} in the mask, the model has {has}.",
                where=where,
                remedy="Use the config that the mask was made with.",
            )
    remove_mask(model)
    names: dict[Tensor, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(value, []).append(name)
    for weight, tied in names.items():
        if tied[0] not in mask.kept:
            continue
        # A tied weight is read by several modules, each of which would read what is pruned.
        for name in tied:
            module, parameter = _owner(model, name)
            parametrize.register_parametrization(module, parameter, Masked(mask.kept[tied[0]].to(weight.device)))


def remove_mask(model: nn.Module) -> None:
    """Makes plain parameters of masked ones; pruned weights stay zero, but may be trained again."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[union-attr, arg-type]
                parametrize.remove_parametrizations(module, str(name))


def mask_of(model: nn.Module) -> Mask | None:
    """The mask that was applied to a model, None if there is none."""
    masks = {
        plain_name(name.removesuffix(".0")): module.kept.detach().cpu()
        for name, module in model.named_modules()
        if isinstance(module, Masked)
    }
    # Of tied weights one name is enough, which is the one that parameters go by.
    found = {name: masks[name] for name in map(plain_name, dict(model.named_parameters())) if name in masks}
    return Mask(found) if found else None


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and the parameter's name there."""
    path, _, parameter = name.rpartition(".")
    return model.get_submodule(path), parameter


def _left(count: int, share: float) -> int:
    return round(count * (1 - share))


def _top(scores: Tensor, count: int) -> Tensor:
    """True at the ``count`` highest of the scores ``[N]``."""
    bits = torch.zeros(scores.numel(), dtype=torch.bool)
    bits[scores.topk(count).indices] = True
    return bits
