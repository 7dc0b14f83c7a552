"""Lottery tickets: masks, rounds of pruning, stages, the transfer study and structured tickets."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from nbclient import NotebookClient
from pytorch_lightning.callbacks import EMAWeightAveraging

from frames.errors import BundleError, CorpusError, UsageError
from frames.linearization import TargetIds
from lightning_modules.checkpoints import load_module
from lightning_modules.conv_nar import ConvNARModule
from lightning_modules.lottery import experiment as experiments
from lightning_modules.lottery.callback import MagnitudePruning
from lightning_modules.lottery.compressed import read_ticket, write_ticket
from lightning_modules.lottery.config import read_config
from lightning_modules.lottery.divergence import jensen_shannon, unigrams
from lightning_modules.lottery.experiment import Experiment, StudyConfig, Values, find_ticket
from lightning_modules.lottery.masks import (
    Mask,
    PruningConfig,
    apply_mask,
    dense_mask,
    mask_of,
    pruned,
    random_mask,
    remove_mask,
    weights_of,
)
from lightning_modules.lottery.stages import StageStore, read_mask, stage_name, write_mask
from lightning_modules.lottery.strategies import STRATEGIES
from lightning_modules.lottery.structured import shrunk, structured_ticket
from lightning_modules.lottery.study import Plan
from lightning_modules.nar import NAROptimizationConfig
from lightning_modules.saved import parameters_of
from lightning_modules.span_pointer import SpanPointerModule
from parsers.conv_nar.model import ConvNARConfig
from parsers.nar import DecodingConfig
from parsers.nar_model import NARModel
from parsers.span_pointer.model import SpanPointerConfig
from scripts.cli import main
from scripts.lottery_figures import losses, merged, points
from scripts.statistics import mean_interval
from scripts.structured import structured

CONV = ConvNARConfig(
    width=16, encoder_kernels=[3], encoder_conv_heads=4, encoder_feed_forward=16, decoder_kernels=[3],
    decoder_conv_heads=4, decoder_cross_heads=4, decoder_feed_forward=16, length_hidden=16,
)  # fmt: skip
SPAN = SpanPointerConfig(
    width=16, decoder_layers=1, decoder_heads=4, decoder_feed_forward=16, length_hidden=16,
    encoder={
        "model_type": "bert", "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 24, "max_position_embeddings": 512,
    },
)  # fmt: skip
DATA = {"form": "span", "vocabulary": 300, "batch_size": 16}
STUDY = StudyConfig(
    rows=48, eval_rows=8, steps=4, rounds=2, transferred=[1, 2], rewind_step=2,
    pruning=PruningConfig(share=0.5, smallest_layer=200),
)  # fmt: skip
#: Initial values are drawn by the seed, masks and order as well.
SEED = 3


def module_of(kind: str) -> ConvNARModule | SpanPointerModule:
    decoding, optimization = DecodingConfig(length_beam=1), NAROptimizationConfig(lr=1e-2, weight_decay=0.5)
    if kind == "conv_nar":
        return ConvNARModule(CONV, decoding, optimization)
    return SpanPointerModule(SPAN, decoding, optimization)


@pytest.fixture(scope="module", params=["conv_nar", "span_pointer"])
def experiment(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp(f"stages_{request.param}")
    return Experiment(module_of(request.param), DATA, STUDY, str(corpus), folder)


@pytest.fixture
def conv(corpus: Path, tmp_path: Path) -> Experiment:
    return Experiment(module_of("conv_nar"), DATA, STUDY, str(corpus), tmp_path / "stages")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of a tiny study."""
    sections = {
        "run": "tiny_lottery",
        "model": {"class_path": "lightning_modules.conv_nar.ConvNARModule", "init_args": {"model": vars(CONV)}},
        "data": DATA,
        "study": {**vars(STUDY), "pruning": vars(STUDY.pruning)},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def linear_pair() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.Linear(10, 4))


