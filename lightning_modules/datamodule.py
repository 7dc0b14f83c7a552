"""TOPv2, or any corpus in its layout, as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from data.topv2.reader import Example, corpus_checksum, data_root, read_split
from data.training.augment import swap_values
from data.training.batches import BatchStream, EncodedCorpus
from data.training.pruning import Pruning
from frames.errors import FramefillError, UsageError
from frames.frame import Frame
from frames.linearization import POINTER_FORMS, Linearization, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer, Source
from lightning_modules.saved import read_checkpoint
from retrieval.bank import ScenarioBank
from retrieval.scenario import Scenario

T = TypeVar("T")
#: Share of a training after which no row is left out any more (annealing, Qin et al. 2024).
WHOLE_FROM = 0.875


@dataclass(frozen=True)
class Assets:
    """All that text needs on its way to tensors and back; saved in checkpoints and bundles.

    Attributes:
        tokenizer: cuts utterances.
        ontology: labels and nesting of the training frames.
        form: linearization, a name in :data:`frames.linearization.POINTER_FORMS`.
        bank: scenarios of the training frames, for parsers that retrieve them.
    """

    tokenizer: PieceTokenizer
    ontology: Ontology
    form: str
    bank: ScenarioBank | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, so that a checkpoint can be read without unpickling classes."""
        value = {"tokenizer": self.tokenizer.to_json(), "ontology": self.ontology.to_dict(), "form": self.form}
        return value if self.bank is None else {**value, "bank": self.bank.to_dict()}

    @classmethod
    def from_dict(cls, value: dict[str, Any], where: str = "") -> Assets:
        """The inverse of :meth:`to_dict`."""
        return cls(
            PieceTokenizer.from_json(value["tokenizer"], where),
            Ontology.from_dict(value["ontology"], where),
            value["form"],
            ScenarioBank.from_dict(value["bank"], where) if "bank" in value else None,
        )


class RowStream:
    """Row numbers in chunks, for validation: examples are looked up by number, so nothing but numbers moves.

    Args:
        rows: number of rows.
        chunk: rows in a batch.
        rank: this process's number among ``world``.
        world: number of processes.
    """

    def __init__(self, rows: int, chunk: int, rank: int = 0, world: int = 1) -> None:
        self.batches = torch.arange(rows)[rank::world].split(chunk)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)


