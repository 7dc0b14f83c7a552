"""A scenario bank under training: encoded as a whole now and then, and in part in every step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from parsers.raf.model import RAF
from parsers.torch_backend import evaluation_mode
from retrieval.bank import ScenarioBank
from retrieval.glosses import GlossBatch, Glosses
from retrieval.index import IndexKind, ScenarioIndex
from retrieval.table import LeafRows, ScenarioTable

#: Pieces and padding of a group of glosses: when the whole bank is encoded, and within a training step.
MAX_TOKENS_OF_BANK, MAX_TOKENS_OF_STEP = 16384, 640
#: Smaller banks are encoded without a progress bar.
MIN_SCENARIOS_FOR_PROGRESS = 2048
#: Name prefixes of the parameters that a scenario's vector depends on.
KEY_PREFIXES = ("encoder.", "scenario_encoder.", "key_head.", "scenario_embeddings")


class EncodedBank(NamedTuple):
    """A bank as last encoded.

    Attributes:
        glosses: unit vectors of the glosses ``[N, retrieval_width]``; see :meth:`parsers.raf.model.RAF.keys`.
        leaves: states of all leaves, in the order of the bank, ``[leaves, leaf_width]``.
    """

    glosses: Tensor
    leaves: Tensor


class BankEncoder:
    """Encodes the scenarios of a bank by a model, and keeps the result until the parameters have moved too far.

    Args:
        model: the parser's module.
        bank: the scenarios.
        glosses: of the bank.

    Attributes:
        encoded: the bank as last encoded, without gradients; None has it encoded anew when it is needed.
    """

    def __init__(self, model: RAF, bank: ScenarioBank, glosses: Glosses) -> None:
        self.model, self.bank, self.glosses = model, bank, glosses
        self.leaf_rows = LeafRows(glosses.leaf_counts)
        self.encoded: EncodedBank | None = None

    def current(self) -> EncodedBank:
        """The bank as last encoded, or encoded now."""
        if self.encoded is None:
            return self.encode_all()
        # A resumed training has read them from a checkpoint, wherever that put them.
        return EncodedBank(*(states.to(self._device) for states in self.encoded))

    def encode_all(self) -> EncodedBank:
        """Encodes the whole bank as for parsing: without dropout and without gradients."""
        model, device, count = self.model, self._device, len(self.glosses)
        encoded = EncodedBank(
            torch.empty(count, model.key_head.out_features, device=device),
            torch.empty(self.leaf_rows.total, model.leaf_width, device=device),
        )
        groups = self.glosses.groups(np.arange(count), MAX_TOKENS_OF_BANK)
        hidden = count < MIN_SCENARIOS_FOR_PROGRESS
        with frozen_inference(model):
            for scenario_ids, group in track(groups, "encoding the bank", total=None, transient=True, disable=hidden):
                encoded = self._update(encoded, scenario_ids, group)
        return encoded

    def update(self, encoded: EncodedBank, scenario_ids: np.ndarray) -> EncodedBank:
        """The encoded bank with these scenarios encoded anew, with gradients."""
        for group_ids, group in self.glosses.groups(scenario_ids, MAX_TOKENS_OF_STEP):
            encoded = self._update(encoded, group_ids, group)
        return encoded

    def leaf_states(self, encoded: EncodedBank, scenario_ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """States ``[N, L, leaf_width]`` and mask ``[N, L]`` of the leaves of the scenarios ``[N]``."""
        rows, mask = (torch.from_numpy(array).to(self._device) for array in self.leaf_rows.row_indices(scenario_ids))
        if not len(encoded.leaves):
            return encoded.leaves.new_zeros(*rows.shape, self.model.leaf_width), mask
        return encoded.leaves[rows], mask

    def build_table(self, index_kind: IndexKind) -> ScenarioTable:
        """The bank encoded by the present parameters, with an index."""
        encoded = self.encode_all()
        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            if name.startswith(KEY_PREFIXES):
                digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        keys = self.model.keys(encoded.glosses).detach().cpu().numpy()
        index = ScenarioIndex.build(keys, digest.hexdigest(), self.bank.digest, index_kind)
        return ScenarioTable(self.bank, index, self.model.scale.item(), encoded.leaves.cpu().numpy())

    def state_dict(self) -> dict[str, Tensor]:
        """The bank as last encoded, for a training that resumes; empty where there is none."""
        return {} if self.encoded is None else self.encoded._asdict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.encoded = EncodedBank(**state) if state else None

    @property
    def _device(self) -> torch.device:
        return self.model.sharpness.device

    def _update(self, encoded: EncodedBank, scenario_ids: np.ndarray, group: GlossBatch) -> EncodedBank:
        """The encoded bank with a group of scenarios encoded anew."""
        pieces, mask, leaf_pieces, leaf_mask = (torch.from_numpy(array).to(self._device) for array in group)
        glosses, leaves = self.model.encode_scenarios(pieces, mask, leaf_pieces)
        ids = torch.from_numpy(scenario_ids).to(self._device)
        rows = torch.from_numpy(self.leaf_rows.row_indices(scenario_ids)[0]).to(self._device)
        return EncodedBank(
            encoded.glosses.index_copy(0, ids, glosses.float()),
            encoded.leaves.index_copy(0, rows[leaf_mask], leaves[leaf_mask].float()),
        )


@contextmanager
def frozen_inference(model: RAF) -> Iterator[None]:
    """Runs a model as when it parses: without dropout, and without gradients."""
    try:
        with evaluation_mode(model), torch.no_grad():
            yield
    finally:
        # Within a step, the autocast cache would give later passes weights that were cast here, without gradients.
        torch.clear_autocast_cache()
