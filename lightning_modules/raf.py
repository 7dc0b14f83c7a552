"""Training of RAF: retrieval, filling and composition together, the bank read anew as training goes on."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from data.training.batches import Batch
from frames.errors import UsageError, one_of
from frames.tokenization import PieceTokenizer
from lightning_modules.datamodule import Assets
from lightning_modules.metrics import RECALL_AT, ScenarioRecall
from lightning_modules.nar import NARModule, NAROptimizationConfig
from lightning_modules.pretrained import PretrainedModule
from parsers.raf.model import RAF, RAF_PREFIXES, RETRIEVAL_PREFIXES, RAFConfig
from parsers.raf.parser import LeafRows, RAFDecodingConfig, RAFParser, ScenarioTable
from parsers.raf.torch_backend import RAFTorchBackend
from parsers.torch_backend import evaluation_mode
from retrieval.glosses import GlossBatch, Glosses
from retrieval.index import IndexConfig, ScenarioIndex
from retrieval.scenario import Scenario
from retrieval.scoring import retrieval_nll

#: Pieces and padding that the encoder reads together of a whole bank, and of one step's scenarios.
GROUP, STEP_GROUP = 16384, 640
#: Banks with fewer scenarios are read without a progress bar.
SMALL = 2048
NEGATIVES = ("bank", "mined")
FITTED = ("all", "retrieval")


@dataclass
class RAFOptimizationConfig(NAROptimizationConfig):
    """What is particular to retrieving and filling.

    Attributes:
        retrieval_loss: weight of the retrieval loss.
        fill_loss: weight of the filling loss.
        ranking_loss: weight of the loss that tells the gold frame from the frames of the ``ranked`` scenarios that are
            nearest to the utterance, each filled as well as it can be (the paper's), 0 to leave it out.
        ranked: see ``ranking_loss``.
        compose_loss: weight of the span pointer's losses; 0 where frames are never composed.
        compose_lr: peak rate of what composes frames, the encoder aside; None for ``lr``.
        warmup_share: share of the training in which the retrieval loss counts alone (the paper's warm-up).
        negatives: ``bank`` (ours) tells the gold scenario from all of the bank, by vectors that are renewed every
            ``refresh`` steps; ``mined`` (the paper's way) from those of the batch and from ``hard_negatives`` that the
            index ranks highest for each utterance.
        hard_negatives: scenarios mined for each utterance.
        refresh: steps after which the whole bank is read anew.
        scenarios_read: of a step's scenarios, how many are read anew and learn by it, drawn at random; the others are
            taken as they were last read. None (the paper's way) reads all, which costs more than anything else.
        fitted: ``all``, or ``retrieval`` (ours), a last stage: the encoder reads as it will when it parses, without dropout,
            and stays as it is, and only what finds scenarios is fitted (:data:`parsers.raf.model.RETRIEVAL_PREFIXES`) to the retrieval
            loss.
    """

    retrieval_loss: float = 1.0
    fill_loss: float = 1.0
    ranking_loss: float = 0.0
    ranked: int = 4
    compose_loss: float = 1.0
    compose_lr: float | None = None
    warmup_share: float = 0.0
    negatives: str = "bank"
    hard_negatives: int = 1
    refresh: int = 500
    scenarios_read: int | None = None
    fitted: str = "all"

    def __post_init__(self) -> None:
        one_of("negatives", self.negatives, NEGATIVES)
        one_of("fitted", self.fitted, FITTED)


class EncodedBank(NamedTuple):
    """A bank as the encoder last read it.

    Attributes:
        glosses: what the glosses of the scenarios say ``[N, retrieval_width]``; see :meth:`parsers.raf.model.RAF.keys`.
        leaves: states of all their leaves, in the order of the bank, ``[leaves, leaf_width]``.
    """

    glosses: Tensor
    leaves: Tensor


class RAFModule(PretrainedModule, NARModule):
    """RAF (Shrivastava et al. 2022) under Lightning.

    Args:
        model: sizes, and the pretrained encoder.
        decoding: how candidates are found and weighed.
        optimization: how the parameters are fitted.
    """

    kind = "raf"
    config_class = RAFConfig
    decoding_class = RAFDecodingConfig
    optimization_class = RAFOptimizationConfig
    model: RAF | None
    optimization: RAFOptimizationConfig

    def __init__(
        self,
        model: RAFConfig = RAFConfig(),  # noqa: B008 (LightningCLI shows the defaults)
        decoding: RAFDecodingConfig = RAFDecodingConfig(),  # noqa: B008
        optimization: RAFOptimizationConfig = RAFOptimizationConfig(),  # noqa: B008
    ) -> None:
        super().__init__(model, decoding, optimization)
        self.glosses: Glosses | None = None
        self.encoded_bank: EncodedBank | None = None
        self._table: ScenarioTable | None = None
        self.recall = ScenarioRecall()

    def make_model(self, tokenizer: PieceTokenizer, ontology: int) -> RAF:
        """See :meth:`ParserModule.make_model` and :meth:`PretrainedModule.make_transformer`."""
        transformer = self.make_transformer(tokenizer)
        second = copy.deepcopy(transformer) if self.config.encoders == "separate" else None
        assert self.assets is not None and self.assets.bank is not None
        # What no row shows would learn nothing but to be left alone.
        shown = self.assets.bank.shown
        return RAF(self.config, transformer, tokenizer.prefix, tokenizer.suffix, ontology, second, shown)

    def build(self, assets: Assets) -> None:
        """Builds the model, and cuts the glosses of the bank.

        Raises:
            UsageError: there is no bank.
        """
        if assets.bank is None:
            raise UsageError("E441", "RAF needs a scenario bank.", remedy="Set data.bank to true.")
        super().build(assets)
        self.glosses = Glosses(assets.bank, assets.tokenizer, self.config.gloss)
        if self._only_finding:
            assert self.model is not None
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith(RETRIEVAL_PREFIXES))

    @property
    def _only_finding(self) -> bool:
        return self.optimization.fitted == "retrieval"

    def add(self, scenarios: Iterable[Scenario]) -> None:
        """Makes scenarios known without training."""
        assert self.assets is not None and self.assets.bank is not None
        bank = self.assets.bank.added(scenarios)
        self.assets = dataclasses.replace(self.assets, bank=bank)
        self.glosses = Glosses(bank, self.assets.tokenizer, self.config.gloss)
        self._table = self.encoded_bank = None

    def rate(self, name: str) -> float:
        """See :meth:`PretrainedModule.rate`; what a span pointer has too may have a rate of its own."""
        o = self.optimization
        shared = not name.removeprefix("model.").startswith((*RAF_PREFIXES, "encoder."))
        return o.compose_lr if shared and o.compose_lr is not None else super().rate(name)

    def parser(self) -> RAFParser:
        """See :meth:`ParserModule.parser`; the bank is read once for the present parameters."""
        assert self.model is not None and self.assets is not None
        if self._table is None:
            self._table = self.build_table()
        assets = self.assets
        assert self.glosses is not None
        backend = RAFTorchBackend(self.model, self.glosses)
        return RAFParser(backend, assets.tokenizer, assets.ontology, self._table, self.decoding)

    def build_table(self) -> ScenarioTable:
        """The bank as the present parameters read it, with an index."""
        assert self.model is not None and self.assets is not None
        bank = self.assets.bank
        assert bank is not None
        reading = self._encode_bank()
        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            if name.startswith(("encoder.", "scenario_encoder.", "key_head.", "own_vectors")):
                digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        keys = self.model.keys(reading.glosses).detach().cpu().numpy()
        index = ScenarioIndex.build(keys, digest.hexdigest(), bank.digest, IndexConfig(self.decoding.index))
        return ScenarioTable(bank, index, self.model.scale.item(), reading.leaves.cpu().numpy())

    def _encode_bank(self) -> EncodedBank:
        """Reads the whole bank, with a progress bar."""
        assert self.model is not None and self.glosses is not None
        model, glosses = self.model, self.glosses
        rows = LeafRows(glosses.leaf_counts)
        reading = EncodedBank(
            torch.empty(len(glosses), model.key_head.out_features, device=self.device),
            torch.empty(int(glosses.leaf_counts.sum()), model.leaf_width, device=self.device),
        )
        groups = glosses.groups(np.arange(len(glosses)), GROUP)
        bar = track(groups, "reading the bank", total=None, transient=True, disable=len(glosses) < SMALL)
        with frozen_inference(model):
            for places, group in bar:
                reading = self._update_rows(reading, rows, places, group)
        return reading

    def _update_rows(self, reading: EncodedBank, rows: LeafRows, places: np.ndarray, group: GlossBatch) -> EncodedBank:
        """The reading, with a group of scenarios read anew."""
        assert self.model is not None
        device = reading.glosses.device
        pieces, mask, at, leaf_mask = (torch.from_numpy(array).to(device) for array in group)
        glosses, leaves = self.model.describe(pieces, mask, at)
        there = torch.from_numpy(rows.of(places)[0]).to(device)
        return EncodedBank(
            reading.glosses.index_copy(0, torch.from_numpy(places).to(device), glosses.float()),
            reading.leaves.index_copy(0, there[leaf_mask], leaves[leaf_mask].float()),
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of composition, retrieval and filling, each a scalar."""
        assert self.model is not None and self.glosses is not None and batch.scenarios is not None
        o, model = self.optimization, self.model
        with frozen_inference(model) if self._only_finding else nullcontext():
            memory, lengths = model.encode(batch.pieces, batch.mask)
        queries = model.query(memory, batch.mask)
        reading = self.encoded_bank if self.encoded_bank is not None else self._encode_bank()
        named = torch.unique(torch.cat([batch.scenarios, *self._mined(queries, reading, batch)]))
        if not self._only_finding:
            read = named if o.scenarios_read is None else named[torch.randperm(len(named))[: o.scenarios_read]]
            rows = LeafRows(self.glosses.leaf_counts)
            for chosen, group in self.glosses.groups(read.cpu().numpy(), STEP_GROUP):
                reading = self._update_rows(reading, rows, chosen, group)
        self.encoded_bank = EncodedBank(reading.glosses.detach(), reading.leaves.detach())
        known = model.keys(reading.glosses)
        if o.negatives == "bank":
            keys, gold = known, batch.scenarios
        else:
            keys, gold = known[named], torch.searchsorted(named, batch.scenarios)
        retrieval = retrieval_nll(queries, keys, gold, model.scale, o.label_smoothing).mean()
        if self._only_finding or self._warming_up():
            return {"loss": retrieval, "retrieval": retrieval}
        places = torch.cat((batch.scenarios[:, None], self._ranked(queries, reading, batch)), dim=1)
        spans, leaf_mask = self._spans(batch, memory, reading, places)
        gold_spans = endpoints(batch, model.ontology_size, spans.shape[2])
        found = span_scores(spans[:, 0], gold_spans) * leaf_mask[:, 0]
        fill = -found.sum() / leaf_mask[:, 0].sum().clamp(min=1)
        losses = {"loss": o.retrieval_loss * retrieval + o.fill_loss * fill, "retrieval": retrieval, "fill": fill}
        if o.ranking_loss:
            rivals = (spans[:, 1:].flatten(3).amax(dim=3) * leaf_mask[:, 1:]).sum(dim=2)
            filled = torch.cat((found.sum(dim=1, keepdim=True), rivals), dim=1)
            total = model.scale * torch.einsum("bd,bkd->bk", queries, known[places]) + filled
            losses["ranking"] = -torch.log_softmax(total, dim=1)[:, 0].mean()
            losses["loss"] = losses["loss"] + o.ranking_loss * losses["ranking"]
        if o.compose_loss:
            composed = self.frame_losses(batch, memory, lengths)
            losses |= {**composed, "loss": losses["loss"] + o.compose_loss * composed["loss"]}
        return losses

    def _spans(self, batch: Batch, memory: Tensor, reading: EncodedBank, places: Tensor) -> tuple[Tensor, Tensor]:
        """Spans ``[B, K, L, S, S]`` of the scenarios at ``places [B, K]``, and the mask ``[B, K, L]`` of their leaves."""
        assert self.model is not None and self.glosses is not None
        count, model, device = places.shape[1], self.model, memory.device
        flat = places.flatten().cpu().numpy()
        mask = None if batch.mask is None else batch.mask.repeat_interleave(count, dim=0)
        if model.fills_together:
            gloss, gloss_mask, at, leaf_mask = (torch.from_numpy(a).to(device) for a in self.glosses.batch(flat))
            pieces = batch.pieces.repeat_interleave(count, dim=0)
            spans = model.fill_together(pieces, mask, gloss, gloss_mask, at)
        else:
            there, leaf_mask = (torch.from_numpy(a).to(device) for a in LeafRows(self.glosses.leaf_counts).of(flat))
            spans = model.fill(memory.repeat_interleave(count, dim=0), mask, reading.leaves[there], leaf_mask)
        return spans.unflatten(0, (-1, count)), leaf_mask.unflatten(0, (-1, count))

    def _mined(self, queries: Tensor, reading: EncodedBank, batch: Batch) -> list[Tensor]:
        """Places of the scenarios, other than their own, that the rows are nearest to, for the negatives of a step."""
        o = self.optimization
        return [self._nearest(queries, reading, batch, o.hard_negatives).flatten()] if o.negatives == "mined" else []

    def _ranked(self, queries: Tensor, reading: EncodedBank, batch: Batch) -> Tensor:
        """The same, for the ranking loss ``[B, ranked]``; none where it does not count."""
        o = self.optimization
        return self._nearest(queries, reading, batch, o.ranked if o.ranking_loss else 0)

    @torch.no_grad()
    def _nearest(self, queries: Tensor, reading: EncodedBank, batch: Batch, count: int) -> Tensor:
        """Places ``[B, count]`` of the scenarios, other than their own, that the rows are nearest to."""
        assert self.model is not None and batch.scenarios is not None
        near = queries @ self.model.keys(reading.glosses).T
        near.scatter_(1, batch.scenarios[:, None], -torch.inf)
        return near.topk(min(count, near.shape[1] - 1)).indices

    def _warming_up(self) -> bool:
        share = self.optimization.warmup_share
        if not share or self._trainer is None:
            return False
        return self._progress(self.global_step) < share

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Has the bank read anew every ``refresh`` steps."""
        super().on_train_batch_start(batch, batch_idx)
        self._table = None
        if not self._only_finding and self.global_step % self.optimization.refresh == 0:
            self.encoded_bank = None

    def on_validation_start(self) -> None:
        """The parameters are others than at the last validation, those of the moving average perhaps."""
        self._table = None

    def validation_step(self, rows: Tensor, batch_idx: int) -> None:
        """Counts what is retrieved as well."""
        super().validation_step(rows, batch_idx)
        examples = [self._datamodule().eval_examples[row] for row in rows.tolist()]
        parser = self.parser()
        sources = parser.tokenizer.batch([example.utterance for example in examples])
        gold = [parser.table.bank.id(Scenario.from_frame(example.frame)) for example in examples]
        self.recall.update(parser.retrieved(sources, max(RECALL_AT)), gold)

    def on_validation_epoch_end(self) -> None:
        """Logs recall beside the rest."""
        super().on_validation_epoch_end()
        self.log_dict({f"val/{name}": value for name, value in self.recall.compute().items()})
        self.recall.reset()

    def on_validation_end(self) -> None:
        """See :meth:`on_validation_start`."""
        self._table = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the vectors in use, so that a resumed training goes on with them."""
        super().on_save_checkpoint(checkpoint)
        if self.encoded_bank is not None:
            checkpoint["reading"] = self.encoded_bank._asdict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them up again."""
        super().on_load_checkpoint(checkpoint)
        reading = checkpoint.get("reading")
        self.encoded_bank = EncodedBank(**reading) if reading else None


@contextmanager
def frozen_inference(model: RAF) -> Iterator[None]:
    """Has a model read as it does when it parses: without dropout, and without gradients."""
    try:
        with evaluation_mode(model), torch.no_grad():
            yield
    finally:
        # Within a step, weights that were cast here for the first time would be taken from the cache without their
        # gradients.
        torch.clear_autocast_cache()


def endpoints(batch: Batch, ontology: int, leaves: int) -> Tensor:
    """First and last piece ``[B, leaves, 2]`` of every leaf of the rows' targets in the span form, 0 after the last."""
    longest = max(targets.shape[1] for targets in batch.targets)
    targets = torch.cat([torch.nn.functional.pad(t, (0, longest - t.shape[1]), value=-1) for t in batch.targets])
    pointers = targets >= ontology
    found = targets.new_zeros((len(targets), 2 * leaves))
    rows, _ = pointers.nonzero(as_tuple=True)
    found[rows, (pointers.cumsum(dim=1) - 1)[pointers]] = targets[pointers] - ontology
    return found.view(len(targets), leaves, 2)


def span_scores(scores: Tensor, spans: Tensor) -> Tensor:
    """Log-probabilities of these spans.

    Args:
        scores: of all spans ``[B, L, S, S]``.
        spans: first and last pieces ``[B, L, 2]``.

    Returns:
        ``[B, L]``.
    """
    places = spans[..., 0] * scores.shape[3] + spans[..., 1]
    return scores.flatten(2).gather(2, places[..., None])[..., 0]
