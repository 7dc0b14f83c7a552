import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from transformers import get_cosine_schedule_with_warmup

from data.training.batches import PAD_TARGET, BatchStream, EncodedCorpus
from frames.errors import FramefillError, UsageError
from frames.frame import Frame
from lightning_modules import layerskip, nar
from lightning_modules.attention import training_attention
from lightning_modules.callbacks import RandomState
from lightning_modules.conv_nar import ConvNARModule
from lightning_modules.datamodule import Assets, TOPv2DataModule
from lightning_modules.layerskip import LayerSkipModule, LayerSkipOptimizationConfig
from lightning_modules.losses import smoothed_nll, symmetric_divergence
from lightning_modules.nar import NAROptimizationConfig
from lightning_modules.parser_module import warmed_cosine
from lightning_modules.raf import RAFModule
from parsers.conv_nar.model import ConvNAR, ConvNARConfig
from parsers.dropout import ByteDropout
from parsers.encoders import LightweightConv
from parsers.layerskip.model import LayerSkipConfig
from parsers.layout import Layout
from parsers.nar import MASKED, DecodingConfig
from parsers.pointer import PointerHead
from retrieval.bank import ScenarioBank
from tests.training import begin, fit, fit_by_command

SMALL = ConvNARConfig(
    width=32,
    encoder_kernels=[3],
    encoder_feed_forward=32,
    decoder_kernels=[3],
    decoder_feed_forward=32,
    length_hidden=32,
)


def corpus_of(rows: int) -> EncodedCorpus:
    rng = np.random.default_rng(0)
    sources = [rng.integers(2, 50, rng.integers(1, 15)).tolist() for _ in range(rows)]
    targets = [rng.integers(0, 20, rng.choice([2, 6, 10])).tolist() for _ in range(rows)]
    return EncodedCorpus(sources, targets, pad_id=0)


def test_batches_hold_every_row_once_whatever_the_grouping():
    corpus = corpus_of(500)
    stream = BatchStream(corpus, 64)
    pieces, targets = [], []
    for batch in stream:
        mask = torch.ones_like(batch.pieces, dtype=torch.bool) if batch.mask is None else batch.mask
        pieces += batch.pieces[mask].tolist()
        start = 0
        for group in batch.targets:
            lengths = batch.lengths[start : start + len(group)]
            assert (group != PAD_TARGET).sum(1).tolist() == lengths.tolist()
            targets += group[group != PAD_TARGET].tolist()
            start += len(group)
        assert start == len(batch.lengths)
    assert sorted(pieces) == sorted(corpus.source.tolist())
    assert sorted(targets) == sorted(corpus.target.tolist())


