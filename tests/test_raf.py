import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from assistants import banks, runtime
from assistants.bundle import Bundle
from assistants.export import export
from assistants.raf import RAFBundleParser
from data.topv2.reader import Example, read_split
from data.training.batches import Batch, EncodedCorpus
from frames.errors import BundleError, MachineError, UsageError
from frames.frame import Frame
from frames.linearization import SpanForm, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from lightning_modules.calibration import calibrate_checkpoint
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from lightning_modules.raf import RAFModule, RAFOptimizationConfig, endpoints, span_scores
from lightning_modules.saved import parameters_of, read_checkpoint
from lightning_modules.weights import pack
from parsers.pretrained import load_transformer
from parsers.raf.calibration import calibrate
from parsers.raf.filling import NEVER, best_spans
from parsers.raf.model import RAF, RETRIEVAL_PREFIXES, RAFConfig, SpanHead
from parsers.raf.parser import Candidate, RAFDecodingConfig, RAFParser, composition, template, weigh
from parsers.span_pointer.model import SpanPointer, SpanPointerConfig
from retrieval.bank import ScenarioBank
from retrieval.glosses import Glosses
from retrieval.scenario import Scenario
from scripts.cli import main
from tests.conftest import TINY_RAF
from tests.encoders import save_encoder
from tests.training import fit


@pytest.mark.parametrize("leaves", [0, 1, 2, 3])
def test_filling_finds_what_trying_everything_finds(leaves: int):
    rng = np.random.default_rng(leaves)
    size = 4
    for _ in range(20):
        scores = rng.normal(size=(1, 3, size, size))
        atoms = np.sort(rng.integers(0, 3, size))
        firsts = np.array([i == 0 or atoms[i] != atoms[i - 1] for i in range(size)])
        lasts = np.array([i == size - 1 or atoms[i] != atoms[i + 1] for i in range(size)])
        spans = [(i, j) for i in range(size) for j in range(i, size) if firsts[i] and lasts[j]]
        best = max(
            (
                sum(scores[0, leaf, i, j] for leaf, (i, j) in enumerate(chosen))
                for chosen in itertools.product(spans, repeat=leaves)
                if all(one[1] < other[0] for one, other in itertools.pairwise(chosen))
            ),
            default=None,
        )
        found, total = best_spans(scores, np.array([leaves]), firsts[None], lasts[None])
        if best is None:
            assert total[0] <= NEVER / 2
        else:
            assert total[0] == pytest.approx(best)
            filled = [tuple(span) for span in found[0, :leaves].tolist()]
            assert all(span in spans for span in filled)
            assert all(one[1] < other[0] for one, other in itertools.pairwise(filled))
            assert sum(scores[0, leaf, i, j] for leaf, (i, j) in enumerate(filled)) == pytest.approx(best)


def test_scenarios_of_one_batch_are_filled_apart():
    rng = np.random.default_rng(0)
    scores, leaves = rng.normal(size=(5, 3, 6, 6)), np.array([0, 3, 1, 2, 3])
    anywhere = np.ones((5, 6), dtype=bool)
    spans, totals = best_spans(scores, leaves, anywhere, anywhere)
    for i in range(5):
        alone, total = best_spans(scores[i : i + 1], leaves[i : i + 1], anywhere[:1], anywhere[:1])
        assert total[0] == pytest.approx(totals[i])
        assert (alone[0] == spans[i]).all()


@pytest.mark.parametrize("joint", [True, False])
def test_spans_are_a_distribution(joint: bool):
    torch.manual_seed(0)
    head = SpanHead(16, joint)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    scores = head(torch.randn(2, 3, 16), torch.randn(2, 5, 16), mask)
    assert scores.shape == (2, 3, 5, 5)
    assert torch.allclose(scores.exp().sum(dim=(2, 3)), torch.ones(2, 3), atol=1e-4)
    assert (scores[1, :, 3:].exp() < 1e-6).all() and (scores[1, :, :, 3:].exp() < 1e-6).all()
    if joint:
        assert (scores.exp().tril(-1) < 1e-6).all()