def test_a_round_removes_the_smallest_of_what_is_left_in_every_layer():
    weights = weights_of(linear_pair())
    mask = dense_mask(weights, 1)
    assert set(mask.kept) == {"0.weight", "1.weight"}, "biases stay dense"
    assert set(dense_mask(weights, 100).kept) == {"0.weight"}, "and so do small layers"
    for counts in ({"0.weight": 130, "1.weight": 26}, {"0.weight": 84, "1.weight": 17}):
        before, mask = mask, pruned(weights, mask, PruningConfig())
        assert mask.counts == counts
        for name, kept in mask.kept.items():
            removed = before.kept[name] & ~kept
            assert not (kept & ~before.kept[name]).any()
            assert weights[name].abs()[kept].min() >= weights[name].abs()[removed].max()
    assert mask.sparsity == pytest.approx(1 - (84 + 17) / 240)
    assert mask.layers == {"0.weight": pytest.approx(1 - 84 / 200), "1.weight": pytest.approx(1 - 17 / 40)}


def test_global_magnitudes_compete_across_layers():
    weights = {"large": torch.full((10, 10), 5.0), "small": torch.arange(1.0, 101).view(10, 10) / 100}
    mask = pruned(weights, dense_mask(weights, 1), PruningConfig(0.25, "global"))
    assert mask.counts == {"large": 100, "small": 50}
    assert mask.kept["small"].flatten()[50:].all()


def test_a_random_mask_has_the_sparsity_of_each_layer():
    weights = weights_of(linear_pair())
    mask = pruned(weights, dense_mask(weights, 1), PruningConfig())
    one, again, other = random_mask(mask, 1), random_mask(mask, 1), random_mask(mask, 2)
    assert one.counts == mask.counts == other.counts
    assert one.digest == again.digest != other.digest


def test_a_layer_is_never_emptied():
    weights = weights_of(linear_pair())
    with pytest.raises(UsageError, match=r"E560.*1\.weight"):
        pruned(weights, dense_mask(weights, 1), PruningConfig(0.99))
    weights["1.weight"] *= 1e-6
    with pytest.raises(UsageError, match="E560"):
        pruned(weights, dense_mask(weights, 1), PruningConfig(0.5, "global"))
    with pytest.raises(ValueError, match="share"):
        PruningConfig(1.0)


def test_a_mask_of_another_model_is_refused():
    model = linear_pair()
    for kept in ({"2.weight": torch.ones(4, 10).bool()}, {"1.weight": torch.ones(4, 11).bool()}):
        with pytest.raises(BundleError, match="E561"):
            apply_mask(model, Mask(kept))
    assert mask_of(model) is None, "a mask that does not fit changes nothing"


def test_masks_are_applied_replaced_and_removed():
    model = linear_pair()
    before = weights_of(model)
    mask = pruned(before, dense_mask(before, 1), PruningConfig())
    apply_mask(model, mask)
    found = mask_of(model)
    assert found is not None and found.digest == mask.digest
    apply_mask(model, pruned(before, mask, PruningConfig()))
    assert torch.equal(weights_of(model)["0.weight"] != 0, mask_of(model).kept["0.weight"])
    remove_mask(model)
    assert dict(model.named_parameters()).keys() == before.keys()
    assert torch.equal(model[0].bias, before["0.bias"])


