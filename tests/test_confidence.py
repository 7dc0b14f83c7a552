"""Probabilities of hypotheses: what they are computed from, how they are fitted, and what a bundle says."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from assistants import runtime
from assistants.answers import answer
from assistants.calibration import calibration_error, fit, least_threshold, monotone
from data.out_of_scope import INCLUDED, read_out_of_scope
from frames.errors import BundleError, CorpusError
from frames.nodes import Slot, walk
from parsers.confidence import FEATURES, SLOT_FEATURES, Background, Confidence, Logistic, Reading, slot_features
from scripts.cli import main

REQUESTS = ["wake me at 6", "remind me to call mum at 8", "play some jazz", "will it rain in Boston on Sunday"]


@pytest.fixture(scope="module")
def background() -> Background:
    generator = np.random.default_rng(0)
    states = generator.normal(size=(400, 6)) + np.repeat([[0.0], [8.0]], 200, axis=0)
    return Background.fit(states, ["GET_WEATHER"] * 200 + ["CREATE_ALARM"] * 200, np.arange(10))


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_are_all_alike_give_finite_distances(rows: int, recwarn: pytest.WarningsRecorder):
    found = Background.fit(np.ones((rows, 4)), ["GET_WEATHER"] * rows, np.arange(10))
    assert not recwarn.list
    assert np.isfinite(found.whitening).all() and found.distances(np.ones((1, 4), np.float32)).tolist() == [[0.0]]


def test_slots_come_in_the_order_of_their_brackets_with_their_own_tokens():
    tokens = ["IN:A", "SL:B", "IN:C", "SL:D", 1, 4, "]", "]", "]", "SL:E", 6, 6, "]", "]"]
    scores = [-0.1, -0.2, -0.3, -0.4, -0.5, -9.0, -0.1, -0.1, -0.7, -0.1, -0.1, -30.0, -0.1, -0.1]
    features = slot_features(Reading(tokens, scores, -1.0, None), 2.0)
    assert features.shape == (3, len(SLOT_FEATURES))
    columns = dict(zip(SLOT_FEATURES, features.T.tolist(), strict=True))
    assert columns["frame"] == [2.0] * 3
    assert columns["least_token"] == [-0.7, -9.0, -20.0]  # B: its bracket and its end; D: a pointer; E: the floor
    assert columns["pieces"] == [0.0, math.log(4), 0.0]
    assert columns["depth"] == [0, 1, 0]
    unknown = slot_features(Reading(tokens, None, -1.0, None), 2.0)
    assert np.isnan(unknown[:, SLOT_FEATURES.index("least_token")]).all()


def test_distances_are_in_standard_deviations_and_survive_a_file(background: Background):
    points = np.array([[0.0] * 6, [8.0] * 6, [30.0] * 6])
    distances = background.distances(points)
    assert background.intents == ("CREATE_ALARM", "GET_WEATHER")
    assert distances[0, 1] < 0.5 and distances[1, 0] < 0.5
    assert distances[0, 0] == pytest.approx(8, rel=0.15)
    assert distances[2].min() > 15
    again = Background.from_bytes(background.to_bytes())
    np.testing.assert_array_equal(again.distances(points), distances)
    assert again.intents == background.intents and again.rarities[0] > again.rarities[9]


def test_damaged_coefficients_are_refused(background: Background):
    content = background.to_bytes()
    for damaged in (b"", b"PK", content[: len(content) // 2]):
        with pytest.raises(BundleError, match="E518"):
            Background.from_bytes(damaged)
    zeros = [Logistic(np.zeros(n), np.ones(n), np.zeros(3 * n), 0.0, 0) for n in (len(FEATURES), len(SLOT_FEATURES))]
    value = Confidence(background, *zeros, 0.5, np.array([[0.0, 0.5, 1.0], [0.0, 0.7, 1.0]])).to_dict()
    assert Confidence.from_dict(value, background).to_dict() == value
    for wrong in (
        {},
        {**value, "features": ["score"]},
        {**value, "slots": value["frames"]},
        {**value, "knots": [[0, 1], [1, 0]]},
    ):
        with pytest.raises(BundleError, match="E519"):
            Confidence.from_dict(wrong, background)


def test_fit_finds_the_probabilities_that_made_the_rows():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(6000, 2))
    features[::7, 1] = np.nan
    truth = 1 / (1 + np.exp(-(1 + 2 * features[:, 0])))
    right = generator.random(6000) < truth
    model = fit(features[:4000], right[:4000], 0)
    found = 1 / (1 + np.exp(-model.logits(features)))
    assert np.abs(found - truth)[4000:].mean() < 0.03
    assert calibration_error(found[4000:], right[4000:]) < 0.04
    assert calibration_error(np.full(100, 0.9), np.arange(100) < 50) == pytest.approx(0.4)


def test_knots_map_to_observed_frequencies():
    generator = np.random.default_rng(0)
    claimed = generator.random(6000)
    right = generator.random(6000) < claimed**2
    knots = monotone(claimed[:3000], right[:3000])
    assert (np.diff(knots) >= 0).all() and knots[:, 0].tolist() == [0, 0] and knots[:, -1].tolist() == [1, 1]
    assert calibration_error(np.interp(claimed, *knots)[3000:], right[3000:]) < 0.03 < calibration_error(claimed, right)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [12, 80, 400])
def test_threshold_is_the_least_that_is_surely_right_often_enough(rows: int, seed: int):
    generator = np.random.default_rng(seed)
    probabilities = generator.random(rows).round(4)
    right = generator.random(rows) < probabilities
    found = least_threshold(probabilities, right, 0.8)
    shares = {p: (right[probabilities >= p].mean(), (probabilities >= p).sum()) for p in probabilities}
    sure = [p for p, (share, n) in shares.items() if share >= 0.8 + 2 * np.sqrt(0.8 * 0.2 / n)]
    enough = [p for p, (share, _) in shares.items() if share >= 0.8]
    assert found == min(sure or enough or [1.0])


def test_rows_of_equal_probability_are_answered_together_or_not_at_all():
    right = np.arange(2000) < 1000
    assert least_threshold(np.full(2000, 0.9), right) == 1.0
    almost = np.where(right, 0.90004, 0.90001)
    assert least_threshold(almost, right) == 1.0, "0.9 would answer all of them"
    assert least_threshold(np.where(right, 0.9, 0.8), right) == 0.9
    above = np.concatenate((np.full(1000, 0.95), np.full(2000, 0.9)))
    assert least_threshold(above, np.concatenate((np.ones(1000, dtype=bool), right))) == 0.95


def test_threshold_holds_on_other_rows():
    generator = np.random.default_rng(0)
    probabilities = generator.random((40, 4000))
    right = generator.random((40, 4000)) < probabilities
    shares = []
    for number in range(40):
        threshold = least_threshold(probabilities[number], right[number], 0.8)
        other = (number + 1) % 40
        shares.append(right[other][probabilities[other] >= threshold].mean())
    assert np.mean(np.array(shares) >= 0.8) > 0.85


@pytest.mark.parametrize("name", ["conv-nar-topv2", "span-pointer-topv2", "raf-topv2"])
def test_included_bundles_trust_requests_and_refuse_small_talk(name: str, repository: Path):
    parser = runtime.load(repository / "models" / name)
    assert not any(found.abstained for found in answer(parser, REQUESTS))
    small_talk = answer(parser, ["hello", "thanks", "😀", "who wrote Hamlet", "turn on the kitchen lights"])
    assert all(found.abstained for found in small_talk)
    for hypotheses in parser.parse(REQUESTS, n_best=3):
        (alone,) = parser.parse([hypotheses[0].frame.utterance])[0]
        assert (alone.frame, alone.slots) == (hypotheses[0].frame, pytest.approx(hypotheses[0].slots, abs=1e-5))
        assert alone.probability == pytest.approx(hypotheses[0].probability, abs=1e-5)
        assert sum(h.probability for h in hypotheses) <= 1
        for hypothesis in hypotheses:
            slots = [node for node in walk(hypothesis.frame.root) if isinstance(node, Slot)]
            assert len(hypothesis.slots) == len(slots)
            assert all(0 <= p <= 1 for p in (hypothesis.probability, *hypothesis.slots))


def test_bundle_is_calibrated_on_rows(repository: Path, corpus: Path, tmp_path: Path, capsys):
    bundle, record = tmp_path / "bundle", tmp_path / "calibration.json"
    shutil.copytree(repository / "models" / "conv-nar-topv2", bundle)
    words = ["calibrate", "--bundle", str(bundle), "--data-root", str(corpus), "--json", str(record)]
    assert main(words) == 0
    figures, manifest = json.loads(record.read_text()), json.loads((bundle / "manifest.json").read_text())
    assert figures["rows"] == {"fitted": 60, "reported": 60}
    assert manifest["confidence"]["threshold"] == figures["threshold"] != _confidence(repository)["threshold"]
    assert runtime.load(bundle).parse(["wake me at 6"])[0][0].probability is not None
    assert main([*words, "--decoding", "length_beam=2"]) == 2
    assert "E515" in capsys.readouterr().err
    assert main(["calibrate", "--checkpoint", "x", "--out-of-scope", "y", "--data-root", str(corpus)]) == 2
    assert "E516" in capsys.readouterr().err


def _confidence(repository: Path) -> dict:
    return json.loads((repository / "models/conv-nar-topv2/manifest.json").read_text())["confidence"]


def test_bundle_without_coefficients_refuses_nothing(bundle: Path):
    found = answer(runtime.load(bundle), ["hello"])[0]
    assert not found.abstained and found.hypotheses[0].probability is None and found.hypotheses[0].slots == ()


def test_out_of_scope_utterances_are_read(tmp_path: Path):
    rows = read_out_of_scope()
    assert len(rows) == len({row.utterance for row in rows}) > 150
    path = tmp_path / "foreign.tsv"
    for text in ("utterance\nhi\n", "category\tutterance\ngreeting\n", "category\tutterance\ngreeting\t \n"):
        path.write_text(text)
        with pytest.raises(CorpusError, match="E214"):
            read_out_of_scope(path)
    for few in ("", "chat\thello\n"):
        path.write_text("category\tutterance\n" + few)
        with pytest.raises(CorpusError, match="E227.*too few"):
            read_out_of_scope(path)
    assert INCLUDED.is_file()
