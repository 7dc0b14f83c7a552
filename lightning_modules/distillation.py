"""A trained parser as the teacher of another."""

from __future__ import annotations

import torch

from data.training.batches import Batch
from frames.errors import UsageError
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from lightning_modules.parser_module import TargetLogProbs
from parsers.nar_model import NARModel


class Teacher:
    """A checkpoint's parser, never trained further; no module, so that it is not saved with the student.

    Args:
        path: the checkpoint.
        student: pieces, labels and form of the student.
        max_length: longest target whose length the student predicts.
        device: where it works.

    Raises:
        UsageError: the teacher has other pieces or labels, another form, or predicts the length of other targets.
        BundleError: the checkpoint cannot be read.
    """

    def __init__(self, path: str, student: Assets, max_length: int, device: torch.device) -> None:
        module, _ = load_module(path, device=device)
        # A teacher that predicts no lengths may have targets of any.
        longest = module.net.max_length if isinstance(module.net, NARModel) else max_length
        mine = {**module.built.to_dict(), "model.max_length": longest}
        # Reading rounds the scores of pieces, and the teacher's were read.
        wanted = {**Assets.from_dict(student.to_dict()).to_dict(), "model.max_length": max_length}
        for name in ("tokenizer", "form", "model.max_length"):
            if mine[name] != wanted[name]:
                raise UsageError("E425", f"the teacher {path} has another {name}.", remedy="Train both with the same.")
        if module.built.ontology.tokens != student.ontology.tokens:
            raise UsageError("E426", f"the teacher {path} has other labels.", remedy="Train both on the same rows.")
        self._module = module.requires_grad_(False)

    @torch.no_grad()
    def target_log_probs(self, batch: Batch) -> TargetLogProbs:
        """See :meth:`lightning_modules.parser_module.ParserModule.target_log_probs`."""
        return self._module.target_log_probs(batch)