def test_a_stream_continues_where_its_state_was_taken():
    whole, broken = BatchStream(corpus_of(300), 32, seed=5), BatchStream(corpus_of(300), 32, seed=5)
    expected = [batch.pieces for _ in range(2) for batch in whole]
    found = [batch.pieces for batch in broken]
    iterator = iter(broken)
    found += [next(iterator).pieces for _ in range(4)]
    again = BatchStream(corpus_of(300), 32, seed=5)
    again.load_state_dict(broken.state_dict())
    found += [batch.pieces for batch in again]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_variants_stand_in_for_their_rows():
    rows, counts = [[10], [20], [30]], [2, 0, 3]
    variants = [[11], [12], [31], [32], [33]]
    corpus = EncodedCorpus(rows + variants, [[0]] * 8, pad_id=0, variants=counts)
    seen = []
    for seed in range(200):
        (batch,) = BatchStream(corpus, 4, seed=seed, augment_prob=0.5)
        values = sorted(batch.pieces[:, 0].tolist())
        assert [value // 10 for value in values] == [1, 2, 3]
        seen += values
    assert set(seen) == {10, 11, 12, 20, 30, 31, 32, 33}
    assert 0.35 < sum(value % 10 > 0 for value in seen) / 400 < 0.65
    (batch,) = BatchStream(corpus, 4)
    assert sorted(batch.pieces[:, 0].tolist()) == [10, 20, 30]


def test_the_rate_follows_the_share_of_the_training():
    steps, warmup = 40, 0.1
    model = torch.nn.Linear(1, 1)
    theirs = get_cosine_schedule_with_warmup(torch.optim.SGD(model.parameters(), 1.0), int(warmup * steps), steps)
    for step in range(steps + 1):
        assert warmed_cosine(step / steps, warmup) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        theirs.optimizer.step()
        theirs.step()


def test_a_rate_that_rises_to_the_end():
    assert [warmed_cosine(progress, 1.0) for progress in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("algorithm", "wanted"), [("value", [1.0, -0.5]), ("norm", [0.986394, -0.164399]), (None, [0.986394, -0.164399])]
)
def test_gradients_are_clipped_as_asked(algorithm: str | None, wanted: list[float]):
    module = ConvNARModule()
    module.weight = torch.nn.Parameter(torch.zeros(2))
    module.weight.grad = torch.tensor([3.0, -0.5])
    module.configure_gradient_clipping(None, 1.0, algorithm)
    assert module.weight.grad.tolist() == pytest.approx(wanted, abs=1e-5)


def test_attention_in_bf16_on_a_processor_is_not_the_fused_one():
    """Layers without dropout would take it; backward it is slow there."""
    fused = torch.backends.cuda.flash_sdp_enabled
    for device, precision, expected in (
        ("cpu", "bf16-mixed", False),
        ("cpu", "32-true", True),
        ("cuda", "bf16-mixed", True),
    ):
        with training_attention(torch.device(device), precision):
            assert fused() is expected
        assert fused()


@pytest.mark.parametrize("scaler", [None, object()], ids=["bf16", "fp16"])
def test_scaled_gradients_are_unscaled_before_they_are_clipped(scaler: object):
    """Lightning does that, unless the optimizer undoes the scale in its step, as fused ones do."""
    module = ConvNARModule()
    module.weight = torch.nn.Parameter(torch.zeros(2))
    module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    optimizer = module.configure_optimizers()["optimizer"]
    assert getattr(optimizer, "_step_supports_amp_scaling", False) == (scaler is None)


def test_pending_random_states_are_saved_again():
    """A second kill before the first step must not save the generator's state of the start-up."""
    states = RandomState()
    states.load_state_dict({"rng": torch.arange(5, dtype=torch.uint8)})
    assert states.state_dict()["rng"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("module_class", "form"), [(ConvNARModule, "copy"), (RAFModule, "index"), (LayerSkipModule, "span")]
)
def test_forms_that_a_parser_does_not_write_are_refused(module_class: type, form: str):
    module = object.__new__(module_class)
    bank = ScenarioBank.from_frames([Frame.parse("[IN:A ]", "a")])
    with pytest.raises(UsageError, match=f"E488.*{form}"):
        module.build(Assets(None, None, form, bank))


def test_processes_share_an_epoch_without_overlap():
    corpus = corpus_of(300)
    parts = [[b.pieces.tolist() for b in BatchStream(corpus, 32, rank=rank, world=2)] for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(BatchStream(corpus, 32, rank=0, world=2))
    assert not [batch for batch in parts[0] if batch in parts[1]]


def test_padding_is_under_a_tenth_on_topv2_lengths(topv2_root: Path):
    module = TOPv2DataModule(str(topv2_root), ["timer", "weather"], batch_size=512)
    module.setup("fit")
    assert module.train_corpus is not None
    assert BatchStream(module.train_corpus, 512).padding() < 0.1


def test_lightweight_convolution_is_a_depthwise_convolution():
    torch.manual_seed(0)
    conv = LightweightConv(12, 3, 5)
    x = torch.randn(2, 7, 12)
    kernel = conv.weight.repeat_interleave(4, dim=0)[:, None]
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), kernel, conv.bias, padding=2, groups=12).transpose(1, 2)
    assert torch.allclose(conv(x, None), expected, atol=1e-5)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = ConvNAR(SMALL, vocabulary=50, num_ontology_tokens=9, max_positions=20).eval()
    pieces, lengths = torch.randint(2, 50, (1, 6)), torch.tensor([6])
    memory, priors = model.encode(pieces, None)
    scores = model.decode(memory, pieces, None, torch.full((1, 6), MASKED), lengths)
    padded = torch.nn.functional.pad(pieces, (0, 4))
    mask = torch.arange(10)[None] < 6
    memory, padded_priors = model.encode(padded, mask)
    padded_scores = model.decode(memory, padded, mask, torch.full((1, 9), MASKED), lengths)
    assert torch.allclose(priors, padded_priors, atol=1e-4)
    assert torch.allclose(scores, padded_scores[:, :6, : 9 + 6], atol=1e-4)
    assert padded_scores[:, :6, 15:].max() < -100


