"""The rescorer: frames scored a second time, token by token in one pass."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from assistants import runtime
from assistants.export import export
from benchmarks import decoding, rescoring
from benchmarks.rescoring import Scored
from data.topv2.reader import read_split
from frames.linearization import TargetIds
from lightning_modules import nar
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.span_pointer import SpanPointerModule
from parsers.conv_nar.model import ConvNAR, ConvNARConfig
from parsers.nar import DecodingConfig, NonAutoregressiveParser
from parsers.nar_model import NARModel
from parsers.span_pointer.model import SpanPointerConfig
from scripts.cli import main
from tests.encoders import save_encoder
from tests.test_span_pointer import SMALL
from tests.training import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("rescored")
    encoder = save_encoder(folder / "encoder", "bert", [example.utterance for example in read_split(corpus, "train")])
    words = [
        f"--model.init_args.model.encoder={encoder}", f"--data.pretrained={encoder}", "--run=r", "--trainer.max_epochs=2",
        "--model.init_args.model.rescoring_layers=1", "--model.init_args.decoding.num_rescored=6",
        "--model.init_args.decoding.rescoring_margin=30",
    ]  # fmt: skip
    fit(folder, corpus, repository, *SMALL, *words, config=repository / "configs" / "span_pointer_minilm.yaml")
    return folder / "runs" / "r" / "best.ckpt"


@pytest.fixture(scope="module")
def parser(trained: Path) -> NonAutoregressiveParser:
    found = load_module(trained)[0].parser()
    assert isinstance(found, NonAutoregressiveParser)
    return found


@pytest.fixture(scope="module")
def utterances(corpus: Path) -> list[str]:
    return [example.utterance for example in read_split(corpus, "eval")][:40]


def _with(parser: NonAutoregressiveParser, **decoding: float) -> NonAutoregressiveParser:
    config = replace(parser.config, **decoding)
    return NonAutoregressiveParser(parser.backend, parser.tokenizer, parser.ontology, "span", config)


def _small_conv_nar() -> NARModel:
    torch.manual_seed(0)
    config = ConvNARConfig(width=16, encoder_kernels=[3], decoder_kernels=[3], rescoring_layers=2, max_length=12)
    return ConvNAR(config, vocabulary=20, num_ontology_tokens=6, max_positions=16)


@pytest.mark.parametrize("kind", ["span_pointer", "conv_nar"])
def test_rescorer_sees_only_the_tokens_before(kind: str, trained: Path):
    model = load_module(trained)[0].model if kind == "span_pointer" else _small_conv_nar()
    assert model is not None and model.rescorer is not None
    model.eval()
    pieces, lengths = torch.tensor([[5, 6, 7]]), torch.tensor([4])
    memory, _ = model.encode(pieces, None)
    size = model.ontology_size
    one, other = torch.tensor([[3, size, size + 2, 1]]), torch.tensor([[3, size, size + 1, 4]])
    scores = [
        model.rescorer.decode_groups(memory, pieces, None, [read], [None], lengths)
        for read in (torch.tensor([[-1, 3, size, size + 2]]), torch.tensor([[-1, 3, size, size + 1]]))
    ]
    assert torch.allclose(scores[0][:, :3], scores[1][:, :3], atol=1e-5)
    assert not torch.allclose(scores[0][:, 3], scores[1][:, 3], atol=1e-4)
    for tokens, score in zip((one, other), scores, strict=True):
        wanted = score.gather(2, tokens[:, :, None]).sum(dim=(1, 2))
        assert torch.allclose(model.rescore(memory, pieces, None, tokens, lengths), wanted, atol=1e-4)
        padded = torch.nn.functional.pad(tokens, (0, 2))
        assert torch.allclose(model.rescore(memory, pieces, None, padded, lengths), wanted, atol=1e-4)


def test_scores_mix_those_of_decoder_and_rescorer(parser: NonAutoregressiveParser, utterances: list[str]):
    # A rescorer with noise on its parameters disagrees with the decoder, whatever the tiny parser has learned.
    parser = copy.deepcopy(parser)
    torch.manual_seed(0)
    for parameter in parser.backend.model.rescorer.parameters():
        parameter.data += torch.randn_like(parameter)
    alone = _with(parser, num_rescored=0).parse(utterances, n_best=6)
    ids, changed = TargetIds(parser.ontology), 0
    sources = parser.tokenizer.batch(utterances)
    rescored = _with(parser, rescoring_margin=1e6).parse(utterances, n_best=6)
    for row, (found, before) in enumerate(zip(rescored, alone, strict=True)):
        assert {str(h.frame) for h in found} == {str(h.frame) for h in before}
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        changed += found[0].frame != before[0].frame
        decoder_scores = {str(h.frame): h.score for h in before}
        encoded = parser._encode([sources[row]])
        for hypothesis in found:
            tokens = np.array([ids.encode(hypothesis.trace["tokens"])])
            rescored_alone = parser.backend.rescore(encoded, np.array([0]), tokens, np.array([tokens.shape[1]]))
            together = 0.5 * decoder_scores[str(hypothesis.frame)] + 0.5 * float(rescored_alone[0])
            assert np.isclose(hypothesis.score, together, atol=1e-3)
    assert changed, "the rescorer never changed the best frame"


def test_best_frame_is_the_same_alone_and_among_several(parser: NonAutoregressiveParser, utterances: list[str]):
    """With a margin beyond all frames, the best of one is the best of six; without one, the decoder's own stays."""
    endless = _with(parser, rescoring_margin=1e6)
    for one, many in zip(endless.parse(utterances), endless.parse(utterances, n_best=6), strict=True):
        assert one[0].frame == many[0].frame
    plain = _with(parser, num_rescored=0).parse(utterances)
    for one, before in zip(_with(parser, rescoring_margin=0.0).parse(utterances), plain, strict=True):
        assert one[0].frame == before[0].frame
        assert np.isclose(one[0].score, before[0].score, atol=1e-4)


