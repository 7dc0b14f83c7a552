"""Trainings of a transfer study: a ticket is found in one domain and trained again in another."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from data.topv2.reader import Example, corpus_checksum, data_root, read_split
from frames.ontology import Ontology
from lightning_modules.datamodule import Assets, Needs, TOPv2DataModule, check_left_out, sample_rows
from lightning_modules.evaluation import evaluate
from lightning_modules.lottery.callback import MagnitudePruning
from lightning_modules.lottery.compressed import write_ticket
from lightning_modules.lottery.divergence import jensen_shannon, unigrams
from lightning_modules.lottery.masks import Mask, PruningConfig, remove_mask, weights_of
from lightning_modules.lottery.stages import StageStore, mask_stage, packed, stage_name, unpacked, write_mask
from lightning_modules.parser_module import ParserModule
from retrieval.bank import ScenarioBank

#: Joins domains to one source, as in ``alarm+timer``.
JOIN = "+"
#: Seeds of fresh values and of random masks lie this far from those of initial values.
FRESH = 10_000

#: Sections of a parser's options, and the attributes of its module that hold them.
PARTS = {"model": "config", "decoding": "decoding", "optimization": "optimization"}


@dataclass
class StudyConfig:
    """How large a transfer study is.

    Attributes:
        rows: training rows of a source or target, drawn once by a fixed seed.
        eval_rows: eval rows that a training is scored on, drawn likewise.
        steps: optimizer steps of a training.
        rounds: of pruning.
        transferred: rounds whose masks are trained in the targets.
        rewind_step: step whose values ``masks_rewound`` begins with.
        pruning: how a round chooses its weights.
        clip: norm that gradients are clipped to.
    """

    rows: int = 1500
    eval_rows: int = 500
    steps: int = 160
    rounds: int = 11
    transferred: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    rewind_step: int = 16
    pruning: PruningConfig = field(default_factory=PruningConfig)
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rows", "eval_rows", "steps", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: at least 1")
        if not self.clip >= 0:
            raise ValueError(f"clip {self.clip}: at least 0, where nothing is clipped")
        if not all(1 <= chosen <= self.rounds for chosen in self.transferred):
            raise ValueError(f"transferred {self.transferred}: rounds from 1 to {self.rounds}")
        if not 0 < self.rewind_step < self.steps:
            raise ValueError(f"rewind_step {self.rewind_step}: between 0 and steps ({self.steps})")


@dataclass(frozen=True)
class Values:
    """What a training begins with.

    Attributes:
        seed: of the initial values.
        early_of: key of the stage whose early values replace them, None for none.
    """

    seed: int
    early_of: Mapping[str, Any] | None = None


class Experiment:
    """Makes stages: a training on a domain under a mask, its exact match there, and the mask of the next round.

    Pieces and labels are shared by all domains of the corpus, so that a mask of one domain fits the parser of another.

    Args:
        module: a parser that has not been built; each training takes its configuration.
        data: options of :class:`lightning_modules.datamodule.TOPv2DataModule`.
        study: sizes.
        root: corpus folder; None reads ``TOPV2_DIR``.
        stages: folder of the stages.
    """

    def __init__(
        self, module: ParserModule, data: Mapping[str, Any], study: StudyConfig, root: str | None, stages: Path | str
    ) -> None:
        self.module, self.data, self.study, self.root = module, dict(data), study, str(data_root(root))
        self.store = StageStore(stages)
        # Pieces and labels depend on all domains, so any change of the corpus makes other stages.
        self.checksums = {split: corpus_checksum(self.root, split) for split in ("train", "eval")}
        self._assets: Assets | None = None
        self._domains: dict[tuple[str, str], TOPv2DataModule] = {}

    @property
    def assets(self) -> Assets:
        """Pieces of a sample of every domain, and the labels of all training rows of the corpus."""
        if self._assets is None:
            self._assets = shared_assets(self.root, self.data, self.study.rows, self.module.needs)
        return self._assets

    def domain(self, name: str, split: str = "train") -> TOPv2DataModule:
        """Rows of a domain, or of several joined by ``+``, encoded once."""
        if (name, split) not in self._domains:
            options = {**self.data, "domains": name.split(JOIN)}
            data = TOPv2DataModule(self.root, validation_rows=self.study.eval_rows, **options)
            data.setup_shared(self.assets, self.study.rows, split)
            self._domains[name, split] = data
        return self._domains[name, split]

    def divergences(self, sources: Iterable[str], targets: Iterable[str], split: str = "train") -> dict[str, Any]:
        """Divergence between the subword unigrams of training rows, by source and target."""
        sources, targets = sorted(sources), sorted(targets)
        of = {(name, "train"): self._unigrams(name, "train") for name in sources}
        of |= {(name, split): self._unigrams(name, split) for name in targets}
        return {
            source: {target: round(jensen_shannon(of[source, "train"], of[target, split]), 4) for target in targets}
            for source in sources
        }

    def _unigrams(self, name: str, split: str) -> np.ndarray:
        corpus = self.domain(name, split).train_corpus
        assert corpus is not None
        return unigrams(corpus.source, self.assets.tokenizer.vocab_size)

    def key(
        self, domain: str, seed: int, mask: Mask | None, values: Values, prunes: bool = False, split: str = "train"
    ) -> dict[str, Any]:
        """All that makes a stage."""
        study = asdict(self.study)
        kept = ("rows", "eval_rows", "steps", "clip", *(["pruning", "rewind_step"] if prunes else []))
        early = None if values.early_of is None else dict(values.early_of)
        return {
            "kind": self.module.kind,
            **{name: _changed(getattr(self.module, part)) for name, part in PARTS.items()},
            "data": self.data,
            "corpus": self.checksums,
            "rows": corpus_checksum(self.root, split, domain.split(JOIN)),
            "study": {name: study[name] for name in kept},
            "domain": domain,
            "split": split,
            "seed": seed,
            "mask": None if mask is None else mask.digest,
            "values": {"seed": values.seed, "early_of": early},
        }

    def train(
        self, domain: str, seed: int, mask: Mask | None, values: Values, prunes: bool = False, split: str = "train"
    ) -> dict[str, Any]:
        """The record of a stage, which is made unless it is there.

        Args:
            domain: to train on and score in.
            seed: of the order of rows and of dropout.
            mask: weights to train, None for all.
            values: parameters to begin with.
            prunes: whether the mask of the next round, and without a mask the early values, are kept.
            split: name of the training split.

        Raises:
            FramefillError: the stage is damaged, or a row, mask or sparsity is not possible.
        """
        key = self.key(domain, seed, mask, values, prunes, split)
        record = self.store.read(key)
        if record is None:
            self._make(key, domain, seed, mask, values, prunes, split)
            record = self.store.read(key)
            assert record is not None
        return record

    def next_mask(self, record: Mapping[str, Any]) -> Mask:
        """The mask that a stage with ``prunes`` gave."""
        return unpacked(self.store.tensors(record["key"], "next_mask"), record["shapes"])

    def stored_bytes(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """Bytes of the parser's parameters by sparsity, whole and as a compressed ticket, for the masks of a search."""
        weights = weights_of(self.new_module(records[0]["key"]["seed"]).net)
        found = []
        for record in records:
            mask = self.next_mask(record)
            zeroed = {n: torch.where(mask.kept[n], v, 0.0) if n in mask.kept else v for n, v in weights.items()}
            with tempfile.TemporaryDirectory() as folder:
                size = write_ticket(Path(folder) / "ticket.safetensors", zeroed, mask)
            whole = sum(value.numel() * value.element_size() for value in weights.values())
            found.append({"sparsity": round(mask.sparsity, 6), "dense": whole, "compressed": size})
        return found

    def write_masks(self, records: Sequence[Mapping[str, Any]], name: str) -> None:
        """Writes the masks of a search beside the stages, as files that need no stage to be read.

        Args:
            records: as :func:`find_ticket` returns.
            name: of the search; the files are ``masks/<name>/round_<i>`` with two suffixes.
        """
        parent = None
        for number, record in enumerate(records, start=1):
            path, mask = self.store.root / "masks" / name / f"round_{number:02}.safetensors", self.next_mask(record)
            made = {
                "parent": parent,
                "round": number,
                "domain": record["key"]["domain"],
                "seed": record["key"]["seed"],
                "corpus": record["key"]["corpus"],
                "stage": stage_name(record["key"]),
            }
            # Another study's masks may have this name; one that is this stage's is left to whoever reads it.
            if mask_stage(path) != made["stage"]:
                write_mask(path, mask, made)
            parent = mask.digest

    def _make(
        self,
        key: Mapping[str, Any],
        domain: str,
        seed: int,
        mask: Mask | None,
        values: Values,
        prunes: bool,
        split: str,
    ) -> None:
        module = self.new_module(values.seed)
        early = None if values.early_of is None else self.store.tensors(values.early_of, "early_values")
        callback = MagnitudePruning(
            mask,
            early,
            self.study.pruning if prunes else None,
            self.study.rewind_step if prunes and mask is None else None,
        )
        record = self.fit(module, self.domain(domain, split), seed, self.study.steps, [callback])
        record["sparsity"] = 0.0 if mask is None else mask.sparsity
        record["layers"] = {} if mask is None else mask.layers
        tensors: dict[str, dict[str, Tensor]] = {}
        if callback.next_mask is not None:
            tensors["next_mask"] = packed(callback.next_mask)
            record["shapes"] = {name: list(kept.shape) for name, kept in callback.next_mask.kept.items()}
        if callback.early_values is not None:
            tensors["early_values"] = callback.early_values
        self.store.write(key, record, tensors)

    def new_module(self, seed: int, config: Any = None) -> ParserModule:
        """A parser with the initial values of a seed, of the study's sizes or of another configuration."""
        kind, wanted = type(self.module), self.module.config if config is None else config
        # Building fills in what a pretrained encoder says of itself; the study's own configuration stays as it was.
        module = kind(deepcopy(wanted), self.module.decoding, self.module.optimization)
        torch.manual_seed(seed)
        module.build(self.assets)
        return module

    def fit(
        self, module: ParserModule, data: TOPv2DataModule, seed: int, steps: int, callbacks: list[pl.Callback]
    ) -> dict[str, Any]:
        """Trains a parser, makes plain parameters of its masked ones and scores it; returns the figures."""
        clock = time.perf_counter()
        data.restart(seed)
        torch.manual_seed(seed)
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=-1, max_steps=steps, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=self.study.clip,
            num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False, callbacks=callbacks,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        remove_mask(module)
        figures = evaluate(module.parser(), data.eval_examples)
        kept = {name: figures[name] for name in ("exact_match", "frame_length_accuracy", "count")}
        return {**kept, "seconds": round(time.perf_counter() - clock, 2)}