def test_a_tied_weight_is_pruned_wherever_it_is_read():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    mask = random_mask(Mask({"0.weight": torch.arange(40).view(10, 4) % 2 == 0}), SEED)
    apply_mask(model, mask)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.arange(10)).square().mean().backward()
        optimizer.step()
    found = mask_of(model)
    assert found is not None and found.digest == mask.digest
    loaded = parameters_of({"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}})
    remove_mask(model)
    assert model[1].weight is model[0].weight and len(list(model.parameters())) == 1
    for weight in (model[1].weight, loaded["0.weight"], loaded["1.weight"]):
        assert torch.equal(weight != 0, mask.kept["0.weight"])
        assert torch.equal(weight, model[0].weight)


def test_mask_files(tmp_path: Path):
    with pytest.raises(UsageError, match="E433"):
        MagnitudePruning(next_mask_file=str(tmp_path / "mask.json"))
    weights = weights_of(linear_pair())
    mask = pruned(weights, dense_mask(weights, 1), PruningConfig())
    path = tmp_path / "masks" / "a.safetensors"
    write_mask(path, mask, {"parent": None, "round": 1, "seed": SEED})
    found, record = read_mask(path)
    assert found.digest == mask.digest and record["round"] == 1 and record["layers"]["0.weight"] == pytest.approx(0.35)
    write_mask(tmp_path / "b.safetensors", random_mask(mask, 0), {})
    (tmp_path / "b.json").write_bytes(path.with_suffix(".json").read_bytes())
    (tmp_path / "c.safetensors").write_bytes(path.read_bytes()[:-9])
    (tmp_path / "c.json").write_bytes(path.with_suffix(".json").read_bytes())
    for name in ("b", "c", "missing"):
        with pytest.raises(BundleError, match="E564"):
            read_mask(tmp_path / f"{name}.safetensors")
    record.pop("shapes")
    for value in ([], {**record, "shapes": None}, {**record, "shapes": {"0.weight": [10**30]}}):
        path.with_suffix(".json").write_text(json.dumps(value))
        with pytest.raises(BundleError, match="E564"):
            read_mask(path)


def test_compressed_tickets(tmp_path: Path):
    weights = weights_of(linear_pair())
    mask = pruned(weights, dense_mask(weights, 1), PruningConfig(0.9))
    zeroed = {
        name: value.where(mask.kept[name], torch.tensor(0.0)) if name in mask.kept else value
        for name, value in weights.items()
    }
    path = tmp_path / "ticket.safetensors"
    assert write_ticket(path, zeroed, mask) == path.stat().st_size
    found, read = read_ticket(path)
    assert read.digest == mask.digest and found.keys() == zeroed.keys()
    assert all(torch.equal(found[name], value) for name, value in zeroed.items())
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BundleError, match="E571"):
        read_ticket(path)


def fitted(
    experiment: Experiment, steps: int, folder: Path, mask: Mask, resumed: Path | None = None
) -> pl.LightningModule:
    """A training under a mask with weight decay and averaging, taken up from a checkpoint if there is one."""
    module, data = experiment.new_module(SEED), experiment.domain("timer")
    data.restart(SEED)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=folder, enable_checkpointing=False,
        callbacks=[MagnitudePruning(mask), EMAWeightAveraging(decay=0.5, use_buffers=False)],
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=None if resumed is None else str(resumed), weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return module


def test_zeros_stay_through_steps_decay_averaging_and_resume(experiment: Experiment, tmp_path: Path):
    initial = weights_of(experiment.new_module(SEED).net)
    mask = pruned(initial, dense_mask(initial, 200), PruningConfig(0.5))
    fitted(experiment, 2, tmp_path, mask)
    module = fitted(experiment, 4, tmp_path, mask, tmp_path / "2.ckpt")
    loaded, _ = load_module(tmp_path / "4.ckpt")
    for weights in (weights_of(module.net), weights_of(loaded.net)):
        for name, kept in mask.kept.items():
            assert (weights[name][~kept] == 0).all(), name
        kept = mask.kept["length.out.weight"]
        assert not torch.equal(weights["length.out.weight"][kept], initial["length.out.weight"][kept])
    # A checkpoint of a training under a mask is one like any other.
    assert not any("parametrizations" in name for name in loaded.net.state_dict())
    utterance = ["set a timer for 5 minutes"]
    remove_mask(module)
    assert loaded.parser().parse(utterance)[0][0].frame == module.parser().parse(utterance)[0][0].frame


def test_layers_that_are_all_too_small_are_told_before_training(conv: Experiment, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match=r"E573.* 201 .*largest has 200.*smallest_layer"):
        dense_mask(weights_of(linear_pair()), 201)
    assert dense_mask(weights_of(linear_pair()), 200).counts == {"0.weight": 200}
    study = replace(STUDY, pruning=PruningConfig(smallest_layer=10**9))
    experiment = Experiment(conv.module, DATA, study, conv.root, conv.store.root)
    monkeypatch.setattr(ConvNARModule, "training_step", lambda *_: pytest.fail("a step is trained"))
    with pytest.raises(UsageError, match="E573"):
        find_ticket(experiment, "timer", SEED)


def test_rows_that_are_too_long_for_the_model_are_told_before_training(conv: Experiment):
    conv.module.config = replace(CONV, max_length=3)
    with pytest.raises(UsageError, match="E428"):
        conv.train("timer", SEED, None, Values(SEED))


def test_averaging_must_not_come_before_the_mask(conv: Experiment):
    module = conv.new_module(SEED)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=[EMAWeightAveraging(), MagnitudePruning()],
    )  # fmt: skip
    with pytest.raises(UsageError, match="E562"):
        trainer.fit(module, datamodule=conv.domain("timer"))


