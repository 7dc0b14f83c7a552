import json
from pathlib import Path

import numpy as np
import pytest
import torch

from assistants import runtime
from assistants.export import export
from data.topv2.reader import read_split
from frames.errors import UsageError
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from lightning_modules.nar import NAROptimizationConfig
from lightning_modules.span_pointer import SpanPointerModule
from parsers.nar import MASKED
from parsers.pretrained import PretrainedEncoder, load_transformer
from parsers.span_pointer.model import SpanPointerConfig
from tests.encoders import FAMILIES, save_encoder
from tests.raf import save_checkpoint
from tests.training import fit

SMALL = (
    "--model.init_args.model.width=32",
    "--model.init_args.model.decoder_layers=1",
    "--model.init_args.model.decoder_heads=2",
    "--model.init_args.model.decoder_feed_forward=32",
    "--model.init_args.model.length_hidden=32",
    "--model.init_args.optimization.encoder_lr=1e-3",
    "--data.batch_size=64",
    "--trainer.precision=32-true",
    "--trainer.enable_model_summary=false",
)


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request, tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    utterances = [example.utterance for example in read_split(corpus, "train")]
    return save_encoder(tmp_path_factory.mktemp("encoder") / request.param, request.param, utterances)


def _module(encoder: Path, **optimization: float) -> SpanPointerModule:
    config = SpanPointerConfig(encoder=str(encoder), width=32, decoder_heads=2, decoder_layers=1, length_hidden=16)
    return SpanPointerModule(config, optimization=NAROptimizationConfig(**optimization))


def test_states_are_those_of_the_pieces_whatever_the_padding(encoder: Path):
    tokenizer = PieceTokenizer.from_pretrained(str(encoder))
    transformer = load_transformer(str(encoder)).eval()
    model = PretrainedEncoder(transformer, tokenizer.prefix, tokenizer.suffix, 32, 0.1, True).eval()
    short, long = (tokenizer(text).ids for text in ("wake me", "set an alarm for tomorrow at 6"))
    pieces = torch.tensor([[*short, *[tokenizer.pad_id] * (len(long) - len(short))], list(long)])
    mask = torch.arange(len(long))[None] < torch.tensor([[len(short)], [len(long)]])
    together = model(pieces, mask)
    alone = model(torch.tensor([short]), None)
    whole = transformer(torch.tensor([[*tokenizer.prefix, *short, *tokenizer.suffix]])).last_hidden_state
    assert torch.allclose(alone, whole[:, 1:-1], atol=1e-5)
    assert torch.allclose(together[:1, : len(short)], alone, atol=1e-5)
    assert torch.allclose(together[1:], model(torch.tensor([long]), None), atol=1e-5)
    assert torch.allclose(model(pieces, mask, noise=1e-9)[mask], together[mask], atol=1e-5)
    assert not torch.allclose(model(pieces, mask, noise=1.0)[mask], together[mask], atol=1e-2)


def test_train_evaluate_export_parse(encoder: Path, corpus: Path, repository: Path, tmp_path: Path):
    """The whole way with an encoder of each family; the checkpoint and the bundle need its folder no more.

    The way of training is the same for all families, so one is trained and the others are as they were built.
    """
    if encoder.name == "bert":
        chosen = (f"--model.init_args.model.encoder={encoder}", f"--data.pretrained={encoder}")
        config = repository / "configs" / "span_pointer_minilm.yaml"
        fit(tmp_path, corpus, repository, *SMALL, *chosen, "--run=s", "--trainer.max_epochs=2", config=config)
        record = json.loads((tmp_path / "results" / "s" / "metrics.json").read_text())
        assert record["well_formed"] == 100.0
        checkpoint = tmp_path / "runs" / "s" / "best.ckpt"
    else:
        built = _module(encoder)
        frames = [example.frame.decoupled() for example in read_split(corpus, "train")]
        built.build(Assets(PieceTokenizer.from_pretrained(str(encoder)), Ontology.from_frames(frames), "span"))
        checkpoint = save_checkpoint(built, tmp_path / "built.ckpt")
    moved = encoder.rename(encoder.with_suffix(".away"))
    try:
        module, made = load_module(checkpoint)
        parser = runtime.load(export(checkpoint, tmp_path / "bundle"), "fp32")
    finally:
        moved.rename(encoder)
    assert made["kind"] == parser.manifest["parser"] == "span_pointer"
    utterances = [example.utterance for example in read_split(corpus, "eval")]
    for ours, theirs in zip(module.parser().parse(utterances), parser.parse(utterances), strict=True):
        assert ours[0].frame == theirs[0].frame
        assert np.isclose(ours[0].score, theirs[0].score, atol=1e-3)