@pytest.mark.parametrize("copy", ["positions", "types"])
def test_groups_score_as_they_would_alone(copy: str):
    torch.manual_seed(0)
    config = replace(SMALL, pointer_copy=copy, decoder_self_heads=2)
    model = ConvNAR(config, vocabulary=50, num_ontology_tokens=9, max_positions=20).eval()
    pieces = torch.randint(2, 50, (5, 6))
    mask = torch.arange(6)[None] < torch.tensor([6, 4, 6, 5, 6])[:, None]
    lengths = torch.tensor([3, 3, 5, 4, 5])
    tokens = [torch.randint(-1, 15, (2, 3)), torch.randint(-1, 15, (3, 5))]
    memory, _ = model.encode(pieces, mask)
    target_mask = torch.arange(5)[None] < lengths[2:, None]
    together = model.decode_groups(memory, pieces, mask, tokens, [None, target_mask], lengths)
    first = model.decode(memory[:2], pieces[:2], mask[:2], tokens[0], lengths[:2])
    second = model.decode(memory[2:], pieces[2:], mask[2:], tokens[1], lengths[2:])
    assert together.shape == (2 * 3 + 3 * 5, 9 + 6)
    assert torch.allclose(together, torch.cat((first.flatten(0, 1), second.flatten(0, 1))), atol=1e-4)


@pytest.mark.parametrize("copy", ["positions", "types"])
def test_pointer_head_is_a_distribution(copy: str):
    torch.manual_seed(0)
    head = PointerHead(16, 5, copy)
    pieces = torch.tensor([[3, 4, 3]])
    states, memory = torch.randn(1, 2, 16), torch.randn(1, 3, 16)
    scores = head(states, Layout.single(states, None), memory, Layout.single(memory, None), pieces)
    if copy == "positions":
        assert torch.allclose(scores.exp().sum(-1), torch.ones(1, 2))
    else:
        assert torch.equal(scores[..., 5], scores[..., 7])
        assert torch.allclose(scores[..., :7].exp().sum(-1), torch.ones(1, 2), atol=1e-5)


def test_byte_dropout_keeps_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    dropout = ByteDropout(0.25)
    x = torch.ones(200_000)
    y = dropout(x)
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(dropout.eval()(x), x)
    with pytest.raises(ValueError, match="not in"):
        ByteDropout(1.0)


def test_smoothing_spreads_over_allowed_classes_alone():
    log_probs = torch.log_softmax(torch.tensor([[1.0, 2.0, -1e4]]), -1)
    allowed = torch.tensor([[True, True, False]])
    loss = smoothed_nll(log_probs, torch.tensor([1]), 0.2, allowed)
    assert loss.item() == pytest.approx((-0.8 * log_probs[0, 1] - 0.1 * log_probs[0, :2].sum()).item())
    assert smoothed_nll(log_probs, torch.tensor([1]), 0.0).item() == pytest.approx(-log_probs[0, 1].item())


