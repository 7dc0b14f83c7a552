"""Training of RAF: retrieval, filling and composition together; and a last stage of retrieval alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from data.training.batches import Batch
from frames.errors import UsageError
from frames.tokenization import PieceTokenizer
from lightning_modules.bank_encoder import BankEncoder, EncodedBank, frozen_inference
from lightning_modules.datamodule import Assets, Needs
from lightning_modules.metrics import RECALL_AT, ScenarioRecall
from lightning_modules.nar import NARModule, NAROptimizationConfig
from lightning_modules.pretrained import PretrainedModule
from parsers.raf.candidate import RAFDecodingConfig
from parsers.raf.model import RAF, RAF_PREFIXES, RETRIEVAL_PREFIXES, RAFConfig
from parsers.raf.parser import RAFParser
from parsers.raf.torch_backend import RAFTorchBackend
from retrieval.glosses import Glosses
from retrieval.scenario import Scenario
from retrieval.scoring import retrieval_nll
from retrieval.table import ScenarioTable

#: Share of a training with mined negatives, from its start, in which the retrieval loss counts alone (the paper's warm-up).
RETRIEVAL_ONLY_SHARE = 0.1


@dataclass
class RAFOptimizationConfig(NAROptimizationConfig):
    """Losses and rates of retrieving and filling. The span pointer is trained unless ``decoding.compose_weight`` is 0.

    Attributes:
        num_mined_negatives: scenarios mined for each utterance, as negatives beside the batch's other scenarios (the paper);
            None (ours) takes all other scenarios of the bank, by vectors that are ``bank_refresh_steps`` old at most.
            With mined negatives, the retrieval loss counts alone at first (:data:`RETRIEVAL_ONLY_SHARE`).
        num_ranking_negatives: scenarios nearest to each utterance for the ranking loss, each filled with its best spans,
            against the gold frame (the paper); 0 leaves the loss out.
        compose_lr: peak rate of the parameters that compose frames, the encoder's aside; None for ``lr``.
        bank_refresh_steps: steps between two encodings of the whole bank.
        scenarios_encoded_per_step: scenarios of a step that are encoded anew, with gradients, drawn at random; all others
            are taken as last encoded. None (the paper) encodes all scenarios of the step, the most expensive part of it.
    """

    num_mined_negatives: int | None = None
    num_ranking_negatives: int = 0
    compose_lr: float | None = None
    bank_refresh_steps: int = 500
    scenarios_encoded_per_step: int | None = None


class RAFModule(PretrainedModule, NARModule):
    """RAF (Shrivastava et al. 2022) under Lightning.

    Args:
        model: sizes, and the pretrained encoder.
        decoding: how candidates are found and weighed.
        optimization: losses and rates.
    """

    kind = "raf"
    forms = ("span",)
    config_class = RAFConfig
    decoding_class = RAFDecodingConfig
    optimization_class = RAFOptimizationConfig
    model: RAF | None
    net: RAF
    optimization: RAFOptimizationConfig

    def __init__(
        self,
        model: RAFConfig = RAFConfig(),  # noqa: B008 (LightningCLI shows the defaults)
        decoding: RAFDecodingConfig = RAFDecodingConfig(),  # noqa: B008
        optimization: RAFOptimizationConfig = RAFOptimizationConfig(),  # noqa: B008
    ) -> None:
        super().__init__(model, decoding, optimization)
        self._bank_encoder: BankEncoder | None = None
        self._table: ScenarioTable | None = None
        self.recall = ScenarioRecall()

    @property
    def needs(self) -> Needs:
        """See :attr:`ParserModule.needs`."""
        return dataclasses.replace(super().needs, bank=True)

    @property
    def bank_encoder(self) -> BankEncoder:
        """Encodes the bank by the model.

        Raises:
            RuntimeError: :meth:`build` was not called yet.
        """
        if self._bank_encoder is None:
            raise RuntimeError("the module has no bank yet: call build(assets) first")
        return self._bank_encoder

    def make_model(self, tokenizer: PieceTokenizer, num_ontology_tokens: int) -> RAF:
        """See :meth:`ParserModule.make_model` and :meth:`PretrainedModule.make_transformer`."""
        transformer = self.make_transformer(tokenizer)
        second = copy.deepcopy(transformer) if self.config.filling == "cross_encoder" else None
        assert self.built.bank is not None
        # Without a training row, a learned vector would only be pushed away as a negative.
        seen = self.built.bank.num_seen
        return RAF(self.config, transformer, tokenizer.prefix, tokenizer.suffix, num_ontology_tokens, second, seen)

    def build(self, assets: Assets) -> None:
        """Builds the model, and the encoder of the bank.

        Raises:
            UsageError: there is no bank.
        """
        if assets.bank is None:
            raise UsageError(
                "E441", "RAF needs a scenario bank.", remedy="Set needs of the data module to those of this module."
            )
        super().build(assets)
        self._use_bank(assets)

    def add(self, scenarios: Iterable[Scenario]) -> None:
        """Adds scenarios to the bank, without training."""
        assert self.built.bank is not None
        self.assets = dataclasses.replace(self.built, bank=self.built.bank.added(scenarios))
        self._use_bank(self.assets)

    def _use_bank(self, assets: Assets) -> None:
        assert assets.bank is not None
        glosses = Glosses(assets.bank, assets.tokenizer, self.config.gloss)
        self._bank_encoder = BankEncoder(self.net, assets.bank, glosses)
        self._table = None

    def rate(self, name: str) -> float:
        """See :meth:`PretrainedModule.rate`; the span pointer's parameters may have a rate of their own."""
        o = self.optimization
        composes = not name.removeprefix("model.").startswith((*RAF_PREFIXES, "encoder."))
        return o.compose_lr if composes and o.compose_lr is not None else super().rate(name)

    def parser(self) -> RAFParser:
        """See :meth:`ParserModule.parser`; the bank is encoded once for the present parameters."""
        if self._table is None:
            self._table = self.bank_encoder.build_table(self.decoding.index)
        assets = self.built
        backend = RAFTorchBackend(self.net, self.bank_encoder.glosses)
        return RAFParser(backend, assets.tokenizer, assets.ontology, self._table, self.decoding)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of retrieval, filling and composition, each a scalar; ``loss`` is their sum."""
        o, model = self.optimization, self.net
        memory, lengths = model.encode(batch.pieces, batch.mask)
        queries = model.query(memory, batch.mask)
        bank = self.bank_encoder.current()
        step_scenarios = self._step_scenarios(queries, bank, batch)
        chosen = step_scenarios[torch.randperm(len(step_scenarios))[: o.scenarios_encoded_per_step]]
        bank = self.bank_encoder.update(bank, chosen.cpu().numpy())
        self.bank_encoder.encoded = EncodedBank(*(states.detach() for states in bank))
        keys = model.keys(bank.glosses)
        losses = {"retrieval": self._retrieval_loss(queries, keys, step_scenarios, batch)}
        if self._retrieves_only():
            return {"loss": losses["retrieval"], **losses}
        losses |= self._filling_losses(batch, memory, queries, bank, keys)
        total = torch.stack(list(losses.values())).sum()
        if self.decoding.compose_weight:
            composed = self.frame_losses(batch, memory, lengths)
            total = total + composed.pop("loss")
            losses |= composed
        return {"loss": total, **losses}

    def _step_scenarios(self, queries: Tensor, bank: EncodedBank, batch: Batch) -> Tensor:
        """Ids of the step's scenarios ``[C]``, each once: those of the rows, and the mined negatives."""
        assert batch.scenarios is not None
        mined = self._nearest(queries, bank, batch, self.optimization.num_mined_negatives or 0)
        return torch.unique(torch.cat((batch.scenarios, mined.flatten())))

    @torch.no_grad()
    def _nearest(self, queries: Tensor, bank: EncodedBank, batch: Batch, count: int) -> Tensor:
        """Ids ``[B, count]`` of the scenarios, other than their own, that the rows are nearest to."""
        assert batch.scenarios is not None
        if not count:
            return batch.scenarios.new_zeros((len(queries), 0))
        near = queries @ self.net.keys(bank.glosses).T  # [B, N]
        near.scatter_(1, batch.scenarios[:, None], -torch.inf)
        return near.topk(min(count, near.shape[1] - 1)).indices

    def _retrieval_loss(self, queries: Tensor, keys: Tensor, step_scenarios: Tensor, batch: Batch) -> Tensor:
        """The gold scenario of each row against the bank, or against the other scenarios of the step; a scalar.

        Args:
            queries: vectors of the rows ``[B, D]``.
            keys: vectors of the bank ``[N, D]``.
            step_scenarios: ids of the step's scenarios ``[C]``, sorted.
            batch: the rows.
        """
        assert batch.scenarios is not None
        gold = batch.scenarios
        if self.optimization.num_mined_negatives is not None:
            keys, gold = keys[step_scenarios], torch.searchsorted(step_scenarios, gold)
        return retrieval_nll(queries, keys, gold, self.net.scale, self.optimization.label_smoothing).mean()

    def _filling_losses(
        self, batch: Batch, memory: Tensor, queries: Tensor, bank: EncodedBank, keys: Tensor
    ) -> dict[str, Tensor]:
        """The loss of the gold spans, and the ranking loss of the gold frame against rival scenarios, each a scalar."""
        assert batch.scenarios is not None
        rivals = self._nearest(queries, bank, batch, self.optimization.num_ranking_negatives)  # [B, K - 1]
        scenario_ids = torch.cat((batch.scenarios[:, None], rivals), dim=1)  # [B, K], the gold scenario first
        spans, leaf_mask = self._spans(batch, memory, bank, scenario_ids)  # [B, K, L, S, S], [B, K, L]
        gold_spans = endpoints(batch, self.net.ontology_size, spans.shape[2])  # [B, L, 2]
        gold = span_scores(spans[:, 0], gold_spans) * leaf_mask[:, 0]  # [B, L]
        losses = {"fill": -gold.sum() / leaf_mask[:, 0].sum().clamp(min=1)}
        if rivals.shape[1]:
            best = (spans[:, 1:].flatten(3).amax(dim=3) * leaf_mask[:, 1:]).sum(dim=2)  # [B, K - 1]
            filled = torch.cat((gold.sum(dim=1, keepdim=True), best), dim=1)  # [B, K]
            total = self.net.scale * torch.einsum("bd,bkd->bk", queries, keys[scenario_ids]) + filled  # [B, K]
            losses["ranking"] = -torch.log_softmax(total, dim=1)[:, 0].mean()
        return losses

    def _spans(self, batch: Batch, memory: Tensor, bank: EncodedBank, scenario_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Spans ``[B, K, L, S, S]`` of the scenarios ``[B, K]``, and the mask ``[B, K, L]`` of their leaves."""
        count = scenario_ids.shape[1]
        spans, leaf_mask = self.net.fill_scenarios(
            memory.repeat_interleave(count, dim=0),  # [B * K, S, W]
            batch.pieces.repeat_interleave(count, dim=0),  # [B * K, S]
            None if batch.mask is None else batch.mask.repeat_interleave(count, dim=0),  # [B * K, S]
            scenario_ids.flatten().cpu().numpy(),  # [B * K]
            self.bank_encoder.glosses,
            partial(self.bank_encoder.leaf_states, bank),
        )
        return spans.unflatten(0, (-1, count)), leaf_mask.unflatten(0, (-1, count))

    def _retrieves_only(self) -> bool:
        """Whether the retrieval loss still counts alone."""
        mines = self.optimization.num_mined_negatives is not None
        return mines and self._trainer is not None and self._progress(self.global_step) < RETRIEVAL_ONLY_SHARE

    def _bank_is_due(self) -> bool:
        """Whether the whole bank is to be encoded anew before this step."""
        return self.global_step % self.optimization.bank_refresh_steps == 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Has the bank encoded anew every ``bank_refresh_steps`` steps."""
        super().on_train_batch_start(batch, batch_idx)
        self._table = None
        if self._bank_is_due():
            self.bank_encoder.encoded = None

    def on_validation_start(self) -> None:
        """Drops the table: the parameters differ from those of the last validation, or are those of a moving average."""
        self._table = None

    def validation_step(self, rows: Tensor, batch_idx: int) -> None:
        """See :meth:`ParserModule.validation_step`; counts recall as well."""
        super().validation_step(rows, batch_idx)
        examples = [self._datamodule().eval_examples[row] for row in rows.tolist()]
        parser = self.parser()
        sources = parser.tokenizer.batch([example.utterance for example in examples])
        gold = [parser.table.bank.id(Scenario.from_frame(example.frame)) for example in examples]
        self.recall.update(parser.retrieved(sources, max(RECALL_AT)), gold)

    def on_validation_epoch_end(self) -> None:
        """See :meth:`ParserModule.on_validation_epoch_end`; logs recall as well."""
        super().on_validation_epoch_end()
        self.log_dict({f"val/{name}": value for name, value in self.recall.compute().items()})
        self.recall.reset()

    def on_validation_end(self) -> None:
        """See :meth:`on_validation_start`."""
        self._table = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the encoded bank, so that a resumed training goes on with it."""
        super().on_save_checkpoint(checkpoint)
        if state := self.bank_encoder.state_dict():
            checkpoint["reading"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the encoded bank."""
        super().on_load_checkpoint(checkpoint)
        self.bank_encoder.load_state_dict(checkpoint.get("reading", {}))


class RAFRetrievalModule(RAFModule):
    """A last stage of RAF (ours), from a trained one: the retrieval head alone is trained, on the encoder as it parses.

    The encoder runs without dropout and is not changed, so the bank is encoded once. Checkpoints are of the kind ``raf``.
    """

    def build(self, assets: Assets) -> None:
        """See :meth:`RAFModule.build`; freezes all parameters but those of :data:`parsers.raf.model.RETRIEVAL_PREFIXES`."""
        super().build(assets)
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name.startswith(RETRIEVAL_PREFIXES))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The retrieval loss, a scalar."""
        with frozen_inference(self.net):
            memory, _ = self.net.encode(batch.pieces, batch.mask)
        queries = self.net.query(memory, batch.mask)
        bank = self.bank_encoder.encoded = self.bank_encoder.current()
        step_scenarios = self._step_scenarios(queries, bank, batch)
        loss = self._retrieval_loss(queries, self.net.keys(bank.glosses), step_scenarios, batch)
        return {"loss": loss, "retrieval": loss}

    def _bank_is_due(self) -> bool:
        """Never: the parameters that encode the bank stay as they are."""
        return False


def endpoints(batch: Batch, num_ontology_tokens: int, leaves: int) -> Tensor:
    """Gold endpoints of the leaves, from targets in the span form.

    Args:
        batch: the rows.
        num_ontology_tokens: number of ontology tokens; larger target ids are pointers.
        leaves: the largest number of leaves.

    Returns:
        First and last piece ``[B, leaves, 2]``, 0 after the last leaf.
    """
    longest = max(targets.shape[1] for targets in batch.targets)
    targets = torch.cat([torch.nn.functional.pad(t, (0, longest - t.shape[1]), value=-1) for t in batch.targets])
    pointers = targets >= num_ontology_tokens  # [B, T]
    found = targets.new_zeros((len(targets), 2 * leaves))
    rows, _ = pointers.nonzero(as_tuple=True)  # [pointers]
    found[rows, (pointers.cumsum(dim=1) - 1)[pointers]] = targets[pointers] - num_ontology_tokens
    return found.view(len(targets), leaves, 2)


def span_scores(scores: Tensor, spans: Tensor) -> Tensor:
    """Log-probabilities of these spans.

    Args:
        scores: of all spans ``[B, L, S, S]``.
        spans: first and last pieces ``[B, L, 2]``.

    Returns:
        ``[B, L]``.
    """
    flat = spans[..., 0] * scores.shape[3] + spans[..., 1]  # [B, L] positions among S * S
    return scores.flatten(2).gather(2, flat[..., None])[..., 0]