class TOPv2DataModule(pl.LightningDataModule):
    """Reads a corpus in the official layout and batches it by length.

    Args:
        root: folder of ``<domain>_<split>.tsv`` files; ``None`` reads the environment variable ``TOPV2_DIR``.
        domains: domains to use, ``None`` for all in the folder.
        start: checkpoint to start from: its pieces and parameters, its labels joined by those of the training rows.
        form: linearization, ``span`` (two endpoints a leaf) or ``index`` (a pointer a piece).
        pretrained: cut pieces as this encoder does (hub name, local folder, or ``minilm``); None trains SentencePiece
            on the training utterances.
        vocabulary: SentencePiece pieces to train.
        lowercase: fold case before SentencePiece.
        bank: whether to make a scenario bank of the training rows, as parsers need that retrieve.
        bank_splits: further splits whose scenarios, but not rows, are known: supervision that costs no utterance.
        without_intents: intents whose rows are not trained on, to measure what is added later by text alone.
        fraction: share of the training rows to train on, drawn once by a fixed seed, for trials and learning curves.
        variants: for each training row, this many variants with slot values of other rows (see
            :func:`data.training.augment.swap_values`).
        varied: probability that a variant stands in for its row, drawn anew in every epoch.
        pruned: probability that an epoch leaves out a row whose last loss is below the mean (InfoBatch, see
            :class:`data.training.pruning.Pruning`); 0 for none. The last eighth of the epochs, and at least the last
            one, has every row.
        batch_size: utterances in a training batch.
        seed: order of the batches.
        validation_rows: validate on this many eval rows, drawn once by a fixed seed; ``None`` for all.
        train_split: name of the training split; ``train_25spis`` is a low-resource one.
        eval_split: name of the split that selects.
        report_split: name of the split whose figures are recorded; None for the one that selects.
    """

    def __init__(
        self,
        root: str | None = None,
        domains: list[str] | None = None,
        start: str | None = None,
        form: str = "span",
        pretrained: str | None = None,
        vocabulary: int = 6000,
        lowercase: bool = True,
        bank: bool = False,
        bank_splits: list[str] | None = None,
        without_intents: list[str] | None = None,
        fraction: float = 1.0,
        variants: int = 0,
        varied: float = 0.5,
        pruned: float = 0.0,
        batch_size: int = 256,
        seed: int = 0,
        validation_rows: int | None = None,
        train_split: str = "train",
        eval_split: str = "eval",
        report_split: str | None = None,
    ) -> None:
        super().__init__()
        # Where one machine has the rows is nobody else's; in checkpoints and records the checksum tells which they were.
        self.save_hyperparameters(ignore=["root"])
        self._root = root
        if form not in POINTER_FORMS:
            raise ValueError(f"form {form!r}: one of {sorted(POINTER_FORMS)}")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction {fraction}: above 0, at most 1")
        self.assets: Assets | None = None
        self.train_corpus: EncodedCorpus | None = None
        self.eval_examples: list[Example] = []
        self.trained_on: set[tuple[str, str]] = set()
        self.checksum = ""
        self._stream: BatchStream | None = None
        self._stream_state: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Reads, cuts and encodes the corpus once.

        Raises:
            CorpusError: the folder is not in the official layout.
        """
        if self.assets is not None:
            return
        h: Any = self.hparams
        root = data_root(self._root)
        kept_out = set(h.without_intents or ())
        train = [
            example
            for example in read_split(root, h.train_split, h.domains)
            if kept_out.isdisjoint(intent.label for intent in example.frame.intents())
        ]
        if h.fraction < 1:
            train = sample_rows(train, round(h.fraction * len(train)))
        self.eval_examples = self._subset(read_split(root, h.eval_split, h.domains))
        self.checksum = corpus_checksum(root, h.train_split, h.domains)
        self.trained_on = {(example.domain, example.utterance) for example in train}
        started = Assets.from_dict(read_checkpoint(h.start)["framefill"]["assets"], h.start) if h.start else None
        if started is not None:
            tokenizer = started.tokenizer
        elif h.pretrained is not None:
            tokenizer = PieceTokenizer.from_pretrained(h.pretrained)
        else:
            utterances = [example.utterance for example in train]
            tokenizer = PieceTokenizer.train_sentencepiece(utterances, h.vocabulary, h.lowercase)
        swapped = swap_values(train, h.variants, h.seed)
        train += [variant for variants in swapped for variant in variants]
        frames = [example.frame.decoupled() for example in train]
        ontology = Ontology.from_frames(frames[: len(swapped)])
        bank = self._bank(root, frames[: len(swapped)], started) if h.bank else None
        self.assets = Assets(tokenizer, started.ontology.merged(ontology) if started else ontology, h.form, bank)
        pieces, targets = _encoded(train, frames, tokenizer, POINTER_FORMS[h.form](), TargetIds(self.assets.ontology))
        counts = [len(variants) for variants in swapped]
        places = None
        if bank is not None:
            # Swapping values leaves the scenario as it is, so the bank has those of the variants too.
            known = {scenario: place for place, scenario in enumerate(bank)}
            places = [known[Scenario.from_frame(frame)] for frame in frames]
        self.train_corpus = EncodedCorpus(pieces, targets, tokenizer.pad_id, counts, places)

    def _bank(self, root: Path, frames: Sequence[Frame], started: Assets | None) -> ScenarioBank:
        """Scenarios of the training frames, of the checkpoint to start from, and of the splits whose scenarios are known."""
        h: Any = self.hparams
        bank = ScenarioBank.from_frames(frames)
        if started is not None and started.bank is not None:
            bank = started.bank.merged(bank)
        for split in h.bank_splits or ():
            bank = bank.added(Scenario.from_frame(row.frame) for row in read_split(root, split, h.domains))
        return bank

    def data_provenance(self) -> dict[str, Any]:
        """What checkpoints and records say of the data: the options, and the checksum of the rows.

        Of a checkpoint with an absolute path that the training went on from, only the file's name is told.
        """
        told: dict[str, Any] = {"checksum": self.checksum, **self.hparams}
        if told["start"] and Path(told["start"]).is_absolute():
            told["start"] = Path(told["start"]).name
        return told

    def reported_examples(self) -> list[Example]:
        """All rows of the split whose figures are recorded, whatever ``validation_rows``."""
        h: Any = self.hparams
        return read_split(data_root(self._root), h.report_split or h.eval_split, h.domains)

    def _subset(self, examples: Sequence[Example]) -> list[Example]:
        limit = self.hparams["validation_rows"]
        return list(examples) if limit is None else sample_rows(examples, limit)

    @property
    def domains(self) -> list[str]:
        """Domains of the eval rows, sorted."""
        return sorted({example.domain for example in self.eval_examples})

    def train_dataloader(self) -> BatchStream:
        """Batches of like lengths, resumable at any batch."""
        assert self.train_corpus is not None
        h: Any = self.hparams
        if self._stream is None:
            pruning = self._pruning(len(self.train_corpus)) if h.pruned else None
            self._stream = BatchStream(self.train_corpus, h.batch_size, h.seed, True, h.varied, *self._ranks(), pruning)
        if self._stream_state is not None:
            self._stream.load_state_dict(self._stream_state)
            self._stream_state = None
        self._stream.turn()
        return self._stream

    def _pruning(self, rows: int) -> Pruning:
        """What leaves rows out.

        Raises:
            UsageError: the trainer would not ask how long each epoch is, or does not know how many there will be.
        """
        epochs = 1 if self.trainer is None else self.trainer.max_epochs or -1
        if self.trainer is not None and self.trainer.reload_dataloaders_every_n_epochs != 1:  # type: ignore[attr-defined]
            raise UsageError(
                "E427", "with data.pruned, epochs differ in length.",
                remedy="Set trainer.reload_dataloaders_every_n_epochs to 1.",
            )  # fmt: skip
        if epochs < 1:
            raise UsageError(
                "E427", "with data.pruned, the last epochs have every row.", remedy="Set trainer.max_epochs."
            )
        return Pruning(rows, self.hparams["pruned"], int(WHOLE_FROM * epochs))

    def state_dict(self) -> dict[str, Any]:
        """Where the training batches stand, for the checkpoint."""
        return {} if self._stream is None else {"stream": self._stream.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers where to continue.

        Lightning restores the state of loaders as well, but not when the loader was built before the checkpoint
        was read, as happens when the schedule asks for the number of steps.
        """
        self._stream_state = state_dict.get("stream")

    def val_dataloader(self) -> RowStream:
        """Numbers of eval rows."""
        return RowStream(len(self.eval_examples), 512, *self._ranks())

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def sample_rows(examples: Sequence[Example], rows: int) -> list[Example]:
    """``rows`` of the examples in their order, the same ones every time; all where there are fewer."""
    chosen = np.random.default_rng(0).permutation(len(examples))[:rows]
    return [examples[i] for i in sorted(chosen)]


def _encoded(
    examples: Sequence[Example], frames: Sequence[Frame], tokenizer: PieceTokenizer, form: Linearization, ids: TargetIds
) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Piece ids and target ids of each row.

    Raises:
        FramefillError: a row cannot be encoded; it tells which.
    """
    try:
        sources = tokenizer.batch([example.utterance for example in examples])
    except FramefillError:
        for example in examples:
            _at(example, partial(tokenizer, example.utterance))
        raise

    def encode(frame: Frame, source: Source) -> list[int]:
        return ids.encode(form.encode(frame, source))

    targets = [
        _at(example, partial(encode, frame, source))
        for example, frame, source in zip(examples, frames, sources, strict=True)
    ]
    return [source.ids for source in sources], targets


def _at(example: Example, work: Callable[[], T]) -> T:
    """What ``work`` gives; its errors name the row."""
    try:
        return work()
    except FramefillError as error:
        raise error.at(example.where) from error
