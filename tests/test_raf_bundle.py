"""Bundles of RAF, and checkpoints of earlier versions."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from assistants import banks, runtime
from assistants.bundle import Bundle
from assistants.export import export
from assistants.raf import RAFBundleParser
from data.topv2.reader import read_split
from frames.errors import BundleError, MachineError, UsageError
from lightning_modules.checkpoints import load_module
from lightning_modules.raf import RAFModule
from retrieval.scenario import Scenario
from scripts.cli import main
from tests.raf import save_checkpoint, small_raf


def test_export_refuses_what_a_bundle_cannot_hold(corpus: Path, tmp_path: Path):
    module, _, _ = small_raf(tmp_path, corpus, {"filling": "cross_encoder"}, {})
    checkpoint = save_checkpoint(module, tmp_path / "raf.ckpt")
    assert load_module(checkpoint)[0].parser().parse(["wake me at 6"])[0][0].frame is not None
    with pytest.raises(UsageError, match="E432"):
        export(checkpoint, tmp_path / "bundle")


def test_checkpoints_with_options_of_earlier_versions_load(corpus: Path, tmp_path: Path):
    module, _, _ = small_raf(tmp_path, corpus, {"scenario_embeddings": True, "unseen_scale": 1.5}, {})
    checkpoint = save_checkpoint(
        module,
        tmp_path / "raf.ckpt",
        model={
            "pooling": "mean",
            "fill_layers": 1,
            "encoders": "shared",
            "spans": "joint",
            "length_pooling": "mean_max",
            "length_embedding": True,
            "pointer_copy": "positions",
            "encoder_dropout": 0.2,
            "encoder_config": module.encoder_config,
            "own_vectors": True,
            "lift": 1.5,
        },
        decoding={"retrieval_weight": 1.0, "num_composed": 4},
        optimization={"fitted": "retrieval", "negatives": "mined", "hard_negatives": 2, "refresh": 250, "ranked": 4},
    )
    saved = torch.load(checkpoint, weights_only=True)
    for name in ("scenario_embeddings", "unseen_scale", "plain_length"):
        del saved["framefill"]["model"][name]
    del saved["framefill"]["encoder_config"]
    saved["state_dict"]["model.own_vectors"] = saved["state_dict"].pop("model.scenario_embeddings")
    torch.save(saved, checkpoint)
    shutil.rmtree(tmp_path / "encoder")
    loaded, _ = load_module(checkpoint)
    assert loaded.config.scenario_embeddings and loaded.net.unseen_scale == 1.5
    assert type(loaded) is RAFModule and loaded.optimization.bank_refresh_steps == 250
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))
    assert loaded.parser().parse(["wake me at 6"])[0][0].frame is not None


def test_bundle_parses_as_its_checkpoint(raf_bundle: Path, raf_checkpoint: Path, corpus: Path):
    utterances = [example.utterance for example in read_split(corpus, "eval")]
    module, _ = load_module(raf_checkpoint)
    expected, found = module.parser().parse(utterances), runtime.load(raf_bundle, "fp32").parse(utterances)
    same = [one[0].frame == other[0].frame for one, other in zip(expected, found, strict=True)]
    # Leaf states are kept as bytes, so that a tie may fall the other way.
    assert np.mean(same) > 0.97
    for hypotheses in runtime.load(raf_bundle).parse(utterances):
        assert hypotheses[0].frame is not None


def test_a_scenario_that_is_added_answers_without_training(repository: Path, tmp_path: Path):
    """The example of ``docs/raf.md``: neither the intent nor the slot is one of TOPv2."""
    folder = shutil.copytree(repository / "models" / "raf-topv2", tmp_path / "bundle")
    assert main(["bank", "add", "--bundle", str(folder), "[IN:TRANSLATE_TEXT [SL:LANGUAGE ] ]"]) == 0
    ((best, *_),) = runtime.load(folder).parse(["translate this text to spanish"])
    assert str(best.frame) == "[IN:TRANSLATE_TEXT [SL:LANGUAGE spanish ] ]"


def test_bank_commands_add_and_remove_a_scenario(raf_bundle: Path, tmp_path: Path, capsys):
    folder = tmp_path / "bundle"
    shutil.copytree(raf_bundle, folder)
    new = "[IN:BREW_COFFEE [SL:COFFEE_AMOUNT ] ]"
    assert main(["bank", "add", "--bundle", str(folder), new, new]) == 0
    assert main(["bank", "list", "--bundle", str(folder)]) == 0
    assert "0\t[IN:BREW_COFFEE [SL:COFFEE_AMOUNT * ] ]" in capsys.readouterr().out
    parser = runtime.load(folder)
    assert isinstance(parser, RAFBundleParser)
    scenario = Scenario.parse(new)
    parser.config.num_retrieved = len(parser.table.bank)
    (candidates,) = parser.candidates(parser.tokenizer.batch(["brew two cups of coffee"]))
    mine = next(candidate for candidate in candidates if candidate.scenario == scenario)
    assert mine.decoder_score is None and mine.retrieval_score is not None
    frame = parser.form.decode(mine.tokens, parser.tokenizer("brew two cups of coffee"))
    assert parser.ontology.valid(frame) and not runtime.load(raf_bundle).ontology.valid(frame)
    assert main(["bank", "remove", "--bundle", str(folder), new]) == 0
    assert runtime.load(folder).parse(["wake me at 6"]) == runtime.load(raf_bundle).parse(["wake me at 6"])
    assert main(["bank", "remove", "--bundle", str(folder), new]) != 0
    assert "E440" in capsys.readouterr().err


def test_quantized_leaf_states_are_quantized_again_unchanged():
    leaves = np.random.default_rng(0).normal(size=(50, 16)) * np.linspace(0, 9, 50)[:, None]
    kept = banks.quantize_leaves(leaves)
    again = kept["leaves"] * kept["scales"]
    assert kept["leaves"].dtype == np.int8 and np.abs(again - leaves).max() <= kept["scales"].max() / 2 + 1e-6
    assert (banks.quantize_leaves(again)["leaves"] == kept["leaves"]).all()
    assert banks.quantize_leaves(np.zeros((0, 16)))["leaves"].shape == (0, 16)


def test_full_disk_leaves_the_bank_unchanged(raf_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "bundle"
    shutil.copytree(raf_bundle, folder)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("assistants.banks.save", full)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MachineError, match="No space left"):
        banks.change(folder, lambda table: table)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_bundles_without_a_bank_and_zips_are_refused(bundle: Path, raf_bundle: Path, tmp_path: Path):
    with pytest.raises(BundleError, match="E328"):
        banks.read(Bundle(bundle))
    archive = tmp_path / "raf.zip"
    archive.write_bytes(b"")
    with pytest.raises(BundleError, match="E329"):
        banks.change(archive, lambda table: table)
