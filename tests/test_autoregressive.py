import json
from pathlib import Path

import pytest
import torch

from assistants.export import export
from data.topv2.reader import read_split
from frames.errors import UsageError
from frames.linearization import SpanForm, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from lightning_modules.autoregressive import AutoregressiveModule
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from parsers.autoregressive.model import AutoregressiveConfig
from parsers.autoregressive.parser import AutoregressiveDecodingConfig
from parsers.nar import MASKED
from parsers.pointer_network import shifted
from tests.encoders import save_encoder
from tests.training import fit

SIZES = {"width": 32, "decoder_heads": 2, "decoder_layers": 1, "decoder_feed_forward": 32}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    utterances = [example.utterance for example in read_split(corpus, "train")]
    return save_encoder(tmp_path_factory.mktemp("encoder") / "bert", "bert", utterances)


@pytest.fixture(scope="module")
def untrained(encoder: Path, corpus: Path) -> AutoregressiveModule:
    torch.manual_seed(0)
    module = AutoregressiveModule(AutoregressiveConfig(encoder=str(encoder), **SIZES))  # type: ignore[arg-type]
    ontology = Ontology.from_frames(example.frame.decoupled() for example in read_split(corpus, "train"))
    module.build(Assets(PieceTokenizer.from_pretrained(str(encoder)), ontology, "span"))
    return module.eval()


def test_what_is_read_is_what_stands_before():
    assert shifted(torch.tensor([[4, 5, 6], [7, -100, -100]])).tolist() == [[MASKED, 4, 5], [MASKED, 7, MASKED]]


@torch.inference_mode()
def test_all_positions_at_once_score_as_one_after_the_other(untrained: AutoregressiveModule, corpus: Path):
    model, assets = untrained.model, untrained.assets
    assert model is not None and assets is not None
    example = max(read_split(corpus, "eval"), key=lambda e: len(list(e.frame.slots())))
    source = assets.tokenizer(example.utterance)
    targets = torch.tensor([TargetIds(assets.ontology).encode(SpanForm().encode(example.frame.decoupled(), source))])
    pieces = torch.tensor([source.ids])
    memory = model.encoder(pieces, None)
    lengths = torch.tensor([targets.shape[1]])
    together = model.decode_groups(memory, pieces, None, [shifted(targets)], [None], lengths)[0]
    for place in range(targets.shape[1]):
        alone = model.next_token(memory, pieces, None, targets[:, :place])[0]
        assert torch.allclose(alone, together[place], atol=1e-4)


def test_an_untrained_parser_writes_frames_all_the_same(untrained: AutoregressiveModule, corpus: Path):
    parser = untrained.parser()
    utterances = ["x", *(example.utterance for example in read_split(corpus, "eval")[:20])]
    greedy = parser.parse(utterances)
    wide = parser.parse(utterances, n_best=4)
    for one, several in zip(greedy, wide, strict=True):
        assert len(one) == 1
        assert parser.ontology.valid(one[0].frame)
        assert several[0].frame == one[0].frame
        assert [h.score for h in several[1:]] == sorted((h.score for h in several[1:]), reverse=True)
        assert len({h.frame for h in several}) == len(several) > 1
        assert all(parser.ontology.valid(h.frame) for h in several)
    alone = [parser.parse([utterance])[0][0].frame for utterance in utterances]
    assert alone == [hypotheses[0].frame for hypotheses in greedy]
    with pytest.raises(ValueError, match="beam"):
        AutoregressiveDecodingConfig(beam=0)


def test_train_and_evaluate(encoder: Path, corpus: Path, repository: Path, tmp_path: Path):
    config = repository / "configs" / "autoregressive_minilm.yaml"
    # The encoder is not pretrained here, so its embeddings have everything to learn.
    sizes = {**SIZES, "train_embeddings": "true"}
    words = [f"--model.init_args.model.{name}={value}" for name, value in sizes.items()]
    fit(
        tmp_path, corpus, repository, *words, f"--model.init_args.model.encoder={encoder}",
        f"--data.pretrained={encoder}", "--model.init_args.optimization.encoder_lr=4e-3",
        "--model.init_args.optimization.lr=4e-3", "--data.batch_size=64",
        "--trainer.precision=32-true", "--run=a", "--trainer.max_epochs=25", "--trainer.callbacks=null",
        "--trainer.check_val_every_n_epoch=25", config=config,
    )  # fmt: skip
    record = json.loads((tmp_path / "results" / "a" / "metrics.json").read_text())
    assert record["well_formed"] == 100.0
    assert record["exact_match"] > 8
    checkpoint = tmp_path / "runs" / "a" / "best.ckpt"
    module, made = load_module(checkpoint)
    assert made["kind"] == "autoregressive"
    examples = read_split(corpus, "eval")
    parsed = module.parser().parse([example.utterance for example in examples])
    exact = sum(p[0].frame == e.frame.decoupled() for p, e in zip(parsed, examples, strict=True))
    assert record["exact_match"] == pytest.approx(100 * exact / len(examples), abs=0.01)
    with pytest.raises(UsageError, match="E431.*token by token"):
        export(checkpoint, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
