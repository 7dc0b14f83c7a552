"""Training of RAF: its losses, the encoded bank, and the last stage of retrieval alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.training.batches import EncodedCorpus
from frames.errors import UsageError
from frames.frame import Frame
from frames.linearization import SpanForm, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from lightning_modules.bank_encoder import BankEncoder
from lightning_modules.datamodule import Assets
from lightning_modules.raf import RAFModule, RAFOptimizationConfig, RAFRetrievalModule, endpoints, span_scores
from lightning_modules.saved import parameters_of, read_checkpoint
from parsers.nar import Encoded
from parsers.raf.model import RETRIEVAL_PREFIXES, RAFConfig
from tests.conftest import TINY_RAF
from tests.raf import small_raf
from tests.training import fit

#: Steps after which the rows of :func:`small_raf` are parsed.
STEPS = 30


def test_endpoints_and_span_scores_are_those_of_the_targets():
    frames = [Frame.parse(text) for text in ("[IN:A a b ]", "[IN:A [SL:B a b ] [SL:B c ] ]", "[IN:A [SL:B a ] c ]")]
    frames = [frame.decoupled() for frame in frames]
    ids = TargetIds(Ontology.from_frames(frames))
    tokenizer = PieceTokenizer.train_sentencepiece(["a b c"], 10)
    sources = [tokenizer(frame.utterance) for frame in frames]
    targets = [ids.encode(SpanForm().encode(f, s)) for f, s in zip(frames, sources, strict=True)]
    corpus = EncodedCorpus([s.ids for s in sources], targets, 0, scenarios=[0, 1, 2])
    batch = corpus.batch(np.array([1, 0, 2]))
    assert batch.scenarios is not None and batch.scenarios.tolist() == [0, 2, 1]
    # Leaves of each row, 0 where it has fewer than the widest.
    found = endpoints(batch, ids.size, 2)
    assert found.tolist() == [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [2, 2]]]
    scores = torch.zeros(3, 2, 3, 3)
    scores[2, 0, 0, 1], scores[2, 1, 2, 2], scores[1, 0, 0, 0] = -1.0, -2.0, -3.0
    assert span_scores(scores, found).tolist() == [[0.0, 0.0], [-3.0, 0.0], [-1.0, -2.0]]


@pytest.mark.parametrize(
    ("model", "optimization"),
    [
        ({}, {}),
        ({}, {"scenarios_encoded_per_step": 8}),
        ({}, {"num_mined_negatives": 1, "num_ranking_negatives": 4}),
        ({"filling": "cross_encoder"}, {"num_ranking_negatives": 2}),
        ({"scenario_embeddings": True}, {"num_mined_negatives": 1}),
    ],
    ids=str,
)
def test_losses_teach_retrieval_and_filling(model: dict, optimization: dict, corpus: Path, tmp_path: Path):
    module, rows, batch = small_raf(tmp_path, corpus, model, optimization)
    module.decoding.compose_weight = 0.0
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    for step in range(STEPS):
        if step % 10 == 0:
            module.bank_encoder.encoded = None
        optimizer.zero_grad()
        module.losses(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    parsed = module.parser().parse([row.utterance for row in rows])
    assert np.mean([h[0].frame == row.frame.decoupled() for h, row in zip(parsed, rows, strict=True)]) > 0.8


def test_losses_sum_up_and_compose_unless_decoding_does_not(corpus: Path, tmp_path: Path):
    module, _, batch = small_raf(tmp_path, corpus, {}, {"num_ranking_negatives": 2})
    module.eval()
    losses = module.losses(batch)
    assert losses.keys() == {"loss", "retrieval", "fill", "ranking", "tokens", "length"}
    composed = module.frame_losses(batch, *module.model.encode(batch.pieces, batch.mask))["loss"]
    wanted = losses["retrieval"] + losses["fill"] + losses["ranking"] + composed
    assert losses["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    module.decoding.compose_weight = 0.0
    assert module.losses(batch).keys() == {"loss", "retrieval", "fill", "ranking"}


def test_mined_negatives_are_the_nearest_scenarios_of_others(corpus: Path, tmp_path: Path):
    module, _, batch = small_raf(tmp_path, corpus, {}, {"num_mined_negatives": 1})
    module.eval()
    losses = module.losses(batch)
    bank = module.bank_encoder.current()
    queries = module.model.query(module.model.encode(batch.pieces, batch.mask)[0], batch.mask)
    keys = module.model.keys(bank.glosses)
    near = (queries @ keys.T).argsort(dim=1, descending=True).tolist()
    mined = {next(i for i in row if i != own) for row, own in zip(near, batch.scenarios.tolist(), strict=True)}
    kept = sorted(mined | set(batch.scenarios.tolist()))
    gold = torch.tensor([kept.index(own) for own in batch.scenarios.tolist()])
    wanted = torch.nn.functional.cross_entropy(module.model.scale * queries @ keys[kept].T, gold)
    assert losses["retrieval"].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_update_encodes_scenarios_as_the_whole_bank_is_encoded(corpus: Path, tmp_path: Path):
    module, _, _ = small_raf(tmp_path, corpus, {}, {})
    module.eval()
    encoder = module.bank_encoder
    whole = encoder.encode_all()
    some = np.array([7, 2, 5])
    blank = type(whole)(torch.zeros_like(whole.glosses), torch.zeros_like(whole.leaves))
    updated = encoder.update(blank, some)
    assert updated.glosses.requires_grad and not whole.glosses.requires_grad
    assert torch.allclose(updated.glosses[some], whole.glosses[some], atol=1e-5)
    states, mask = encoder.leaf_states(updated, some)
    wanted, _ = encoder.leaf_states(whole, some)
    assert torch.allclose(states[mask], wanted[mask], atol=1e-5) and mask.sum() == encoder.leaf_rows.counts[some].sum()
    # Nothing else has changed.
    assert updated.glosses.abs().sum(dim=1).nonzero().flatten().tolist() == sorted(some.tolist())


def test_bank_encoder_state_survives_a_checkpoint(corpus: Path, tmp_path: Path):
    module, _, batch = small_raf(tmp_path, corpus, {}, {})
    encoder = module.bank_encoder
    assert encoder.state_dict() == {}
    module.losses(batch)
    other = BankEncoder(module.model, encoder.bank, encoder.glosses)
    other.load_state_dict(encoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.current(), encoder.current(), strict=True))
    other.load_state_dict({})
    assert other.encoded is None


@pytest.mark.parametrize("filling", ["table", "together"])
def test_backend_fills_as_training_does(filling: str, corpus: Path, tmp_path: Path):
    module, rows, batch = small_raf(tmp_path, corpus, {"filling": filling}, {})
    module.eval()
    parser, model = module.parser(), module.model
    memory, _ = model.encode(batch.pieces, batch.mask)
    spans, leaf_mask = module._spans(batch, memory, module.bank_encoder.current(), batch.scenarios[:, None])
    mask = np.ones(batch.pieces.shape, dtype=bool) if batch.mask is None else batch.mask.numpy()
    encoded = Encoded([], batch.pieces.numpy(), mask, memory.detach(), np.zeros((len(rows), 1)))
    found = parser.backend.fill(encoded, np.arange(len(rows)), batch.scenarios.numpy(), parser.table)
    wanted = spans[:, 0][leaf_mask[:, 0]].detach().numpy()
    assert np.allclose(np.exp(found[leaf_mask[:, 0].numpy()]), np.exp(wanted), atol=1e-4)


def test_last_stage_trains_the_retrieval_head_alone(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = {"scenario_embeddings": True, "query_hidden": 16, "dropout": 0.5}
    module, _, batch = small_raf(tmp_path, corpus, model, {}, RAFRetrievalModule)
    assert module.model is not None
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    encode_all, times = BankEncoder.encode_all, []
    monkeypatch.setattr(BankEncoder, "encode_all", lambda self: times.append(1) or encode_all(self))
    seen = []
    module.model.encoder.register_forward_hook(lambda part, given, states: seen.append(states))
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    losses = []
    for step in range(40):
        module.on_train_batch_start(batch, step)
        optimizer.zero_grad()
        found = module.losses(batch)
        assert found.keys() == {"loss", "retrieval"}
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert losses[-1] < 0.5 * losses[0]
    # The encoder runs without dropout, though the module is in training mode, and the bank is encoded once.
    assert module.model.training and len(times) == 1
    assert torch.equal(seen[-1], seen[-2]) and not seen[-1].requires_grad
    moved = {name for name, value in module.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(RETRIEVAL_PREFIXES)}


def test_last_stage_config_is_laid_over_that_of_the_joint_training(
    raf_checkpoint: Path, corpus: Path, repository: Path, tmp_path: Path
):
    encoder, configs = raf_checkpoint.parents[2] / "encoder", repository / "configs"
    words = [
        f"--config={configs / 'raf_last_stage.yaml'}", f"--data.init_from={raf_checkpoint}", "--run=last", *TINY_RAF,
        f"--model.init_args.model.encoder={encoder}", f"--data.pretrained={encoder}",
        "--trainer.max_steps=6", "--trainer.val_check_interval=6", "--trainer.check_val_every_n_epoch=null",
        "--data.validation_rows=8",
    ]  # fmt: skip
    printed = fit(tmp_path, corpus, repository, *words, config=configs / "raf_minilm.yaml")
    assert "exact match on eval" in printed
    # The kind of the checkpoint stays raf, so that it parses as any other.
    before, after = (
        parameters_of(read_checkpoint(path)) for path in (raf_checkpoint, tmp_path / "runs" / "last" / "best.ckpt")
    )
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(RETRIEVAL_PREFIXES)}


def test_rate_of_composition_differs_from_retrieval_and_encoder():
    rates = RAFOptimizationConfig(lr=3.0, compose_lr=2.0, encoder_lr=1.0)
    module = RAFModule(RAFConfig(), optimization=rates)
    names = ("query_head.weight", "length.out.weight", "encoder.transformer.encoder.layer.1.output.dense.weight")
    assert [module.rate(f"model.{name}") for name in names] == [3.0, 2.0, 1.0]
    assert module.rate("model.query_mlp.0.weight") == 3.0
    module.optimization = RAFOptimizationConfig(lr=3.0)
    assert module.rate("model.length.out.weight") == 3.0


def test_build_needs_a_bank():
    ontology = Ontology.from_frames([Frame.parse("[IN:A ]")])
    with pytest.raises(UsageError, match=r"E441.*needs"):
        RAFModule().build(Assets(PieceTokenizer.train_sentencepiece(["a b"], 10), ontology, "span"))


@pytest.mark.parametrize(
    "wrong", [{"num_mined_negatives": -1}, {"num_ranking_negatives": -1}, {"bank_refresh_steps": 0}], ids=str
)
def test_optimization_options_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RAFOptimizationConfig(**wrong)
