"""RAF's parts: filling by one sequence, vectors of scenarios and utterances, the span pointer within."""

from pathlib import Path

import pytest
import torch

from frames.errors import UsageError
from frames.frame import Frame
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from lightning_modules.datamodule import Assets
from lightning_modules.raf import RAFModule
from parsers.pretrained import load_transformer
from parsers.raf.model import RAF, RAFConfig
from parsers.span_pointer.model import SpanPointer, SpanPointerConfig
from retrieval.bank import ScenarioBank
from retrieval.scenario import Scenario
from tests.encoders import save_encoder
from tests.raf import SIZES


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_encoder(tmp_path_factory.mktemp("encoder"), "bert", ["wake me at 6"]))


@pytest.mark.parametrize("positions", [1, 2048], ids=["apart", "one group"])
def test_fill_cross_encoded_does_not_depend_on_padding(positions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parsers.raf.model.MAX_TOKENS_PER_GROUP", positions)
    texts = ["wake me", "set an alarm for tomorrow at 6", "[ intent | create alarm [ slot | date time ] ]"]
    encoder = str(save_encoder(tmp_path / "encoder", "roberta", texts))
    tokenizer = PieceTokenizer.from_pretrained(encoder)
    config = RAFConfig(encoder, **SIZES, filling="together")
    model = RAF(config, load_transformer(encoder), tokenizer.prefix, tokenizer.suffix, 5).eval()
    short, long, gloss = (tokenizer(text).ids for text in texts)
    pad = [tokenizer.pad_id] * (len(long) - len(short))
    pieces, longer = torch.tensor([[*short, *pad], list(long)]), torch.tensor([list(gloss), [*gloss[:4], *gloss[4:]]])
    mask, leaves = torch.arange(len(long))[None] < torch.tensor([[len(short)], [len(long)]]), torch.tensor([[2], [3]])
    gloss_mask = torch.ones_like(longer, dtype=torch.bool)
    gloss_mask[1, -2:] = False
    # In a batch, a short utterance has the spans that it has alone.
    together = model.fill_cross_encoded(pieces, mask, longer, gloss_mask, leaves)
    alone = model.fill_cross_encoded(torch.tensor([short]), None, torch.tensor([gloss]), gloss_mask[:1], leaves[:1])
    size = len(short)
    assert torch.allclose(together[:1, :, :size, :size], alone, atol=1e-4)
    # So has a long utterance with a short scenario.
    cut = torch.tensor([gloss[:-2]])
    other = model.fill_cross_encoded(
        torch.tensor([long]), None, cut, torch.ones_like(cut, dtype=torch.bool), leaves[1:]
    )
    assert torch.allclose(together[1:], other, atol=1e-4)
    # A long utterance beside the long scenario of another row: each row fits, padded to both lengths it would not.
    wide, deep = torch.full((2, 200), long[0]), torch.full((2, 200), gloss[0])
    wide_mask = torch.arange(200)[None] < torch.tensor([[200], [len(short)]])
    deep_mask = torch.arange(200)[None] < torch.tensor([[len(gloss)], [200]])
    wide[1, : len(short)], deep[0, : len(gloss)] = torch.tensor(short), torch.tensor(gloss)
    apart = model.fill_cross_encoded(wide[1:, : len(short)], None, deep[1:], deep_mask[1:], leaves[1:])
    both = model.fill_cross_encoded(wide, wide_mask, deep, deep_mask, leaves)
    assert torch.allclose(both[1:, :, :size, :size], apart, atol=1e-4)
    # Longer than the encoder accepts.
    endless = torch.full((1, 500), long[0])
    with pytest.raises(UsageError, match="E417"):
        model.fill_cross_encoded(endless, None, cut, torch.ones_like(cut, dtype=torch.bool), leaves[1:])


def test_keys_add_learned_vectors_to_seen_scenarios_and_scale_the_others(encoder: str):
    config = RAFConfig(encoder, **SIZES, retrieval_width=8, scenario_embeddings=True, unseen_scale=1.5)
    raf = RAF(config, load_transformer(encoder), [1], [2], 5, scenarios=3)
    assert raf.scenario_embeddings is not None
    glosses = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    # Before training, learned vectors are 0.
    assert torch.allclose(raf.keys(glosses), glosses * torch.tensor([1, 1, 1, 1.5, 1.5])[:, None])
    raf.scenario_embeddings.data[1] = 100 * glosses[0]
    assert torch.allclose(raf.keys(glosses)[1], glosses[0], atol=0.05)
    assert torch.equal(raf.keys(glosses)[[0, 2]], raf.keys(glosses[:3])[[0, 2]])


def test_project_new_scenarios_scales_their_vectors(encoder: str):
    config = RAFConfig(encoder, **SIZES, retrieval_width=8, scenario_embeddings=True, unseen_scale=1.5)
    raf = RAF(config, load_transformer(encoder), [1], [2], 5, scenarios=3)
    states, mask = torch.randn(2, 4, 32), torch.ones(2, 4, dtype=torch.bool)
    leaves = torch.zeros(2, 1, dtype=torch.long)
    new, seen = (part(states, mask, leaves)[0] for part in (raf.project_new_scenarios, raf.project_scenarios))
    assert torch.allclose(new, 1.5 * seen)


def test_build_gives_scenarios_without_rows_no_vectors_of_their_own(encoder: str):
    rows = [Frame.parse("[IN:A [SL:B x ] ]"), Frame.parse("[IN:A ]")]
    bank = ScenarioBank.from_frames(rows).added([Scenario.parse("[IN:A [SL:C ] ]")])
    module = RAFModule(RAFConfig(encoder, **SIZES, retrieval_width=8, scenario_embeddings=True))
    module.build(Assets(PieceTokenizer.from_pretrained(encoder), Ontology.from_frames(rows), "span", bank))
    assert module.model is not None and module.model.scenario_embeddings is not None
    table = module.bank_encoder.build_table("flat")
    assert (len(bank), len(module.model.scenario_embeddings), len(table.index)) == (3, 2, 3)


def test_load_extending_ontology_keeps_vectors_of_a_smaller_bank(encoder: str):
    config = RAFConfig(encoder, **SIZES, retrieval_width=8, scenario_embeddings=True)
    raf = RAF(config, load_transformer(encoder), [1], [2], 5, scenarios=3)
    raf.scenario_embeddings.data.normal_()
    wider = RAF(config, load_transformer(encoder), [1], [2], 6, scenarios=4)
    wider.load_extending_ontology(raf.state_dict(), list("abcde"), list("abcdef"))
    assert wider.scenario_embeddings is not None and torch.equal(wider.scenario_embeddings[:3], raf.scenario_embeddings)
    assert not wider.scenario_embeddings[3].any()


def test_query_with_hidden_layer_ignores_padding_and_extends_a_linear_one(encoder: str):
    plain, deep = (
        RAF(
            RAFConfig(encoder, query_hidden=hidden, retrieval_width=8, **SIZES), load_transformer(encoder), [1], [2], 5
        ).eval()
        for hidden in (0, 4)
    )
    # A checkpoint without the hidden layer can be trained further with one.
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


def test_span_pointer_loads_parameters_of_raf(encoder: str):
    raf = RAF(RAFConfig(encoder, **SIZES), load_transformer(encoder), [1], [2], 5)
    alone = SpanPointer(SpanPointerConfig(encoder, **SIZES), load_transformer(encoder), [1], [2], 6)
    alone.load_extending_ontology(raf.state_dict(), list("abcde"), list("abcdef"))
    kept = {name: value for name, value in alone.state_dict().items() if not name.startswith("head.ontology.")}
    assert all(torch.equal(value, raf.state_dict()[name]) for name, value in kept.items())
    # Of other parameters, none may be missing.
    with pytest.raises(RuntimeError, match="query_head"):
        lacking = {name: value for name, value in raf.state_dict().items() if not name.startswith("query_head")}
        super(RAF, raf).load_extending_ontology(lacking, list("abcde"), list("abcde"))
