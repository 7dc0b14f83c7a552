import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import (
    averaging,
    decoding,
    errors,
    held_out_intents,
    retrieval,
    retrieval_scale,
    span_vs_index,
    training_throughput,
)
from benchmarks.span_vs_index import peak_bytes
from data.topv2.reader import read_split
from lightning_modules.checkpoints import load_module
from lightning_modules.saved import read_checkpoint
from retrieval.index import KINDS
from retrieval.scenario import Scenario
from tests.conftest import TINY_RAF
from tests.encoders import save_encoder
from tests.training import fit


def test_peak_counts_what_is_alive_at_once():
    def one_after_the_other() -> None:
        for _ in range(5):
            torch.zeros(250_000)

    def together() -> None:
        kept = [torch.zeros(250_000) for _ in range(5)]
        del kept

    assert peak_bytes(one_after_the_other) == pytest.approx(1e6, rel=0.01)
    assert peak_bytes(together) == pytest.approx(5e6, rel=0.01)


def test_measurements_run_on_a_small_corpus(checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "out.json"
    words = ["--data-root", str(corpus), "--out", str(out)]
    for module, chosen in (
        (decoding, ["--checkpoint", str(checkpoint), "--beams", "1"]),
        (span_vs_index, ["--span", str(checkpoint), "--index", str(checkpoint), "--utterances", "5", "--batch", "5"]),
    ):
        threads = torch.get_num_threads()
        monkeypatch.setattr(sys, "argv", ["benchmark", *chosen, *words])
        module.main()
        torch.set_num_threads(threads)
        assert out.stat().st_size > 200
        out.unlink()


def test_averaged_and_last_parameters_are_told_apart(checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch):
    states = read_checkpoint(checkpoint)
    swapped = {**states, "state_dict": states["current_model_state"], "current_model_state": states["state_dict"]}
    torch.save(swapped, tmp_path / "swapped.ckpt")
    found = []
    for path in (checkpoint, tmp_path / "swapped.ckpt"):
        words = [
            "benchmark",
            "--checkpoint",
            str(path),
            "--data-root",
            str(corpus),
            "--out",
            str(tmp_path / "out.json"),
        ]
        monkeypatch.setattr(sys, "argv", words)
        averaging.main()
        found.append(json.loads((tmp_path / "out.json").read_text()))
    assert found[0]["averaged"] != found[0]["last"]
    assert found[0]["averaged"] == found[1]["last"] and found[0]["last"] == found[1]["averaged"]
    torch.save({name: value for name, value in states.items() if name != "current_model_state"}, tmp_path / "one.ckpt")
    monkeypatch.setattr(sys, "argv", ["benchmark", "--checkpoint", str(tmp_path / "one.ckpt"), *words[3:]])
    with pytest.raises(SystemExit, match="EMAWeightAveraging"):
        averaging.main()


def test_a_training_step_is_taken_apart(corpus: Path, tmp_path: Path, repository: Path, monkeypatch):
    out, config = tmp_path / "out.json", tmp_path / "demo.yaml"
    demo = (repository / "configs" / "demo.yaml").read_text()
    # Without instructions for bfloat16, as here perhaps, a processor takes minutes for whole batches and large products.
    config.write_text(demo.replace("batch_size: 128", "batch_size: 8"))
    assert config.read_text() != demo
    monkeypatch.setattr(training_throughput, "product_speed", partial(training_throughput.product_speed, size=128))
    words = ["benchmark", "--config", str(config), "--data-root", str(corpus)]
    monkeypatch.setattr(sys, "argv", [*words, "--steps", "2", "--out", str(out)])
    training_throughput.main()
    found = json.loads(out.read_text())
    assert sum(found["share"].values()) == pytest.approx(100, abs=0.1)
    # Three passes of two operations over the encoder's 0.2 million weights, for some ten pieces, and as much again.
    assert 0.005 < found["gflop_per_utterance"] < 0.1


def test_retrieval_is_measured_with_its_oracles(raf_checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "retrieval.json"
    words = ["benchmark", "--checkpoint", str(raf_checkpoint), "--data-root", str(corpus), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    retrieval.main()
    found = json.loads(out.read_text())
    recall = list(found["recall"].values())
    assert recall == sorted(recall) and recall[-1] > recall[0] >= 0
    assert list(found["gold_in_top"].values()) == sorted(found["gold_in_top"].values())
    assert found["gold_in_top"]["100"] <= found["in_bank_share"] * found["gold_scenario_given"] / 100 + 0.01
    for name in ("together", "bank_alone", "span_pointer_alone"):
        assert found[name]["exact_match"] <= found["any_candidate"]["exact_match"]
        assert found[name]["in_bank"] <= found[name]["scenario_in_bank"] <= found["any_candidate"]["scenario_in_bank"]
    assert found["bank_alone"]["out_of_bank"] == 0.0
    assert out.with_suffix(".png").stat().st_size > 1000


def test_held_out_intents_are_added_by_text(corpus: Path, tmp_path: Path, repository: Path, monkeypatch):
    rows = read_split(corpus, "train")
    intent = read_split(corpus, "eval")[0].frame.root.label
    encoder = save_encoder(tmp_path / "encoder", "bert", [row.utterance for row in rows])
    fit(
        tmp_path, corpus, repository, *TINY_RAF, f"--model.init_args.model.encoder={encoder}",
        f"--data.pretrained={encoder}", "--run=raf", f"--data.without_intents=[{intent}]", "--trainer.max_steps=4",
        "--trainer.val_check_interval=4", "--trainer.check_val_every_n_epoch=null", "--data.validation_rows=8",
        config=repository / "configs" / "raf_minilm.yaml",
    )  # fmt: skip
    checkpoint, out = tmp_path / "runs" / "raf" / "best.ckpt", tmp_path / "out.json"
    assets = load_module(checkpoint)[0].assets
    assert assets is not None and assets.bank is not None and intent not in assets.ontology.intents
    words = ["benchmark", "--checkpoint", str(checkpoint), "--data-root", str(corpus), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*words, "--others", "5"])
    held_out_intents.main()
    found = json.loads(out.read_text())
    with_intent = [row for row in rows if intent in {node.label for node in row.frame.intents()}]
    assert found["scenarios_added"] == len({str(Scenario.from_frame(row.frame)) for row in with_intent})
    assert found["exact_match_before"][intent] == 0.0 and found["rows"][intent] > 0


def test_search_is_measured_for_every_kind_of_index(tmp_path: Path, monkeypatch):
    out = tmp_path / "scale.json"
    monkeypatch.setattr(sys, "argv", ["benchmark", "--sizes", "600", "--queries", "20", "--out", str(out)])
    retrieval_scale.main()
    found = json.loads(out.read_text())["by_kind"]
    assert found["flat"]["600"]["recall_at_1"] == 100.0
    assert set(found) == set(KINDS)
    assert out.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("predicted", "kind"),
    [
        ("[IN:A [SL:B x y ] [SL:C z ] ]", "exact"),
        ("[IN:B [SL:B x y ] [SL:C z ] ]", "other root intent"),
        ("", "other root intent"),
        ("[IN:A [SL:B x y ] ]", "other scenario"),
        ("[IN:A [SL:B x ] [SL:C z ] ]", "one endpoint off"),
        ("[IN:A [SL:B x ] [SL:C w ] ]", "several endpoints off"),
    ],
)
def test_errors_fall_into_classes(predicted: str, kind: str):
    assert errors.classify("[IN:A [SL:B x y ] [SL:C z ] ]", predicted) == kind


def test_shares_of_errors_are_written(tmp_path: Path, monkeypatch):
    rows, out = tmp_path / "p.tsv", tmp_path / "errors.json"
    rows.write_text("domain\tutterance\tgold\tpredicted\texact\nd\tx\t[IN:A ]\t[IN:A ]\t1\nd\tx\t[IN:A ]\t[IN:B ]\t0\n")
    monkeypatch.setattr(sys, "argv", ["benchmark", "--predictions", str(rows), "--out", str(out)])
    errors.main()
    assert json.loads(out.read_text())["percent"]["other root intent"] == 50.0
