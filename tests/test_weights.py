"""Packed weights serve wherever a checkpoint does."""

from pathlib import Path

import pytest
import torch

from data.topv2.reader import read_split
from frames.errors import BundleError, UsageError
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.saved import read_checkpoint
from lightning_modules.weights import pack
from scripts.cli import main
from tests.encoders import save_encoder
from tests.test_span_pointer import SMALL
from tests.training import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    encoder = save_encoder(folder / "encoder", "bert", [example.utterance for example in read_split(corpus, "train")])
    words = [f"--model.init_args.model.encoder={encoder}", f"--data.pretrained={encoder}", "--run=p"]
    words += ["--trainer.max_epochs=1", "--model.init_args.decoding.num_rescored=3"]
    fit(folder, corpus, repository, *SMALL, *words, config=repository / "configs" / "span_pointer_minilm.yaml")
    return folder / "runs" / "p" / "best.ckpt"


@pytest.fixture(scope="module")
def packed(trained: Path) -> Path:
    out = trained.with_name("parser.safetensors")
    assert main(["weights", "--checkpoint", str(trained), "--out", str(out)]) == 0
    return out


def test_packed_weights_parse_as_their_checkpoint_does(trained: Path, packed: Path, corpus: Path):
    assert packed.stat().st_size < trained.stat().st_size / 3
    (one, metadata), (other, packed_metadata) = load_module(trained), load_module(packed)
    assert metadata["data"]["checksum"] == packed_metadata["data"]["checksum"] and one.decoding == other.decoding
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=2e-3, rtol=2e-3) for name in mine)
    still = "encoder.transformer.embeddings.word_embeddings.weight"
    # What the encoder brings is read from it again; averaging has rounded the checkpoint's.
    assert torch.allclose(mine[still], theirs[still], atol=1e-6)
    utterances = [example.utterance for example in read_split(corpus, "eval")]
    pairs = zip(one.parser().parse(utterances), other.parser().parse(utterances), strict=True)
    same = [a[0].frame == b[0].frame for a, b in pairs]
    assert sum(same) > 0.97 * len(same)


def test_a_training_starts_from_packed_weights(packed: Path, corpus: Path):
    data = TOPv2DataModule(str(corpus), init_from=str(packed))
    data.setup("fit")
    assert data.assets is not None
    assert data.assets.ontology.tokens == load_module(packed)[0].assets.ontology.tokens


def test_damaged_weights_are_refused(packed: Path, trained: Path, tmp_path: Path):
    content = packed.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    with pytest.raises(BundleError, match="E307"):
        read_checkpoint(tmp_path / "cut.safetensors")
    (tmp_path / "changed.safetensors").write_bytes(content[:-2] + bytes([content[-2] ^ 1, content[-1]]))
    with pytest.raises(BundleError, match="E306"):
        read_checkpoint(tmp_path / "changed.safetensors")
    with pytest.raises(UsageError, match="E433"):
        pack(trained, tmp_path / "parser.bin")


def test_an_encoder_that_cannot_be_had_is_told(trained: Path, packed: Path):
    encoder = Path(load_module(trained)[1]["model"]["encoder"])
    away = encoder.rename(encoder.with_suffix(".away"))
    try:
        with pytest.raises(UsageError, match="E424"):
            read_checkpoint(packed)
    finally:
        away.rename(encoder)


def test_frozen_parameters_that_are_not_the_encoders_are_packed(trained: Path, tmp_path: Path):
    """As after a training with embeddings that learned, or under a mask."""
    checkpoint = torch.load(trained, weights_only=True)
    name = "model.encoder.transformer.embeddings.word_embeddings.weight"
    checkpoint["state_dict"][name] += 1.0
    torch.save(checkpoint, tmp_path / "moved.ckpt")
    pack(tmp_path / "moved.ckpt", tmp_path / "moved.safetensors")
    mine, theirs = (read_checkpoint(tmp_path / f"moved.{kind}")["state_dict"] for kind in ("ckpt", "safetensors"))
    assert torch.allclose(mine[name], theirs[name], atol=2e-3)