def test_the_encoder_has_a_rate_of_its_own(tmp_path: Path):
    folder = save_encoder(tmp_path / "bert", "bert", ["wake me at 6"] * 20)
    module = _module(folder, lr=1e-2, encoder_lr=1e-3)
    module.model = module.make_model(PieceTokenizer.from_pretrained(str(folder)), 9)
    rates = {name: module.rate(name) for name, _ in module.named_parameters()}
    assert rates["model.positions"] == 1e-2
    assert {rate for name, rate in rates.items() if ".transformer." in name} == {1e-3}


def test_embeddings_stay_as_they_are_when_asked(tmp_path: Path):
    folder = save_encoder(tmp_path / "bert", "bert", ["wake me at 6"] * 20)
    module = _module(folder)
    module.config.train_embeddings = False
    model = module.make_model(PieceTokenizer.from_pretrained(str(folder)), 9)
    still = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert still == ["encoder.transformer.embeddings.word_embeddings.weight"]


def test_target_positions_see_each_other(tmp_path: Path):
    folder = save_encoder(tmp_path / "bert", "bert", ["wake me at 6"] * 20)
    module = _module(folder)
    tokenizer = PieceTokenizer.from_pretrained(str(folder))
    model = module.make_model(tokenizer, 9).eval()
    pieces, lengths = torch.tensor([tokenizer("wake me at 6").ids]), torch.tensor([4])
    memory, _ = model.encode(pieces, None)
    hidden = torch.full((1, 6), MASKED)
    # Two positions more at the end, which are masked or not: only attention among positions carries that to the first.
    seen = torch.arange(6)[None] < 4
    cut, whole = (
        model.decode_groups(memory, pieces, None, [hidden], [mask], lengths) for mask in (seen, torch.ones_like(seen))
    )
    assert not torch.allclose(cut.view(6, -1)[:4], whole.view(6, -1)[:4], atol=1e-5)


def test_encoders_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="E424.*no-such-folder"):
        load_transformer(str(tmp_path / "no-such-folder"))
    with pytest.raises(UsageError, match="E421"):
        PieceTokenizer.from_pretrained(str(tmp_path / "no-such-folder"))
    monkeypatch.setenv("FRAMEFILL_CACHE", str(tmp_path))
    for load in (load_transformer, PieceTokenizer.from_pretrained):
        with pytest.raises(UsageError, match="framefill data weights mpnet") as caught:
            load("mpnet")
        assert caught.value.code == "E422"


def test_pieces_of_another_encoder_are_refused(tmp_path: Path):
    folder = save_encoder(tmp_path / "bert", "bert", ["wake me at 6"] * 20)
    pieces = PieceTokenizer.train_sentencepiece(["the quick brown fox", "jumps over a lazy dog"] * 20, 400)
    assert pieces.vocab_size > load_transformer(str(folder)).config.vocab_size
    with pytest.raises(UsageError, match="E423"):
        _module(folder).make_model(pieces, 9)


def test_loaded_weights_are_trained_with_dropout(tmp_path: Path):
    folder = save_encoder(tmp_path / "encoder", "bert", ["set an alarm"])
    model = PretrainedEncoder(load_transformer(str(folder)), (), (), 32, 0.1, True)
    pieces = torch.ones((4, 8), dtype=torch.long)
    assert not torch.equal(model(pieces, None), model(pieces, None))
