"""Parsing with RAF: candidates, their scores and margins."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.topv2.reader import read_split
from frames.frame import Frame
from frames.linearization import SpanForm, TargetIds
from frames.tokenization import PieceTokenizer
from lightning_modules.checkpoints import load_module
from parsers.interface import Hypothesis, answer_first
from parsers.raf.candidate import Candidate, CandidateScores, RAFDecodingConfig, composition, weigh
from parsers.raf.parser import RAFParser, template
from retrieval.scenario import Scenario
from tests.raf import small_raf


def test_template_is_the_scenario_of_the_frame():
    frame = Frame.parse("[IN:A [SL:B x y [IN:C [SL:D z ] ] w ] [SL:E ] ]")
    source = PieceTokenizer.train_sentencepiece(["x y z w"], 10)(frame.utterance)
    assert template(SpanForm().encode(frame, source)) == Scenario.from_frame(frame)


def test_weigh_replaces_scores_that_a_module_does_not_give():
    scenario, tokens = Scenario(("IN:A", "]")), ["IN:A", "]"]
    candidates = [
        Candidate(tokens, "bank", scenario, -1.0, -2.0, -3.0, -4.0),
        Candidate(tokens, "composed", scenario, decoder_score=-3.0, rescorer_score=-4.0),
        Candidate(tokens, "bank", scenario, -1.0, -2.0),
        Candidate(tokens, "bank", scenario, -1.0, -2.0, decoder_score=-3.0),
        Candidate(tokens, "bank", scenario, -1.0, -2.0, rescorer_score=-4.0),
    ]
    config = RAFDecodingConfig(fill_weight=0.5, compose_weight=2.0, out_of_bank_score=-7.0, rescoring_weight=0.25)
    scores = CandidateScores.from_candidates([candidates, candidates[:1]])
    bank, mixed = -1.0 + 0.5 * -2.0, 0.75 * -3.0 + 0.25 * -4.0
    wanted = [bank + 2 * mixed, -7.0 + 2 * mixed, bank + 2 * bank, bank + 2 * -3.0, bank + 2 * -4.0]
    assert weigh(scores, config)[0].tolist() == pytest.approx(wanted)
    assert composition(scores, config)[0].tolist() == pytest.approx([mixed, mixed, math.nan, -3.0, -4.0], nan_ok=True)
    # Rows are as wide as the widest.
    assert scores.decoder.shape == (2, 5) and np.isnan(scores.decoder[1, 1:]).all()


@pytest.mark.parametrize("wrong", [{"num_retrieved": 0}, {"index": "tree"}], ids=str)
def test_decoding_options_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ValueError):
        RAFDecodingConfig(**wrong)


def test_parse_ranks_candidates_and_traces_them(raf_checkpoint: Path, corpus: Path):
    parser = load_module(raf_checkpoint)[0].parser()
    assert isinstance(parser, RAFParser)
    rows = read_split(corpus, "eval")
    for row, hypotheses in zip(rows, parser.parse([row.utterance for row in rows], n_best=3), strict=True):
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        assert all(h.frame.utterance == row.utterance for h in hypotheses)
        assert hypotheses[0].trace["tokens"][0].startswith("IN:")
        names = {"tokens", "origin", "scenario", "score"}
        names |= {f"{module}_score" for module in ("retrieval", "fill", "decoder", "rescorer")}
        assert all(candidate.keys() == names for candidate in hypotheses[0].trace["candidates"])


def test_parse_with_an_approximate_index_mostly_agrees(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    parser, utterances = module.parser(), [row.utterance for row in read_split(corpus, "eval")]
    wanted, vectors = parser.parse(utterances), parser.vectors(utterances)
    module.decoding.index, module._table = "hnsw", None
    approximate = module.parser()
    assert approximate.table.index.kind == "hnsw"
    same = np.mean(parser.table.index.search(vectors, 1)[1] == approximate.table.index.search(vectors, 1)[1])
    found = approximate.parse(utterances)
    agreeing = np.mean([a[0].frame == b[0].frame for a, b in zip(found, wanted, strict=True)])
    assert agreeing > 0.8, f"HNSW finds the nearest scenario of {same:.0%} of the rows"


def test_recall_is_logged_in_training(raf_checkpoint: Path):
    (log,) = raf_checkpoint.parent.glob("csv/*/metrics.csv")
    assert "val/recall_at_16" in log.read_text()


def test_candidates_are_scored_by_decoder_and_rescorer(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    sources = module.assets.tokenizer.batch([row.utterance for row in read_split(corpus, "eval")[:20]])
    runs = []
    for rescored, weight in ((0, 0.5), (8, 1.0), (8, 0.25)):
        module.decoding = replace(
            module.decoding, num_rescored=rescored, rescoring_weight=weight, scenario_margin=math.inf
        )
        found = module.parser().candidates(sources)
        runs.append([{tuple(c.tokens): c for c in candidates} for candidates in found])
    rows, ids = 0, TargetIds(module.assets.ontology)
    for source, *of_row in zip(sources, *runs, strict=True):
        decoder, rescorer, both = of_row
        assert decoder.keys() == rescorer.keys() == both.keys()
        if len(both) == 1:
            assert next(iter(both.values())).rescorer_score is None, "a single candidate was rescored"
            continue
        for tokens, candidate in both.items():
            assert decoder[tokens].rescorer_score is None
            assert candidate.decoder_score == pytest.approx(decoder[tokens].decoder_score, abs=1e-3)
            pieces, target = torch.tensor([source.ids]), torch.tensor([ids.encode(list(tokens))])
            with torch.inference_mode():
                memory, _ = module.model.encode(pieces, None)
                alone = module.model.rescore(memory, pieces, None, target, torch.tensor([target.shape[1]])).item()
            assert candidate.rescorer_score == pytest.approx(alone, abs=1e-3) == rescorer[tokens].rescorer_score
            mixed = composition(CandidateScores.from_candidates([[candidate]]), module.decoding).item()
            assert mixed == pytest.approx(0.75 * candidate.decoder_score + 0.25 * candidate.rescorer_score)
        rows += len(both)
    assert rows > len(sources)


def test_candidates_behind_the_margin_are_dropped_before_rescoring(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    sources = module.assets.tokenizer.batch([row.utterance for row in read_split(corpus, "eval")[:20]])
    found = []
    for margin in (math.inf, 5.0):
        module.decoding = replace(module.decoding, num_rescored=8, rescoring_weight=0.5, scenario_margin=margin)
        found.append(module.parser().candidates(sources))
    dropped = 0
    for everything, near in zip(*found, strict=True):
        best = max(c.decoder_score for c in everything)
        likely = {tuple(c.tokens) for c in everything if c.decoder_score >= best - 5}
        assert {tuple(c.tokens) for c in near} <= likely
        assert all(c.rescorer_score is not None for c in near) or len(near) == 1
        dropped += len(everything) - len(near)
    assert dropped


def test_parse_ignores_margins_for_several_hypotheses(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    texts = [row.utterance for row in read_split(corpus, "eval")[:20]]
    module.decoding = replace(module.decoding, scenario_margin=0.0, rescoring_margin=0.0)
    narrow = module.parser().parse(texts)
    several = module.parser().parse(texts, n_best=3)
    for one, many in zip(narrow, several, strict=True):
        assert len(one[0].trace["candidates"]) <= 2, "more than one of the bank and one composed"
        assert len(many) == 3 and len(many[0].trace["candidates"]) >= 8


def test_parse_without_composition_stays_in_the_bank(raf_checkpoint: Path, corpus: Path):
    module, _ = load_module(raf_checkpoint)
    parser = module.parser()
    parser.config.compose_weight = 0.0
    examples = read_split(corpus, "eval")
    parsed = parser.parse([example.utterance for example in examples])
    for example, hypotheses in zip(examples, parsed, strict=True):
        # A few words may be too few for every retrieved scenario.
        assert Scenario.from_frame(hypotheses[0].frame) in parser.table.bank or len(example.utterance.split()) < 4


def test_a_bank_without_leaves_is_learned_and_parsed(tmp_path: Path):
    rows = [f"timer\t{text}\t[IN:{label} ]" for text, label in (("stop", "A"), ("go on", "B"))]
    for split in ("train", "eval"):
        (tmp_path / f"timer_{split}.tsv").write_text("\n".join(["domain\tutterance\tsemantic_parse", *rows, ""]))
    module, _, batch = small_raf(tmp_path, tmp_path, {}, {})
    assert module.losses(batch)["loss"].isfinite()
    frames = [str(found[0].frame) for found in module.eval().parser().parse(["stop", "go"])]
    assert set(frames) <= {"[IN:A ]", "[IN:B ]"}


def test_the_answer_stands_first_even_where_a_wider_search_lost_it():
    answer, other = Hypothesis(Frame.parse("[IN:A ]", "a"), -2.0), Hypothesis(Frame.parse("[IN:B ]", "a"), -1.0)
    same = replace(answer, score=-3.0)
    assert answer_first(answer, [other]) == [answer, other]
    assert answer_first(answer, [other, same]) == [same, other]