def test_a_search_and_its_transfer(experiment: Experiment, monkeypatch: pytest.MonkeyPatch):
    records = find_ticket(experiment, "timer", SEED)
    masks = [experiment.next_mask(record) for record in records]
    assert [round(record["sparsity"], 2) for record in records] == [0.0, 0.5, 0.75]
    assert records[1]["key"]["mask"] == masks[0].digest and records[1]["layers"].keys() == masks[0].kept.keys()
    rewound = find_ticket(experiment, "timer", SEED, rewound=True)
    assert rewound[0] == records[0] and rewound[1]["key"] != records[1]["key"]
    moved = experiment.train("alarm", SEED, masks[1], Values(SEED))
    experiment.write_masks(records, "timer")
    mask, record = read_mask(experiment.store.root / "masks" / "timer" / "round_02.safetensors")
    assert mask.digest == masks[1].digest and record["parent"] == masks[0].digest and record["seed"] == SEED
    monkeypatch.setattr(Experiment, "fit", lambda *_: pytest.fail("a stage that is there is trained again"))
    assert find_ticket(experiment, "timer", SEED) == records
    assert experiment.train("alarm", SEED, masks[1], Values(SEED)) == moved
    early = experiment.store.tensors(records[0]["key"], "early_values")
    assert early.keys() == weights_of(experiment.new_module(SEED).net).keys()