def test_the_template_of_a_frame_in_the_span_form():
    frame = Frame.parse("[IN:A [SL:B x y [IN:C [SL:D z ] ] w ] [SL:E ] ]")
    source = PieceTokenizer.train_sentencepiece(["x y z w"], 10)(frame.utterance)
    assert template(SpanForm().encode(frame, source)) == Scenario.from_frame(frame)


def test_gold_spans_are_read_off_the_targets():
    frames = [Frame.parse(text) for text in ("[IN:A a b ]", "[IN:A [SL:B a b ] [SL:B c ] ]", "[IN:A [SL:B a ] c ]")]
    frames = [frame.decoupled() for frame in frames]
    ids = TargetIds(Ontology.from_frames(frames))
    tokenizer = PieceTokenizer.train_sentencepiece(["a b c"], 10)
    sources = [tokenizer(frame.utterance) for frame in frames]
    targets = [ids.encode(SpanForm().encode(f, s)) for f, s in zip(frames, sources, strict=True)]
    corpus = EncodedCorpus([s.ids for s in sources], targets, 0, scenarios=[0, 1, 2])
    batch = corpus.batch(np.array([1, 0, 2]))
    assert batch.scenarios is not None and batch.scenarios.tolist() == [0, 2, 1]
    found = endpoints(batch, ids.size, 2)
    assert found.tolist() == [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [2, 2]]]
    scores = torch.zeros(3, 2, 3, 3)
    scores[2, 0, 0, 1], scores[2, 1, 2, 2], scores[1, 0, 0, 0] = -1.0, -2.0, -3.0
    assert span_scores(scores, found).tolist() == [[0.0, 0.0], [-3.0, 0.0], [-1.0, -2.0]]


def test_glosses_are_cut_with_their_leaves():
    bank = ScenarioBank({Scenario.parse("[IN:A_B [SL:C ] [SL:D ] ]"): 2, Scenario.parse("[IN:A_B ]"): 1})
    tokenizer = PieceTokenizer.train_sentencepiece(["[ intent | a b slot c d ]"] * 5, 40)
    glosses = Glosses(bank, tokenizer, "intrinsic")
    assert glosses.leaf_counts.tolist() == [2, 0]
    batch = glosses.batch(np.array([1, 0]))
    assert batch.leaf_mask.tolist() == [[False, False], [True, True]]
    source = tokenizer(bank[0].gloss().text)
    assert [source.pieces[place] for place in batch.leaves[1]] == ["c", "d"]
    assert batch.mask.sum(axis=1).tolist()[1] == len(source)
    ((places, together),) = glosses.groups(np.array([0, 1]), 2 * len(source))
    assert places.tolist() == [1, 0] and (together.pieces == batch.pieces).all()
    apart = list(glosses.groups(np.array([0, 1]), len(source)))
    assert [group.tolist() for group, _ in apart] == [[1], [0]]
    assert (apart[0][1].pieces == glosses.batch(np.array([1])).pieces).all()


def test_weights_and_the_way_out_of_the_bank_are_learned():
    scenario = Scenario(("IN:A", "]"))

    def row(retrieval: float, inside: float, outside: float) -> list[Candidate]:
        banked = Candidate(["IN:A", "]"], "bank", scenario, retrieval, 0.0, inside)
        return [banked, Candidate(["IN:B", "]"], "composed", scenario, composed=outside)]

    rows = [row(-0.1, -1.0, -0.9), row(-9.0, -9.0, -0.1)] * 5
    exact = [[True, False], [False, True]] * 5
    config, share = calibrate(rows, exact, RAFDecodingConfig())
    assert share == 1.0
    for candidates, right in zip(rows, exact, strict=True):
        assert right[int(np.argmax([weigh(candidate, config) for candidate in candidates]))]
    with pytest.raises(ValueError, match="no rows"):
        calibrate([], [], RAFDecodingConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RAFConfig(gloss="long"),
        lambda: RAFConfig(pooling="max"),
        lambda: RAFConfig(spans="tree"),
        lambda: RAFDecodingConfig(scenarios=0),
        lambda: RAFDecodingConfig(index="tree"),
        lambda: RAFDecodingConfig(compose_weight=0.0),
        lambda: RAFOptimizationConfig(negatives="none"),
        lambda: RAFOptimizationConfig(fitted="encoder"),
    ],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError):
        wrong()