def test_divergence_is_symmetric_and_zero_for_equals():
    one, other = (torch.log_softmax(torch.randn(4, 6, generator=torch.Generator().manual_seed(s)), 1) for s in (0, 1))
    assert torch.allclose(symmetric_divergence(one, one), torch.zeros(4), atol=1e-6)
    assert torch.allclose(symmetric_divergence(one, other), symmetric_divergence(other, one))
    expected = (one.exp() * (one - other)).sum(1) + (other.exp() * (other - one)).sum(1)
    assert torch.allclose(symmetric_divergence(one, other), expected, atol=1e-6)


def test_noise_on_embeddings_adds_its_divergence_to_the_loss(corpus: Path, monkeypatch: pytest.MonkeyPatch):
    data = TOPv2DataModule(str(corpus), ["timer"], vocabulary=300, batch_size=32)
    data.setup("fit")
    assert data.assets is not None and data.train_corpus is not None
    still = replace(SMALL, dropout=0.0, input_dropout=0.0, length_dropout=0.0)
    batch = next(iter(BatchStream(data.train_corpus, 32)))
    losses = {}
    for weight, noise in ((0.0, 0.1), (1.0, 0.1), (1.0, 1e-7)):
        torch.manual_seed(0)
        monkeypatch.setattr(nar, "R3F_NOISE", noise)
        module = ConvNARModule(still, optimization=NAROptimizationConfig(r3f_weight=weight))
        module.build(data.assets)
        losses[weight, noise] = module.losses(batch)["loss"].item()
    assert losses[1.0, 0.1] > losses[0.0, 0.1] + 1e-4
    assert losses[1.0, 1e-7] == pytest.approx(losses[0.0, 0.1], abs=1e-4)


@pytest.mark.parametrize(
    "row, code",
    [
        ("timer\tstop timers\t[IN:X [SL:Y stop timer ] s ]", "E133"),
        (f"timer\t{'6 ' * 600}\t[IN:X {'6 ' * 600}]", "E411"),
    ],
)
def test_a_training_row_that_cannot_be_encoded_is_named(row: str, code: str, corpus: Path, tmp_path: Path):
    lines = (corpus / "timer_train.tsv").read_text().splitlines()
    (tmp_path / "timer_train.tsv").write_text("\n".join([*lines[:3], row, *lines[3:]]) + "\n")
    (tmp_path / "timer_eval.tsv").write_bytes((corpus / "timer_eval.tsv").read_bytes())
    with pytest.raises(FramefillError, match=f"{code}.*timer_train.tsv:4"):
        TOPv2DataModule(str(tmp_path), vocabulary=300).setup("fit")


def test_frames_that_are_too_long_for_the_model_are_told_before_training(
    tmp_path: Path, corpus: Path, repository: Path
):
    with pytest.raises(AssertionError, match=r"E428.*max_length"):
        fit(tmp_path, corpus, repository, "--run=x", "--trainer.max_epochs=1", "--model.init_args.model.max_length=3")


def test_configurations_that_cannot_work():
    with pytest.raises(ValueError, match="rescoring_layers"):
        ConvNARModule(decoding=DecodingConfig(num_rescored=2))
    with pytest.raises(ValueError, match="length_beam"):
        DecodingConfig(length_beam=0)


def test_a_run_leaves_checkpoint_logs_and_record(run: Path):
    folder = run / "runs" / "tiny"
    assert (folder / "config.yaml").exists()
    record = json.loads((run / "results" / "tiny" / "metrics.json").read_text())
    assert record["count"] == 120
    assert record["well_formed"] == 100.0
    assert record["made"]["seed"] == 0
    assert record["made"]["data"]["checksum"]
    assert record["environment"]["hardware"]["cores"]
    (log,) = folder.glob("csv/*/metrics.csv")
    assert "val/exact_match" in next(csv.reader(log.open()))
    assert list(folder.glob("tensorboard/*/events*"))