def test_masks_of_another_study_are_replaced(conv: Experiment, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    longer = Experiment(module_of("conv_nar"), DATA, replace(STUDY, steps=6), str(corpus), conv.store.root)
    weights = weights_of(conv.new_module(SEED).net)
    dense = dense_mask(weights, 200)
    path = conv.store.root / "masks" / "timer" / "round_01.safetensors"
    for experiment, mask in ((conv, pruned(weights, dense, STUDY.pruning)), (longer, dense)):
        monkeypatch.setattr(experiment, "next_mask", lambda record, mask=mask: mask)
        records = [{"key": experiment.key("timer", SEED, None, Values(SEED), prunes=True)}]
        experiment.write_masks(records, "timer")
        found, record = read_mask(path)
        assert found.digest == mask.digest and record["stage"] == stage_name(records[0]["key"])
        written = path.stat().st_mtime_ns
        experiment.write_masks(records, "timer")
        assert path.stat().st_mtime_ns == written
        path.write_bytes(b"")
        experiment.write_masks(records, "timer")
        assert read_mask(path)[0].digest == mask.digest


def test_a_round_begins_at_the_initial_or_at_the_early_values(conv: Experiment, monkeypatch: pytest.MonkeyPatch):
    begun: list[dict[str, torch.Tensor]] = []

    class Spy(MagnitudePruning):
        def on_train_start(self, trainer, pl_module):
            begun.append(weights_of(pl_module.model))

    monkeypatch.setattr(experiments, "MagnitudePruning", Spy)
    records = find_ticket(conv, "timer", SEED)
    initial = weights_of(conv.new_module(SEED).net)
    assert all(torch.equal(begun[0][name], value) for name, value in initial.items())
    mask = conv.next_mask(records[0])
    expected = {name: torch.where(mask.kept[name], initial[name], 0.0) for name in mask.kept}
    assert all(torch.equal(begun[1][name], value) for name, value in expected.items())
    early = conv.store.tensors(records[0]["key"], "early_values")
    assert not torch.equal(early["length.out.weight"], initial["length.out.weight"])
    find_ticket(conv, "timer", SEED, rewound=True)
    assert all(torch.equal(begun[3][name], early[name].where(mask.kept[name], torch.tensor(0.0))) for name in mask.kept)
    assert torch.equal(begun[3]["length.out.bias"], early["length.out.bias"])


def test_an_interrupted_training_leaves_nothing(conv: Experiment, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lightning_modules.lottery.stages.write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            conv.train("timer", SEED, None, Values(SEED))
    assert conv.store.read(conv.key("timer", SEED, None, Values(SEED))) is None
    assert conv.train("timer", SEED, None, Values(SEED))["sparsity"] == 0


def test_half_written_stages_are_named(tmp_path: Path):
    store, key = StageStore(tmp_path), {"domain": "timer"}
    assert store.read(key) is None
    store.write(key, {"exact_match": 1.0}, {"values": {"a": torch.ones(3)}})
    assert store.read(key)["exact_match"] == 1.0 and store.read({"domain": "alarm"}) is None
    store.write(key, {"exact_match": 2.0}, {})
    assert store.read(key)["exact_match"] == 1.0, "what is there stays"
    (store.folder(key) / "values.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="E563"):
        store.read(key)
    (store.folder(key) / "stage.json").unlink()
    with pytest.raises(BundleError, match="E563"):
        store.read(key)


def test_domains_are_checked_before_anything_is_trained(config: Path, corpus: Path, tmp_path: Path):
    def plan(sources: list[str], targets: list[str], split: str = "train") -> Plan:
        return Plan(
            str(config), str(corpus), str(tmp_path / "stages"), tuple(sources), tuple(targets), (0,), split=split
        )

    plan(["alarm+timer"], ["weather"]).check()
    for source in ("weather", "alarm+weather"):
        with pytest.raises(UsageError, match="E565"):
            plan([source], ["timer", "weather"]).check()
    with pytest.raises(CorpusError, match="E204"):
        plan(["alarm+clock"], ["weather"]).check()
    with pytest.raises(CorpusError, match="E204"):
        plan(["alarm"], ["wether"]).check()
    with pytest.raises(CorpusError, match="E203"):
        plan(["alarm"], ["weather"], "train_25spis").check()


def test_configs_of_studies(repository: Path, tmp_path: Path):
    for name in ("lottery_conv_nar", "lottery_structured_conv_nar", "lottery_structured_span_pointer"):
        module, data, study = read_config(repository / "configs" / f"{name}.yaml")
        assert module.kind in name and data["form"] == "span" and study.rounds
    with pytest.raises(UsageError, match="E566"):
        read_config(tmp_path / "none.yaml")
    for section, said in (
        ("study: {stepz: 3}", ""),
        ("study: {eval_rows: 0}", "eval_rows 0: at least 1"),
        ("study: {rounds: 0, transferred: []}", "rounds 0: at least 1"),
        ("study: {clip: -1}", r"clip -1\.0: at least 0"),
        ("data: {root: x, validation_rows: 3}", r"data\.root, data\.validation_rows"),
        ("data: {num_augmented: 2}", r"data\.num_augmented"),
        ("data: {init_from: x}", r"data\.init_from"),
        ("data: {bank_splits: [eval]}", r"data\.bank_splits"),
        ("data: 3", ""),
    ):
        path = tmp_path / "bad.yaml"
        path.write_text(f"model: {{class_path: lightning_modules.conv_nar.ConvNARModule}}\n{section}\n")
        with pytest.raises(UsageError, match=f"E566.*{said}"):
            read_config(path)


def test_the_command_writes_figures_and_takes_up_earlier_ones(
    config: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    words = ["bench", "lottery", "--config", str(config), "--data-root", str(corpus), "--targets", "weather"]
    words += ["--stages", str(tmp_path / "stages"), "--out", str(tmp_path / "out"), "--sources", "timer"]
    assert main([*words, "--seeds", "0"]) == 0
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {row["strategy"] for row in rows} == set(STRATEGIES) and len(rows) == 1 + 5 * 2
    assert all(set(row) == {"source", "target", "strategy", "sparsity", "seed", "exact_match"} for row in rows)
    assert {round(row["sparsity"], 2) for row in rows} == {0.0, 0.5, 0.75}
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [entry["compressed"] < entry["dense"] for entry in study["bytes"]] == [True] * 3
    assert 0 < study["divergence"]["timer"]["weather"] < 1 and study["points"][0]["interval"] is None
    for name in ("timer_to_weather.png", "loss_against_divergence.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr()
    assert "timer to weather" in shown.out and "min left" in shown.err
    assert main([*words, "--seeds", "1", "--strategies", "dense"]) == 0
    both = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row for row in both if row["seed"] == 0] == rows and len(both) == len(rows) + 1
    again = json.loads((tmp_path / "out" / "study.json").read_text())
    assert again["bytes"] == study["bytes"] and str(tmp_path) not in str(again)


def test_means_intervals_and_losses():
    assert mean_interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(2.484, abs=1e-3))
    assert mean_interval([7.0]) == (7.0, None)
    row = {"source": "a", "target": "b", "strategy": "dense", "sparsity": 0.0, "seed": 0, "exact_match": 50.0}
    ticket = {**row, "strategy": "masks_reset", "sparsity": 0.5, "exact_match": 47.0}
    rows = [row, {**row, "seed": 1, "exact_match": 54.0}, ticket, {**ticket, "seed": 1, "exact_match": 53.0}]
    assert [(p["strategy"], p["exact_match"], p["seeds"]) for p in points(rows)] == [
        ("dense", 52, 2),
        ("masks_reset", 50, 2),
    ]
    (lost,) = losses(rows)
    assert lost["change"] == -2 and lost["interval"] == pytest.approx(12.706, abs=1e-2)
    later = {**ticket, "exact_match": 48.0}
    assert merged(rows, [later]) == [rows[0], rows[1], later, rows[3]]


def test_divergence_of_unigrams():
    one, other = unigrams(np.array([0, 0, 1, 1]), 4), unigrams(np.array([2, 3, 2, 3]), 4)
    assert one.tolist() == [0.5, 0.5, 0, 0]
    assert jensen_shannon(one, one) == 0 and jensen_shannon(one, other) == pytest.approx(1)
    # Half of the mass is shared: H((.5, .25, .25)) - H((.5, .5)) bits.
    third = unigrams(np.array([0, 0, 2, 2]), 4)
    assert jensen_shannon(one, third) == pytest.approx(0.5)


def models(experiment: Experiment, kept: float) -> tuple[NARModel, NARModel]:
    dense = experiment.new_module(SEED)
    return dense.net, experiment.new_module(SEED + 1, shrunk(dense.sizes, kept)).net


def test_structured_tickets_are_slices(experiment: Experiment):
    dense, same = models(experiment, 1.0)
    values = dict(dense.named_parameters())
    ticket = structured_ticket(dense, same, values)
    assert all(torch.equal(ticket[name], value) for name, value in values.items())
    _, small = models(experiment, 0.5)
    raised = {name: value.detach().clone() for name, value in values.items()}
    for name in ("blocks.0.inner.weight", "blocks.0.cross_attention.query.weight"):
        raised[name][4:12] *= 100
    ticket = structured_ticket(dense, small, raised)
    small.load_state_dict({**small.state_dict(), **ticket})
    # Of 16 inner channels the 8 largest are kept, and of 4 heads of 4 channels the two that were raised.
    for name in ("blocks.0.inner.bias", "blocks.0.cross_attention.query.bias"):
        assert torch.equal(ticket[name], values[name][4:12])
    assert torch.equal(
        ticket["blocks.0.cross_attention.key_value.bias"][8:], values["blocks.0.cross_attention.key_value.bias"][20:28]
    )
    assert sum(v.numel() for v in ticket.values()) < 0.75 * sum(v.numel() for v in values.values())
    with pytest.raises(UsageError, match="E569"):
        models(experiment, 0.3)


def test_other_kinds_have_no_structured_tickets():
    with pytest.raises(UsageError, match="E568"):
        shrunk(object(), 0.5)
    with pytest.raises(UsageError, match="E567"):
        shrunk(replace(SPAN, encoder="minilm"), 0.5)
    with pytest.raises(UsageError, match="E574.*mpnet"):
        shrunk(replace(SPAN, encoder={**SPAN.encoder, "model_type": "mpnet"}), 0.5)


def test_structured_tickets_are_trained_exported_and_measured(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if experiment.module.kind == "span_pointer":
        # One export is slow enough; what is exported is a parser like any other.
        ratios = {"latency_ratio": 1.0, "size_ratio": 2.0, "graphs_ratio": 2.0}
        monkeypatch.setattr("scripts.structured.compared", lambda *_: ratios)
    monkeypatch.setattr("scripts.structured.ROUNDS", 1)
    path = structured(experiment, "timer", [0.5], [SEED], tmp_path)
    (row,) = json.loads(path.read_text())
    assert row["parser"] == experiment.module.kind and row["kept"] == 0.5 and row["graphs_ratio"] > 1
    named = {"exact_match", "dense_exact_match", "from_nothing_exact_match", "latency_ratio", "size_ratio"}
    assert all(isinstance(row[name], float) for name in named)
    path.write_text("[")
    with pytest.raises(BundleError, match="E570"):
        structured(experiment, "timer", [0.5], [SEED], tmp_path)


def test_structured_rows_of_earlier_calls_stay_if_they_were_made_alike(
    conv: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained = SimpleNamespace(record={"exact_match": 50.0})
    monkeypatch.setattr("scripts.structured.train_smaller", lambda *_: trained)
    monkeypatch.setattr("scripts.structured.compared", lambda *_: {})

    def rows(domain: str, kept: list[float], seeds: list[int]) -> list[tuple[str, float]]:
        return [
            (row["domain"], row["kept"])
            for row in json.loads(structured(conv, domain, kept, seeds, tmp_path).read_bytes())
        ]

    assert rows("weather", [0.5, 0.3], [0]) == [("weather", 0.5), ("weather", 0.3)]
    path = tmp_path / "structured.json"
    earlier = json.loads(path.read_bytes())
    for row in earlier:
        del row["made"]["model"]  # as rows of earlier versions
    path.write_text(json.dumps([{**earlier[0], "parser": "span_pointer"}, *earlier]))
    assert rows("timer", [0.5], [0]) == [("weather", 0.5), ("weather", 0.5), ("weather", 0.3), ("timer", 0.5)]
    assert rows("weather", [0.3], [0]) == [("weather", 0.5), ("weather", 0.5), ("timer", 0.5), ("weather", 0.3)]
    assert (tmp_path / "structured.png").read_bytes()[:4] == b"\x89PNG"
    assert rows("weather", [0.3], [1]) == [("weather", 0.5), ("timer", 0.5), ("weather", 0.3)], "other seeds"
    monkeypatch.setattr(conv, "checksums", {"train": "0", "eval": "0"})
    assert rows("weather", [0.4], [1]) == [("weather", 0.5), ("timer", 0.5), ("weather", 0.4)], "other rows"


def test_pieces_and_labels_are_shared_by_all_domains(conv: Experiment):
    timer, alarm = conv.domain("timer"), conv.domain("alarm")
    assert timer.assets is alarm.assets is conv.assets
    assert TargetIds(conv.assets.ontology).size > 0 and {"IN:CREATE_ALARM"} <= set(conv.assets.ontology.tokens)
    assert len(timer.train_corpus) == STUDY.rows and len(timer.eval_examples) == STUDY.eval_rows


def test_the_notebook_draws_what_the_records_hold(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    row = {"source": "a", "target": "b", "strategy": "dense", "sparsity": 0.0, "seed": 0, "exact_match": 50.0}
    tickets = [
        {**row, "strategy": strategy, "sparsity": sparsity, "exact_match": 49.5 - 10 * sparsity}
        for strategy in STRATEGIES[1:]
        for sparsity in (0.0001, 0.9)
    ]
    smaller = {"parser": "conv_nar", "domain": "a", "kept": 0.5, "exact_match": 49.0, "dense_exact_match": 50.0}
    smaller |= {"from_nothing_exact_match": 48.0, "reset_exact_match": 47.0, "latency_ratio": 1.5, "size_ratio": 2.5}
    for name, value in (
        ("summary", [row, *tickets]),
        ("study", {"divergence": {"a": {"b": 0.5}}}),
        ("structured", [smaller]),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    monkeypatch.setenv("FRAMEFILL_LOTTERY", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(repository))
    notebook = nbformat.read(repository / "notebooks" / "03_lottery_tickets.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(repository / "notebooks")}}).execute()
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in data for data in outputs) == 3
    (near,) = [data["text/html"] for data in outputs if "masks_reset" in data.get("text/html", "")]
    assert "<td>masks_reset</td><td>0.0%</td><td>0.0%</td>" in near
