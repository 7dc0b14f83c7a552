"""A trained parser as the teacher of another."""

from __future__ import annotations

import torch

from data.training.batches import Batch
from frames.errors import UsageError
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from lightning_modules.parser_module import TargetLogProbs


class Teacher:
    """A checkpoint's parser, never trained further; no module, so that it is not saved with the student.

    Args:
        path: the checkpoint.
        student: pieces, labels and form of the student.
        device: where it works.

    Raises:
        UsageError: the teacher has other pieces, labels or another form.
        BundleError: the checkpoint cannot be read.
    """

    def __init__(self, path: str, student: Assets, device: torch.device) -> None:
        module, _ = load_module(path, device=device)
        mine, wanted = module.built.to_dict(), student.to_dict()
        for name in ("tokenizer", "form"):
            if mine[name] != wanted[name]:
                raise UsageError("E425", f"the teacher {path} has another {name}.", remedy="Train both with the same.")
        if module.built.ontology.tokens != student.ontology.tokens:
            raise UsageError("E425", f"the teacher {path} has other labels.", remedy="Train both on the same rows.")
        self._module = module.requires_grad_(False)

    @torch.no_grad()
    def target_log_probs(self, batch: Batch) -> TargetLogProbs:
        """See :meth:`lightning_modules.parser_module.ParserModule.target_log_probs`."""
        return self._module.target_log_probs(batch)