def test_candidates_are_ranked_and_told(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    parser = module.parser()
    assert isinstance(parser, RAFParser)
    rows = read_split(corpus, "eval")
    for row, hypotheses in zip(rows, parser.parse([row.utterance for row in rows], n_best=3), strict=True):
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        assert all(h.frame.utterance == row.utterance for h in hypotheses)
        assert hypotheses[0].trace["candidates"] and hypotheses[0].trace["tokens"][0].startswith("IN:")
    utterances = [row.utterance for row in rows]
    wanted, vectors = parser.parse(utterances), parser.vectors(utterances)
    module.decoding.index, module._table = "hnsw", None
    approximate = module.parser()
    assert approximate.table.index.config.kind == "hnsw"
    same = np.mean(parser.table.index.search(vectors, 1)[1] == approximate.table.index.search(vectors, 1)[1])
    found = approximate.parse(utterances)
    agreeing = np.mean([a[0].frame == b[0].frame for a, b in zip(found, wanted, strict=True)])
    assert agreeing > 0.8, f"HNSW finds the nearest scenario of {same:.0%} of the rows"
    (log,) = raf_checkpoint.parent.glob("csv/*/metrics.csv")
    assert "val/recall_at_16" in log.read_text()


def small_raf(folder: Path, corpus: Path, model: dict, optimization: dict) -> tuple[RAFModule, list[Example], Batch]:
    """A module for some rows of the corpus, those rows, and a batch of them all."""
    torch.manual_seed(0)
    rows = read_split(corpus, "train")[:48]
    frames = [row.frame.decoupled() for row in rows]
    encoder = save_encoder(folder / "encoder", "bert", [row.utterance for row in rows] + ["[ intent | slot ]"])
    tokenizer, ontology = PieceTokenizer.from_pretrained(str(encoder)), Ontology.from_frames(frames)
    bank, ids = ScenarioBank.from_frames(frames), TargetIds(ontology)
    config = RAFConfig(
        str(encoder), width=32, decoder_heads=2, decoder_layers=1, length_hidden=16, retrieval_width=16, leaf_width=16,
        **model,
    )  # fmt: skip
    module = RAFModule(config, optimization=RAFOptimizationConfig(**{"label_smoothing": 0.0, **optimization}))
    module.build(Assets(tokenizer, ontology, "span", bank))
    sources = tokenizer.batch([row.utterance for row in rows])
    targets = [ids.encode(SpanForm().encode(f, s)) for f, s in zip(frames, sources, strict=True)]
    places = [bank.id(Scenario.from_frame(frame)) for frame in frames]
    corpus_ids = EncodedCorpus([s.ids for s in sources], targets, tokenizer.pad_id, scenarios=places)
    return module, rows, corpus_ids.batch(np.arange(48))


@pytest.mark.parametrize(
    ("model", "optimization"),
    [
        ({}, {}),
        ({}, {"scenarios_read": 8}),
        ({"spans": "endpoints"}, {"negatives": "mined", "ranking_loss": 1.0}),
        ({"filling": "together"}, {"ranking_loss": 1.0, "ranked": 2}),
        ({"encoders": "separate", "pooling": "first"}, {}),
        ({"own_vectors": True}, {"negatives": "mined"}),
    ],
    ids=str,
)
def test_retrieval_and_filling_learn(model: dict, optimization: dict, corpus: Path, tmp_path: Path):
    module, rows, batch = small_raf(tmp_path, corpus, model, optimization)
    frames = [row.frame.decoupled() for row in rows]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for step in range(150):
        if step % 10 == 0:
            module.reading = None
        optimizer.zero_grad()
        losses = module.losses(batch)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    module.decoding.compositions, module.decoding.compose_weight = 0, 0.0
    parsed = module.parser().parse([row.utterance for row in rows])
    assert np.mean([h[0].frame == frame for h, frame in zip(parsed, frames, strict=True)]) > 0.8


def test_a_last_stage_fits_what_finds_scenarios_alone(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = {"own_vectors": True, "query_hidden": 16, "encoder_dropout": 0.5}
    module, _, batch = small_raf(tmp_path, corpus, model, {"fitted": "retrieval"})
    assert module.model is not None
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    read, times = RAFModule._read, []
    monkeypatch.setattr(RAFModule, "_read", lambda self: times.append(1) or read(self))
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
    # The encoder reads the utterances alike in every step, though dropout acts elsewhere, and the bank only once.
    assert module.model.training and len(times) == 1
    assert torch.equal(seen[-1], seen[-2]) and not seen[-1].requires_grad
    moved = {name for name, value in module.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(RETRIEVAL_PREFIXES)}


def test_the_last_stage_is_laid_over_the_config(raf_checkpoint: Path, corpus: Path, repository: Path, tmp_path: Path):
    encoder, configs = raf_checkpoint.parents[2] / "encoder", repository / "configs"
    words = [
        f"--config={configs / 'raf_last_stage.yaml'}", f"--data.init_from={raf_checkpoint}", "--run=last", *TINY_RAF,
        f"--model.init_args.model.encoder={encoder}", f"--data.pretrained={encoder}",
        "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1",
    ]  # fmt: skip
    told = fit(tmp_path, corpus, repository, *words, config=configs / "raf_minilm.yaml")
    assert "exact match on eval" in told
    before, after = (
        parameters_of(read_checkpoint(path)) for path in (raf_checkpoint, tmp_path / "runs" / "last" / "best.ckpt")
    )
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(RETRIEVAL_PREFIXES)}


@pytest.mark.parametrize("positions", [1, 2048], ids=["apart", "in one group"])
def test_reading_together_does_not_depend_on_padding(positions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parsers.raf.model.TOGETHER", positions)
    texts = ["wake me", "set an alarm for tomorrow at 6", "[ intent | create alarm [ slot | date time ] ]"]
    encoder = str(save_encoder(tmp_path / "encoder", "roberta", texts))
    tokenizer = PieceTokenizer.from_pretrained(encoder)
    config = RAFConfig(encoder, width=32, decoder_heads=2, decoder_layers=1, length_hidden=16, filling="together")
    model = RAF(config, load_transformer(encoder), tokenizer.prefix, tokenizer.suffix, 5).eval()
    short, long, gloss = (tokenizer(text).ids for text in texts)
    pad = [tokenizer.pad_id] * (len(long) - len(short))
    pieces, longer = torch.tensor([[*short, *pad], list(long)]), torch.tensor([list(gloss), [*gloss[:4], *gloss[4:]]])
    mask, leaves = torch.arange(len(long))[None] < torch.tensor([[len(short)], [len(long)]]), torch.tensor([[2], [3]])
    gloss_mask = torch.ones_like(longer, dtype=torch.bool)
    gloss_mask[1, -2:] = False
    together = model.fill_together(pieces, mask, longer, gloss_mask, leaves)
    alone = model.fill_together(torch.tensor([short]), None, torch.tensor([gloss]), gloss_mask[:1], leaves[:1])
    size = len(short)
    assert torch.allclose(together[:1, :, :size, :size], alone, atol=1e-4)
    cut = torch.tensor([gloss[:-2]])
    other = model.fill_together(torch.tensor([long]), None, cut, torch.ones_like(cut, dtype=torch.bool), leaves[1:])
    assert torch.allclose(together[1:], other, atol=1e-4)
    # A long utterance beside a long scenario of another row: each row fits, though padded to both it would not.
    wide, deep = torch.full((2, 200), long[0]), torch.full((2, 200), gloss[0])
    wide_mask = torch.arange(200)[None] < torch.tensor([[200], [len(short)]])
    deep_mask = torch.arange(200)[None] < torch.tensor([[len(gloss)], [200]])
    wide[1, : len(short)], deep[0, : len(gloss)] = torch.tensor(short), torch.tensor(gloss)
    apart = model.fill_together(wide[1:, : len(short)], None, deep[1:], deep_mask[1:], leaves[1:])
    both = model.fill_together(wide, wide_mask, deep, deep_mask, leaves)
    assert torch.allclose(both[1:, :, :size, :size], apart, atol=1e-4)
    endless = torch.full((1, 500), long[0])
    with pytest.raises(UsageError, match="E411"):
        model.fill_together(endless, None, cut, torch.ones_like(cut, dtype=torch.bool), leaves[1:])


@pytest.mark.parametrize("paper", [{"filling": "together"}, {"encoders": "separate"}])
def test_what_a_bundle_cannot_hold_is_said(paper: dict, corpus: Path, tmp_path: Path, repository: Path):
    rows = read_split(corpus, "train")
    encoder = save_encoder(tmp_path / "encoder", "bert", [row.utterance for row in rows])
    words = [f"--model.init_args.model.{name}={value}" for name, value in paper.items()]
    fit(
        tmp_path, corpus, repository, *TINY_RAF, *words, f"--model.init_args.model.encoder={encoder}",
        f"--data.pretrained={encoder}", "--run=raf", "--trainer.max_steps=4", "--trainer.val_check_interval=4",
        "--trainer.check_val_every_n_epoch=null", "--data.validation_rows=8",
        config=repository / "configs" / "raf_minilm.yaml",
    )  # fmt: skip
    checkpoint = tmp_path / "runs" / "raf" / "best.ckpt"
    assert load_module(checkpoint)[0].parser().parse(["wake me at 6"])[0][0].frame is not None
    with pytest.raises(UsageError, match="E432"):
        export(checkpoint, tmp_path / "bundle")


def test_composition_has_a_rate_of_its_own():
    rates = RAFOptimizationConfig(lr=3.0, compose_lr=2.0, encoder_lr=1.0)
    module = RAFModule(RAFConfig(encoder_config={"num_hidden_layers": 2}), optimization=rates)
    names = ("query_head.weight", "length.out.weight", "encoder.transformer.encoder.layer.1.output.dense.weight")
    assert [module.rate(f"model.{name}") for name in names] == [3.0, 2.0, 1.0]
    assert module.rate("model.query_mlp.0.weight") == 3.0
    module.optimization = RAFOptimizationConfig(lr=3.0)
    assert module.rate("model.length.out.weight") == 3.0


def test_scenarios_of_the_training_have_vectors_of_their_own(tmp_path: Path):
    encoder = str(save_encoder(tmp_path / "encoder", "bert", ["wake me at 6"]))
    config = RAFConfig(
        encoder, width=32, decoder_heads=2, decoder_layers=1, length_hidden=16, retrieval_width=8, own_vectors=True, lift=1.5
    )  # fmt: skip
    raf = RAF(config, load_transformer(encoder), [1], [2], 5, scenarios=3)
    assert raf.own_vectors is not None
    glosses = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    # Nothing is learned yet, and what comes later is lifted.
    assert torch.allclose(raf.keys(glosses), glosses * torch.tensor([1, 1, 1, 1.5, 1.5])[:, None])
    raf.own_vectors.data[1] = 100 * glosses[0]
    assert torch.allclose(raf.keys(glosses)[1], glosses[0], atol=0.05)
    assert torch.equal(raf.keys(glosses)[[0, 2]], raf.keys(glosses[:3])[[0, 2]])
    states, mask = torch.randn(2, 4, 32), torch.ones(2, 4, dtype=torch.bool)
    leaves = torch.zeros(2, 1, dtype=torch.long)
    introduced, described = (part(states, mask, leaves)[0] for part in (raf.project_new_scenarios, raf.described))
    assert torch.allclose(introduced, 1.5 * described)
    # Scenarios that no row shows have none either, and learning about them needs none.
    rows = [Frame.parse("[IN:A [SL:B x ] ]"), Frame.parse("[IN:A ]")]
    bank = ScenarioBank.from_frames(rows).added([Scenario.parse("[IN:A [SL:C ] ]")])
    module = RAFModule(config)
    module.build(Assets(PieceTokenizer.from_pretrained(encoder), Ontology.from_frames(rows), "span", bank))
    assert module.model is not None and module.model.own_vectors is not None
    assert (len(bank), len(module.model.own_vectors), len(module.build_table().index)) == (3, 2, 3)
    # A bank that goes on from another one: its scenarios first, then new ones without a vector yet.
    wider = RAF(config, load_transformer(encoder), [1], [2], 6, scenarios=4)
    wider.load_extending_ontology(raf.state_dict(), list("abcde"), list("abcdef"))
    assert wider.own_vectors is not None and torch.equal(wider.own_vectors[:3], raf.own_vectors)
    assert not wider.own_vectors[3].any()


def test_a_query_may_have_a_hidden_layer(tmp_path: Path):
    encoder = str(save_encoder(tmp_path / "encoder", "bert", ["wake me at 6"]))
    sizes = {"width": 32, "decoder_heads": 2, "decoder_layers": 1, "length_hidden": 16, "retrieval_width": 8}
    plain, deep = (
        RAF(RAFConfig(encoder, query_hidden=hidden, **sizes), load_transformer(encoder), [1], [2], 5).eval()
        for hidden in (0, 4)
    )
    # Trainings from before go on with what they have.
    deep.load_extending_ontology(plain.state_dict(), list("abcde"), list("abcde"))
    assert plain.query_mlp is None and deep.query_mlp is not None
    memory = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 2 + [False] * 3])
    queries = deep.query(memory, mask)
    assert torch.allclose(queries.norm(dim=1), torch.ones(3), atol=1e-6)
    assert torch.allclose(queries, deep.query(torch.where(mask[..., None], memory, 9.0), mask))
    assert not torch.allclose(queries, plain.query(memory, mask))
    torch.nn.init.zeros_(deep.query_mlp[3].weight)
    torch.nn.init.zeros_(deep.query_mlp[3].bias)
    assert torch.equal(deep.query(memory, mask), plain.query(memory, mask))