def _changed(options: Any) -> dict[str, Any]:
    """Options of a configuration that are not the defaults, so that an option which is added later changes no key."""
    defaults = asdict(type(options)())
    return {name: value for name, value in asdict(options).items() if value != defaults[name]}


def shared_assets(root: str, options: Mapping[str, Any], rows: int, needs: Needs) -> Assets:
    """Pieces and labels for trainings on any domain of a corpus.

    Args:
        root: corpus folder.
        options: of :class:`lightning_modules.datamodule.TOPv2DataModule`.
        rows: of every domain that pieces are trained on; labels are read from all training rows.
        needs: of the parser.

    Raises:
        CorpusError: the folder is not in the official layout.
        UsageError: no row has an intent that is to be left out.
    """
    data = TOPv2DataModule(root, **options)
    hparams: Any = data.hparams
    by_domain: dict[str, list[Example]] = {}
    examples = read_split(root, "train")
    check_left_out(hparams.without_intents or (), examples)
    for example in examples:
        by_domain.setdefault(example.domain, []).append(example)
    frames = [example.frame.decoupled() for examples in by_domain.values() for example in examples]
    sample = [example for examples in by_domain.values() for example in sample_rows(examples, rows)]
    bank = ScenarioBank.from_frames(frames) if needs.bank else None
    return Assets(data.make_tokenizer(sample), Ontology.from_frames(frames), hparams.form, bank)


def find_ticket(
    experiment: Experiment, domain: str, seed: int, rewound: bool = False, split: str = "train"
) -> list[dict[str, Any]]:
    """Iterative magnitude pruning in a domain: train, prune, return to early values, again.

    Args:
        experiment: makes the stages.
        domain: where the ticket is sought.
        seed: of the initial values, of the order of rows and of dropout.
        rewound: whether each round returns to the values of an early step of the dense training instead of the
            initial ones (Frankle et al. 2020, arXiv 1912.05671).
        split: name of the training split.

    Returns:
        Records by round, the dense training first; the mask of round ``i`` is ``next_mask`` of record ``i - 1``.
    """
    values = Values(seed)
    records = [experiment.train(domain, seed, None, values, prunes=True, split=split)]
    if rewound:
        values = Values(seed, records[0]["key"])
    for _ in range(experiment.study.rounds):
        mask = experiment.next_mask(records[-1])
        records.append(experiment.train(domain, seed, mask, values, prunes=True, split=split))
    return records