def test_bundles_rescore_as_checkpoints_do(
    trained: Path, parser: NonAutoregressiveParser, utterances: list[str], tmp_path: Path
):
    bundle = runtime.load(export(trained, tmp_path / "bundle"), "fp32")
    for ours, theirs in zip(parser.parse(utterances), bundle.parse(utterances), strict=True):
        assert ours[0].frame == theirs[0].frame
        assert np.isclose(ours[0].score, theirs[0].score, atol=1e-3)


def test_benchmark_measures_rescoring(trained: Path, corpus: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "rescoring.json"
    words = ["benchmark", "--checkpoint", str(trained), "--data-root", str(corpus), "--out", str(out), "--frames", "4"]
    monkeypatch.setattr(sys, "argv", words)
    rescoring.main()
    found = json.loads(out.read_text())
    assert list(found["gold_in_top"]) == ["1", "2", "3", "4"]
    assert {by_weight["0"] for by_weight in found["exact_match"].values()} == {found["gold_in_top"]["1"]}
    assert out.with_suffix(".png").stat().st_size > 1000
    monkeypatch.setattr(sys, "argv", [*words[:-2], "--beams", "2"])
    decoding.main()
    found = json.loads(out.read_text())
    assert set(found) >= {"rescored, beam 2", "constrained, beam 2", "best tokens, beam 2"}
    assert found["constrained, beam 2"]["well_formed"] == 100.0


def test_weights_and_margins_choose_from_the_same_frames():
    rows = [
        [Scored(False, "a", -1.0, -5.0), Scored(True, "b", -2.5, -1.0), Scored(False, "a", -9.0, -0.1)],
        [Scored(True, "a", -1.0, -2.0)],
    ]
    found = rescoring.summary(rows)
    assert found["exact_match"]["margin 1"] == {f"{weight:g}": 50.0 for weight in rescoring.WEIGHTS}
    assert found["exact_match"]["margin 2"] == {
        f"{weight:g}": 100.0 if weight >= 0.3 else 50.0 for weight in rescoring.WEIGHTS
    }
    assert found["exact_match"]["margin 8"]["1"] == 50.0
    assert found["judged"] == {"1": 0.0, "2": 50.0, "3": 50.0, "4": 50.0, "6": 50.0, "8": 50.0}
    assert found["gold_in_top"] == {"1": 50.0, "2": 100.0, "3": 100.0}


def test_endpoints_are_chosen_among_frames_of_one_scenario():
    near = Scored(True, "a", -2.0, -1.0)
    rows = [
        [Scored(False, "a", -1.0, -4.0), Scored(False, "b", -1.5, -0.5), near],
        [Scored(False, "b", -1.0, -4.0), near],
    ]
    found = rescoring.summary(rows)
    assert found["endpoints_only"]["margin 2"]["0.5"] == 50.0
    assert found["gold_among_endpoints"] == 50.0
    assert found["exact_match"]["margin 2"]["0.5"] == 50.0  # the first row's other scenario wins, the second row's gold


def test_export_changes_decoding_options(trained: Path, tmp_path: Path, capsys):
    words = ["export", "--checkpoint", str(trained), "--out", str(tmp_path / "bundle"), "--precision", "int8"]
    assert main([*words, "--decoding", "num_rescored=3", "rescoring_margin=1.5"]) == 0
    config = runtime.load(tmp_path / "bundle").config
    assert (config.num_rescored, config.rescoring_margin, config.length_beam) == (3, 1.5, 5)
    for wrong, code in (
        ("num_rescored", "E406"),
        ("num_rescored=many", "E434"),
        ("colour=1", "E434"),
        ("length_beam=0", "E434"),
    ):
        assert main([*words, "--decoding", wrong]) == 2
        assert code in capsys.readouterr().err


def test_rescorer_learns_from_a_teacher(trained: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nar, "TEACHER_SHARE", 1.0)
    student = load_module(trained)[0]
    data = TOPv2DataModule(str(corpus), init_from=str(trained), batch_size=24)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    student.optimization.teacher = str(trained)
    assert student.losses(batch)["loss"].item() == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        student.model.rescorer.head.ontology.bias.add_(torch.arange(student.model.ontology_size) * 0.1)
    assert student.losses(batch)["loss"].item() > 0.01


def test_rescoring_without_a_rescorer_is_refused():
    with pytest.raises(ValueError, match="rescoring_layers"):
        SpanPointerModule(SpanPointerConfig(), DecodingConfig(num_rescored=4))
    with pytest.raises(ValueError, match="constrained"):
        DecodingConfig(num_rescored=4, constrained=False)
