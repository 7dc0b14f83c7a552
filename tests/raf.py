"""A RAF parser on a random tiny encoder, in this process: built, not trained; and saved as a checkpoint."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.topv2.reader import Example, read_split
from data.training.batches import Batch, EncodedCorpus
from frames.linearization import SpanForm, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from lightning_modules.datamodule import Assets
from lightning_modules.parser_module import ParserModule
from lightning_modules.raf import RAFModule, RAFOptimizationConfig
from parsers.raf.candidate import RAFDecodingConfig
from parsers.raf.model import RAFConfig
from retrieval.bank import ScenarioBank
from retrieval.scenario import Scenario
from tests.encoders import save_encoder

#: Sizes of the parts beside the encoder.
SIZES: dict[str, Any] = {"width": 32, "decoder_heads": 2, "decoder_layers": 1, "length_hidden": 16}
#: Training rows of :func:`small_raf`.
ROWS = 32


def small_raf(
    folder: Path,
    corpus: Path,
    model: dict[str, Any],
    optimization: dict[str, Any],
    module_class: type[RAFModule] = RAFModule,
) -> tuple[RAFModule, list[Example], Batch]:
    """A module for some rows of the corpus, those rows, and a batch of them all.

    Args:
        folder: where the encoder is written.
        corpus: in the layout of TOPv2.
        model: options of :class:`RAFConfig` that differ from small ones.
        optimization: options of :class:`RAFOptimizationConfig`.
        module_class: the training stage.
    """
    torch.manual_seed(0)
    rows = read_split(corpus, "train")[:ROWS]
    frames = [row.frame.decoupled() for row in rows]
    encoder = save_encoder(folder / "encoder", "bert", [row.utterance for row in rows] + ["[ intent | slot ]"])
    tokenizer, ontology = PieceTokenizer.from_pretrained(str(encoder)), Ontology.from_frames(frames)
    bank, ids = ScenarioBank.from_frames(frames), TargetIds(ontology)
    config = RAFConfig(str(encoder), **{**SIZES, "retrieval_width": 16, **model})
    module = module_class(
        config, RAFDecodingConfig(), RAFOptimizationConfig(**{"label_smoothing": 0.0, **optimization})
    )
    module.build(Assets(tokenizer, ontology, "span", bank))
    sources = tokenizer.batch([row.utterance for row in rows])
    targets = [ids.encode(SpanForm().encode(f, s)) for f, s in zip(frames, sources, strict=True)]
    scenario_ids = [bank.id(Scenario.from_frame(frame)) for frame in frames]
    encoded = EncodedCorpus([s.ids for s in sources], targets, tokenizer.pad_id, scenarios=scenario_ids)
    return module, rows, encoded.batch(np.arange(len(rows)))


def save_checkpoint(module: ParserModule, path: Path, **changed: dict[str, Any]) -> Path:
    """Writes a module as a training does; ``changed`` replaces options by section, as an earlier version had them."""
    assert module.assets is not None
    options = {
        "model": asdict(module.config), "decoding": asdict(module.decoding), "optimization": asdict(module.optimization)
    }  # fmt: skip
    metadata = {
        "kind": module.kind,
        "assets": module.assets.to_dict(),
        **{section: {**values, **changed.get(section, {})} for section, values in options.items()},
        "data": {},
        "encoder_config": getattr(module, "encoder_config", {}),
    }
    torch.save({"framefill": metadata, "state_dict": module.state_dict()}, path)
    return path