def test_its_span_pointer_can_be_had_by_itself(tmp_path: Path):
    encoder = str(save_encoder(tmp_path / "encoder", "bert", ["wake me at 6"]))
    sizes = {"encoder": encoder, "width": 32, "decoder_heads": 2, "decoder_layers": 1, "length_hidden": 16}
    raf = RAF(RAFConfig(**sizes), load_transformer(encoder), [1], [2], 5)
    alone = SpanPointer(SpanPointerConfig(**sizes), load_transformer(encoder), [1], [2], 6)
    alone.load_extending_ontology(raf.state_dict(), list("abcde"), list("abcdef"))
    kept = {name: value for name, value in alone.state_dict().items() if not name.startswith("head.ontology.")}
    assert all(torch.equal(value, raf.state_dict()[name]) for name, value in kept.items())
    with pytest.raises(RuntimeError, match="query_head"):
        lacking = {name: value for name, value in raf.state_dict().items() if not name.startswith("query_head")}
        super(RAF, raf).load_extending_ontology(lacking, list("abcde"), list("abcde"))


def test_candidates_are_judged_by_decoder_and_rescorer(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    sources = module.assets.tokenizer.batch([row.utterance for row in read_split(corpus, "eval")[:20]])
    runs = []
    for rescored, weight in ((0, 0.5), (8, 1.0), (8, 0.25)):
        module.decoding = replace(module.decoding, rescored=rescored, rescoring_weight=weight, scenario_margin=math.inf)
        found = module.parser().candidates(sources)
        runs.append([{tuple(c.tokens): c for c in candidates} for candidates in found])
    rows, ids = 0, TargetIds(module.assets.ontology)
    for source, *of_row in zip(sources, *runs, strict=True):
        decoder, rescorer, both = of_row
        assert decoder.keys() == rescorer.keys() == both.keys()
        if len(both) == 1:
            assert next(iter(both.values())).judged is None, "a lone candidate was judged"
            continue
        for tokens, candidate in both.items():
            assert decoder[tokens].judged is None
            assert candidate.composed == pytest.approx(decoder[tokens].composed, abs=1e-3)
            pieces, target = torch.tensor([source.ids]), torch.tensor([ids.encode(list(tokens))])
            with torch.inference_mode():
                memory, _ = module.model.encode(pieces, None)
                alone = module.model.rescore(memory, pieces, None, target, torch.tensor([target.shape[1]])).item()
            assert candidate.judged == pytest.approx(alone, abs=1e-3) == rescorer[tokens].judged
            assert composition(candidate, module.decoding) == pytest.approx(
                0.75 * candidate.composed + 0.25 * candidate.judged
            )
        rows += len(both)
    assert rows > len(sources)


def test_what_the_decoder_finds_unlikely_is_not_judged(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    sources = module.assets.tokenizer.batch([row.utterance for row in read_split(corpus, "eval")[:20]])
    found = []
    for margin in (math.inf, 5.0):
        module.decoding = replace(module.decoding, rescored=8, rescoring_weight=0.5, scenario_margin=margin)
        found.append(module.parser().candidates(sources))
    dropped = 0
    for everything, near in zip(*found, strict=True):
        best = max(c.composed for c in everything)
        likely = {tuple(c.tokens) for c in everything if c.composed >= best - 5}
        assert {tuple(c.tokens) for c in near} <= likely
        assert all(c.judged is not None for c in near) or len(near) == 1
        dropped += len(everything) - len(near)
    assert dropped


def test_far_scenarios_are_left_out_unless_several_frames_are_asked_for(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    texts = [row.utterance for row in read_split(corpus, "eval")[:20]]
    module.decoding = replace(module.decoding, scenario_margin=0.0, rescoring_margin=0.0)
    narrow = module.parser().parse(texts)
    several = module.parser().parse(texts, n_best=3)
    for one, many in zip(narrow, several, strict=True):
        assert len(one[0].trace["candidates"]) <= 2, "more than one of the bank and one composed"
        assert len(many) == 3 and len(many[0].trace["candidates"]) >= 8


def test_without_composition_the_bank_is_never_left(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    parser = module.parser()
    parser.config.compositions, parser.config.compose_weight = 0, 0.0
    for example, hypotheses in zip(
        read_split(corpus, "eval"),
        parser.parse([example.utterance for example in read_split(corpus, "eval")]),
        strict=True,
    ):
        assert Scenario.from_frame(hypotheses[0].frame) in parser.table.bank or len(example.utterance.split()) < 4


def test_a_bank_is_asked_for():
    ontology = Ontology.from_frames([Frame.parse("[IN:A ]")])
    with pytest.raises(UsageError, match=r"E441.*data\.bank"):
        RAFModule().build(Assets(PieceTokenizer.train_sentencepiece(["a b"], 10), ontology, "span"))


def test_the_bundle_parses_what_the_checkpoint_parses(raf_bundle: Path, raf_checkpoint: Path, corpus: Path):
    utterances = [example.utterance for example in read_split(corpus, "eval")]
    module, _ = load_module(raf_checkpoint)
    expected, found = module.parser().parse(utterances), runtime.load(raf_bundle, "fp32").parse(utterances)
    same = [one[0].frame == other[0].frame for one, other in zip(expected, found, strict=True)]
    # Leaf states are kept as bytes, so that a tie may fall the other way.
    assert np.mean(same) > 0.97
    for hypotheses in runtime.load(raf_bundle).parse(utterances):
        assert hypotheses[0].frame is not None


def test_a_scenario_is_added_and_removed_without_training(raf_bundle: Path, tmp_path: Path, capsys):
    folder = tmp_path / "bundle"
    shutil.copytree(raf_bundle, folder)
    new = "[IN:BREW_COFFEE [SL:COFFEE_AMOUNT ] ]"
    assert main(["bank", "add", "--bundle", str(folder), new, new]) == 0
    assert main(["bank", "list", "--bundle", str(folder)]) == 0
    assert "0\t[IN:BREW_COFFEE [SL:COFFEE_AMOUNT * ] ]" in capsys.readouterr().out
    parser = runtime.load(folder)
    assert isinstance(parser, RAFBundleParser)
    scenario = Scenario.parse(new)
    parser.config.scenarios = len(parser.table.bank)
    (candidates,) = parser.candidates(parser.tokenizer.batch(["brew two cups of coffee"]))
    mine = next(candidate for candidate in candidates if candidate.scenario == scenario)
    assert mine.composed is None and mine.retrieval is not None
    frame = parser.form.decode(mine.tokens, parser.tokenizer("brew two cups of coffee"))
    assert parser.ontology.valid(frame) and not runtime.load(raf_bundle).ontology.valid(frame)
    assert main(["bank", "remove", "--bundle", str(folder), new]) == 0
    assert runtime.load(folder).parse(["wake me at 6"]) == runtime.load(raf_bundle).parse(["wake me at 6"])
    assert main(["bank", "remove", "--bundle", str(folder), new]) != 0
    assert "E440" in capsys.readouterr().err


def test_leaf_states_are_kept_as_bytes_and_kept_again_unchanged():
    leaves = np.random.default_rng(0).normal(size=(50, 16)) * np.linspace(0, 9, 50)[:, None]
    kept = banks.quantized(leaves)
    again = kept["leaves"] * kept["scales"]
    assert kept["leaves"].dtype == np.int8 and np.abs(again - leaves).max() <= kept["scales"].max() / 2 + 1e-6
    assert (banks.quantized(again)["leaves"] == kept["leaves"]).all()
    assert banks.quantized(np.zeros((0, 16)))["leaves"].shape == (0, 16)


def test_a_full_disk_leaves_the_bank(raf_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "bundle"
    shutil.copytree(raf_bundle, folder)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("assistants.banks.save", full)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MachineError, match="No space left"):
        banks.change(folder, lambda table: table)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_only_raf_has_a_bank(bundle: Path, raf_bundle: Path, tmp_path: Path):
    with pytest.raises(BundleError, match="E328"):
        banks.read(Bundle(bundle))
    archive = tmp_path / "raf.zip"
    archive.write_bytes(b"")
    with pytest.raises(BundleError, match="E329"):
        banks.change(archive, lambda table: table)


def test_calibration_is_written_into_the_checkpoint(raf_checkpoint: Path, corpus: Path, tmp_path: Path, capsys):
    copy, record = tmp_path / "copy.ckpt", tmp_path / "calibration.json"
    shutil.copy(raf_checkpoint, copy)
    words = ["calibrate", "--checkpoint", str(copy), "--data-root", str(corpus), "--json", str(record)]
    assert main([*words, "--domains", "alarm"]) == 0
    alone = json.loads(record.read_text())
    assert sum(alone["rows"].values()) == len(read_split(corpus, "eval", ["alarm"])) and alone["domains"] == ["alarm"]
    assert main([*words, "--decoding", "scenarios=5"]) == 0
    figures = json.loads(record.read_text())
    assert figures["decoding"]["scenarios"] == 5
    assert figures["rows"] == {"fitted": 60, "reported": 60}
    assert set(figures["after"]) == {"exact_match", "in_bank", "out_of_bank", "best_of_candidates"}
    module, _ = load_module(copy)
    assert module.decoding == RAFDecodingConfig(**figures["decoding"])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["calibration.json", "copy.ckpt"]


def test_packed_weights_are_calibrated_as_their_checkpoint_is(raf_checkpoint: Path, corpus: Path, tmp_path: Path):
    copy, packed = tmp_path / "copy.ckpt", tmp_path / "packed.safetensors"
    shutil.copy(raf_checkpoint, copy)
    pack(copy, packed)
    before = read_checkpoint(packed)
    examples = read_split(corpus, "eval")
    figures = [calibrate_checkpoint(path, examples, {"compose_weight": 0.25}) for path in (copy, packed)]
    assert figures[0]["rows"] == figures[1]["rows"]
    after = read_checkpoint(packed)
    assert after["framefill"] == {**before["framefill"], "decoding": figures[1]["decoding"]}
    assert after["framefill"] != before["framefill"]
    assert all(torch.equal(value, after["state_dict"][name]) for name, value in before["state_dict"].items())
    assert load_module(packed)[0].decoding == RAFDecodingConfig(**figures[1]["decoding"])


def test_only_raf_is_calibrated(checkpoint: Path, corpus: Path, raf_checkpoint: Path):
    with pytest.raises(UsageError, match="E443"):
        calibrate_checkpoint(checkpoint, [])
    with pytest.raises(UsageError, match="E444"):
        calibrate_checkpoint(raf_checkpoint, read_split(corpus, "eval")[:1])