def _final(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "runs" / "r" / "last.ckpt", weights_only=True)
    return {**checkpoint["state_dict"], **{f"now.{k}": v for k, v in checkpoint["current_model_state"].items()}}


def test_a_killed_run_resumes_to_the_very_same_parameters(tmp_path: Path, corpus: Path, repository: Path):
    arguments = ("--run=r", "--trainer.max_epochs=3", "--checkpoint_every=11")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    fit(tmp_path / "whole", corpus, repository, *arguments)
    # A checkpoint in the middle of an epoch: every 7 steps of 11.
    process = begin(
        tmp_path / "killed", corpus, repository, "--run=r", "--trainer.max_epochs=3", "--checkpoint_every=7"
    )
    last = tmp_path / "killed" / "runs" / "r" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (tmp_path / "killed" / "results").exists(), "the run ended before it was killed"
    fit(tmp_path / "killed", corpus, repository, *arguments, "--resume=true")
    whole, resumed = _final(tmp_path / "whole"), _final(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def _losses(folder: Path, run: str) -> list[float]:
    (log,) = (folder / "runs" / run).glob("csv/*/metrics.csv")
    return [float(row["train/loss"]) for row in csv.DictReader(log.open()) if row["train/loss"]]


def test_two_processes_train_one_parser(tmp_path: Path, corpus: Path, repository: Path):
    """Two processes of 32 rows a step take the same number of steps as one of 64, in another order."""
    arguments = (
        "--trainer.max_epochs=6", "--trainer.callbacks=null", "--trainer.check_val_every_n_epoch=6",
        "--model.init_args.optimization.lr=5e-3", "--trainer.log_every_n_steps=2",
    )  # fmt: skip
    fit(tmp_path, corpus, repository, *arguments, "--run=one", "--data.batch_size=64")
    two_processes = ("--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=32")
    fit_by_command(tmp_path, corpus, repository, *arguments, "--run=two", *two_processes)
    records = [json.loads((tmp_path / "results" / run / "metrics.json").read_text()) for run in ("one", "two")]
    assert [record["count"] for record in records] == [120, 120]
    one, two = (_losses(tmp_path, run) for run in ("one", "two"))
    assert len(one) == len(two)
    assert np.mean(two[-6:]) == pytest.approx(np.mean(one[-6:]), rel=0.1)
    assert np.mean(two[-6:]) < 0.6 * two[0]


def test_averaging_leaves_buffers_alone(repository: Path):
    """An average of position ids rounds down to other positions, so every config averages parameters alone."""
    found = 0
    for path in sorted((repository / "configs").rglob("*.yaml")):
        for callback in yaml.safe_load(path.read_text()).get("trainer", {}).get("callbacks") or ():
            if callback["class_path"].endswith("EMAWeightAveraging"):
                assert callback["init_args"]["use_buffers"] is False, path.name
                found += 1
    assert found > 5


def test_shapes_that_are_rounded_up_give_a_language_model_the_same_loss(corpus: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    data = TOPv2DataModule(str(corpus), form="copy", vocabulary=300)
    data.setup("fit")
    assert data.assets is not None and data.train_corpus is not None
    sizes = {"width": 32, "layers": 3, "heads": 2, "feed_forward": 32, "dropout": 0.0, "read_both_ways": True}
    module = LayerSkipModule(LayerSkipConfig(**sizes), optimization=LayerSkipOptimizationConfig(layer_dropout=0.0))
    module.build(data.assets)
    batch = next(iter(BatchStream(data.train_corpus, 12)))
    shapes, losses = [], []
    for multiple in (1, 64):
        monkeypatch.setattr(layerskip, "LENGTHS", multiple)
        monkeypatch.setattr(layerskip, "PLACES", multiple)
        shapes.append(module.sequences(batch).tokens.shape[1])
        losses.append({name: value.item() for name, value in module.losses(batch).items()})
    assert shapes[1] > shapes[0] and shapes[1] % 64 == 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
