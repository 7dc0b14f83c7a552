"""TOPv2, or any corpus in its layout, as batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from data.topv2.contradictions import contradictory, counted
from data.topv2.reader import Example, corpus_checksum, data_root, read_split
from data.training.augment import swap_values
from data.training.batches import BatchStream, EncodedCorpus
from frames.errors import FramefillError, UsageError
from frames.frame import Frame
from frames.linearization import POINTER_FORMS, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer, Source
from lightning_modules.saved import read_checkpoint
from retrieval.bank import ScenarioBank
from retrieval.scenario import Scenario

T = TypeVar("T")
#: Names in :data:`frames.linearization.POINTER_FORMS`.
Form = Literal["index", "span", "copy"]


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


@dataclass(frozen=True)
class Needs:
    """What a kind of parser needs of the data besides rows.

    Attributes:
        bank: whether the training rows' scenarios are made a bank.
    """

    bank: bool = False


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

    Trains on the split ``train``; selects and reports on ``eval``. With ``spis``, trains on ``train_<spis>spis``, selects on
    ``valid_<spis>spis`` and reports on ``eval`` (Chen et al. 2020, section 4).

    Args:
        root: folder of ``<domain>_<split>.tsv`` files; ``None`` reads the environment variable ``TOPV2_DIR``.
        domains: domains to use, ``None`` for all in the folder.
        init_from: checkpoint to start from: its tokenizer and parameters, its labels joined by those of the training rows.
        form: linearization, ``span`` (two endpoints a leaf) or ``index`` (a pointer a piece).
        pretrained: cut pieces as this encoder does (hub name, local folder, or ``minilm``); None trains SentencePiece
            on the training utterances.
        vocabulary: SentencePiece pieces to train; they do not tell upper from lower case.
        bank_splits: further splits whose scenarios, but not rows, are known: supervision that costs no utterance.
        without_intents: intents whose rows are not trained on, to measure what is added later by text alone.
        fraction: share of the training rows to train on, drawn once by a fixed seed, for trials and learning curves.
        num_augmented: for each training row, this many variants with slot values of other rows (see
            :func:`data.training.augment.swap_values`).
        augment_prob: probability that a variant replaces its row, drawn anew in every epoch.
        batch_size: utterances in a training batch.
        validation_rows: validate on this many rows of the split that selects, drawn once by a fixed seed; ``None`` for all.
        spis: samples per intent and slot of the low-resource splits; None for the whole corpus.

    Attributes:
        needs: of the parser; :meth:`setup` takes those of the trainer's module, if there is one.
        seed: of the order of batches and of swapped values: that of ``--seed_everything``, 0 without one.
    """

    def __init__(
        self,
        root: str | None = None,
        domains: list[str] | None = None,
        init_from: str | None = None,
        form: Form = "span",
        pretrained: str | None = None,
        vocabulary: int = 6000,
        bank_splits: list[str] | None = None,
        without_intents: list[str] | None = None,
        fraction: float = 1.0,
        num_augmented: int = 0,
        augment_prob: float = 0.5,
        batch_size: int = 256,
        validation_rows: int | None = None,
        spis: int | None = None,
    ) -> None:
        super().__init__()
        # ``root`` is a local path; checkpoints and records hold the checksum of its files instead.
        self.save_hyperparameters(ignore=["root"])
        self._root = root
        self.needs = Needs()
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self._eval_split = "eval" if spis is None else f"valid_{spis}spis"
        if not 0 < fraction <= 1:
            raise ValueError(f"data.fraction {fraction}: above 0, at most 1")
        if batch_size < 1:
            raise ValueError(f"data.batch_size {batch_size}: at least 1")
        if not 0 <= augment_prob <= 1 or num_augmented < 0:
            raise ValueError(
                f"data.augment_prob {augment_prob}: from 0 to 1; data.num_augmented {num_augmented}: at least 0"
            )
        if validation_rows is not None and validation_rows < 1:
            raise ValueError(f"data.validation_rows {validation_rows}: at least 1, or null for all")
        self.assets: Assets | None = None
        self.train_corpus: EncodedCorpus | None = None
        self.eval_examples: list[Example] = []
        self.trained_on: set[tuple[str, str]] = set()
        self.contradictions: list[list[Example]] = []
        self.checksum = ""
        self._longest: list[tuple[int, Example]] = []
        self._stream: BatchStream | None = None
        self._stream_state: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Reads, tokenizes and encodes the corpus once, eval rows as well, so that no training ends at an unreadable row.

        Raises:
            CorpusError: the folder is not in the official layout.
            UsageError: no row is left, or no row has an intent that is to be left out.
            FramefillError: a row cannot be encoded; the error names its file and line.
        """
        if self.assets is not None:
            return
        h: Any = self.hparams
        if self.trainer is not None:
            module: Any = self.trainer.lightning_module
            self.needs = module.needs
        root, split = data_root(self._root), "train" if h.spis is None else f"train_{h.spis}spis"
        if h.without_intents:
            check_left_out(h.without_intents, read_split(root, split, h.domains))
        train = self._read_rows(root, split)
        started = (
            Assets.from_dict(read_checkpoint(h.init_from)["framefill"]["assets"], h.init_from) if h.init_from else None
        )
        tokenizer = started.tokenizer if started is not None else self.make_tokenizer(train)
        rows, counts = self._augment(train)
        frames = [example.frame.decoupled() for example in rows]
        ontology = Ontology.from_frames(frames[: len(train)])
        bank = self._bank(root, frames[: len(train)], started) if self.needs.bank else None
        self.assets = Assets(tokenizer, started.ontology.merged(ontology) if started else ontology, h.form, bank)
        self.train_corpus = self._encode(self.assets, rows, frames, counts)

    def setup_shared(self, assets: Assets, rows: int | None = None, split: str = "train") -> None:
        """As :meth:`setup`, for pieces and labels that trainings on several domains share.

        Args:
            assets: of all these domains.
            rows: train on this many rows, drawn once by a fixed seed; None for all.
            split: to train on.

        Raises:
            CorpusError: the folder is not in the official layout.
            FramefillError: a row cannot be encoded; the error names its file and line.
        """
        train = self._read_rows(data_root(self._root), split)
        train = train if rows is None else sample_rows(train, rows)
        self.trained_on = {(example.domain, example.utterance) for example in train}
        self.assets = assets
        self.train_corpus = self._encode(
            assets, train, [example.frame.decoupled() for example in train], [0] * len(train)
        )

    def _read_rows(self, root: Path, split: str) -> list[Example]:
        """Training rows; sets the eval rows, and what is known of the training rows as a whole."""
        h: Any = self.hparams
        kept_out = set(h.without_intents or ())
        train = [
            example
            for example in read_split(root, split, h.domains)
            if kept_out.isdisjoint(intent.label for intent in example.frame.intents())
        ]
        if h.fraction < 1:
            train = sample_rows(train, round(h.fraction * len(train)))
        if not train:
            raise UsageError(
                "E460",
                f"no row of {split} is left to train on.",
                where=str(root),
                remedy="Raise data.fraction, or name fewer intents in data.without_intents.",
            )
        examples = read_split(root, self._eval_split, h.domains)
        self.eval_examples = examples if h.validation_rows is None else sample_rows(examples, h.validation_rows)
        self.checksum = corpus_checksum(root, split, h.domains)
        self.trained_on = {(example.domain, example.utterance) for example in train}
        self.contradictions = contradictory(train)
        return train

    def make_tokenizer(self, train: Sequence[Example]) -> PieceTokenizer:
        """The tokenizer of the pretrained encoder, or one trained on the rows."""
        h: Any = self.hparams
        if h.pretrained is not None:
            return PieceTokenizer.from_pretrained(h.pretrained)
        return PieceTokenizer.train_sentencepiece([example.utterance for example in train], h.vocabulary)

    def _augment(self, train: list[Example]) -> tuple[list[Example], list[int]]:
        """The rows followed by their variants, and how many variants each row has."""
        h: Any = self.hparams
        swapped = swap_values(train, h.num_augmented, self.seed)
        return [*train, *(variant for variants in swapped for variant in variants)], [len(v) for v in swapped]

    def _encode(
        self, assets: Assets, rows: Sequence[Example], frames: Sequence[Frame], counts: Sequence[int]
    ) -> EncodedCorpus:
        """Training rows and variants as ids; eval and report rows are tokenized as well, which checks them."""
        form, ids = POINTER_FORMS[assets.form](), TargetIds(assets.ontology)
        sources = _tokenized(rows, assets.tokenizer)

        def encode(frame: Frame, source: Source) -> list[int]:
            return ids.encode(form.encode(frame, source))

        targets = [
            _at(example, partial(encode, frame, source))
            for example, frame, source in zip(rows, frames, sources, strict=True)
        ]
        reported = self.reported_examples()
        read: list[tuple[list[Source], Sequence[Example]]] = [
            (sources, rows),
            (_tokenized(reported, assets.tokenizer), reported),
        ]
        if self.hparams["spis"] is not None:
            read.append((_tokenized(self.eval_examples, assets.tokenizer), self.eval_examples))
        self._longest = [max(zip(map(len, some), of, strict=True), key=lambda pair: pair[0]) for some, of in read if of]
        scenarios = None
        if assets.bank is not None:
            # Swapping values leaves the scenario as it is, so the bank has those of the variants too.
            known = {scenario: index for index, scenario in enumerate(assets.bank)}
            scenarios = [known[Scenario.from_frame(frame)] for frame in frames]
        pieces = [source.ids for source in sources]
        return EncodedCorpus(pieces, targets, assets.tokenizer.pad_id, counts, scenarios)

    def check_lengths(self, longest: int) -> None:
        """Checks that a model can read every row.

        Args:
            longest: pieces of the longest utterance that it can read.

        Raises:
            UsageError: a training or eval row is longer.
        """
        for length, example in self._longest:
            if length > longest:
                raise UsageError(
                    "E461",
                    f"the utterance makes {length} pieces, the encoder reads {longest} at most.",
                    where=example.where,
                    remedy="Remove or shorten the row, or choose an encoder for longer texts.",
                )

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
        """What checkpoints and records say of the data: the options, the seed, and the checksum of the training rows.

        Of an absolute path in ``init_from``, only the file's name is kept.
        """
        provenance: dict[str, Any] = {"checksum": self.checksum, "seed": self.seed, **self.hparams}
        if provenance["init_from"] and Path(provenance["init_from"]).is_absolute():
            provenance["init_from"] = Path(provenance["init_from"]).name
        return provenance

    def summary(self) -> str:
        """What the training is on, for its start: a line, and a second one where rows contradict each other."""
        assert self.assets is not None and self.train_corpus is not None
        domains, ontology = {domain for domain, _ in self.trained_on}, self.assets.ontology
        line = (
            f"training on {len(self.train_corpus):,} rows of {len(domains)} domain(s) with {len(ontology.intents)} intents "
            f"and {len(ontology.slots)} slots; validating on {len(self.eval_examples):,} rows"
        )
        if self.contradictions:
            line += f"\nrows with different frames, of which at most one can be learned: {counted(self.contradictions)}"
        return line

    def reported_examples(self) -> list[Example]:
        """All rows of ``eval``, on which records report, whatever ``validation_rows``."""
        return read_split(data_root(self._root), "eval", self.hparams["domains"])

    @property
    def domains(self) -> list[str]:
        """Domains of the eval rows, sorted."""
        return sorted({example.domain for example in self.eval_examples})

    def restart(self, seed: int) -> None:
        """Lets the next training begin at the first batch, in the order of this seed."""
        self.seed = seed
        self._stream = self._stream_state = None

    def train_dataloader(self) -> BatchStream:
        """Batches of like lengths, resumable at any batch."""
        assert self.train_corpus is not None
        h: Any = self.hparams
        if self._stream is None:
            self._stream = BatchStream(self.train_corpus, h.batch_size, self.seed, True, h.augment_prob, *self._ranks())
        if self._stream_state is not None:
            self._stream.load_state_dict(self._stream_state)
            self._stream_state = None
        self._stream.turn()
        return self._stream

    def state_dict(self) -> dict[str, Any]:
        """Where the training batches stand, for the checkpoint."""
        return {} if self._stream is None else {"stream": self._stream.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers where to continue.

        Lightning restores the state of loaders as well, but not when the loader was built before the checkpoint
        was read, as happens when the schedule asks for the number of steps.
        """
        self._stream_state = state_dict.get("stream")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are made on the CPU, so a training there spares the search for their tensors."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def val_dataloader(self) -> RowStream:
        """Numbers of eval rows."""
        return RowStream(len(self.eval_examples), 512, *self._ranks())

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def check_left_out(intents: Sequence[str], examples: Sequence[Example]) -> None:
    """Whether there is anything to leave out.

    Args:
        intents: whose rows are not trained on.
        examples: all rows.

    Raises:
        UsageError: no row has one of the intents.
    """
    unknown = sorted(set(intents) - {intent.label for example in examples for intent in example.frame.intents()})
    if unknown:
        raise UsageError(
            "E497",
            f"data.without_intents: no row has {', '.join(unknown)}.",
            remedy="Write labels as GET_WEATHER, without the IN: before them, or name none.",
        )


def sample_rows(examples: Sequence[Example], rows: int) -> list[Example]:
    """``rows`` of the examples in their order, the same ones every time; all where there are fewer."""
    chosen = np.random.default_rng(0).permutation(len(examples))[:rows]
    return [examples[i] for i in sorted(chosen)]


def _tokenized(examples: Sequence[Example], tokenizer: PieceTokenizer) -> list[Source]:
    """The utterances in pieces; an error names the row."""
    try:
        return tokenizer.batch([example.utterance for example in examples])
    except FramefillError:
        for example in examples:
            _at(example, partial(tokenizer, example.utterance))
        raise


def _at(example: Example, work: Callable[[], T]) -> T:
    """The result of ``work``; its errors name the row."""
    try:
        return work()
    except FramefillError as error:
        raise error.at(example.where) from error
