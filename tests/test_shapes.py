"""Answers in the shapes of assistants."""

import json
from pathlib import Path

import jsonschema
import pytest

from assistants.answers import Answer
from assistants.shapes import home_assistant, models, own, rasa
from assistants.shapes.names import Names
from frames.errors import UsageError
from frames.frame import Frame
from frames.ontology import Ontology
from parsers.interface import Hypothesis
from scripts.schema_page import PAGE

NESTED = Frame.parse(
    "[IN:CREATE_REMINDER [SL:PERSON_REMINDED me ] [SL:TODO [IN:GET_TODO [SL:TODO call ] [SL:DATE_TIME at 6 ] ] ] "
    "[SL:TODO [IN:GET_TODO [SL:TODO write ] [SL:DATE_TIME at 7 ] ] ] [SL:DATE_TIME today ] [SL:AMOUNT ] ]",
    "Remind me: call at 6, write at 7, 😀 today",
)
FLAT = Frame.parse("[IN:GET_WEATHER [SL:DATE_TIME at 6 ] ]", NESTED.utterance)
EMPTY = Frame.parse("[IN:CREATE_REMINDER ]", "x")


def answered(*hypotheses: Hypothesis, abstained: bool = False) -> Answer:
    return Answer(NESTED.utterance, list(hypotheses), abstained)


CALIBRATED = answered(
    Hypothesis(NESTED, -1.0, {"x": [float("-inf")]}, 0.8, tuple(n / 10 for n in range(1, 10))),
    Hypothesis(FLAT, -3.0, {}, 0.1, (0.5,)),
    Hypothesis(Frame(EMPTY.root, NESTED.utterance), -4.0, {}, 0.05),
)


def test_our_shape_has_the_fixed_keys_and_fits_its_schema():
    value = own.to_dict(CALIBRATED)
    assert list(value) == ["text", "hypotheses", "abstained"]
    assert [list(hypothesis) for hypothesis in value["hypotheses"]] == [["frame", "text", "probability"]] * 3
    assert Frame.from_dict({"utterance": value["text"], "frame": value["hypotheses"][0]["frame"]}) == NESTED
    schema = json.loads(PAGE.read_text(encoding="utf-8"))
    for details in (False, True):
        found = json.loads(json.dumps(own.to_dict(CALIBRATED, details), allow_nan=False))
        jsonschema.validate(found, schema)
    assert found["hypotheses"][0]["trace"] == {"x": [None]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**value, "abstained": "yes"}, schema)


def test_the_schema_file_is_up_to_date():
    assert json.loads(PAGE.read_text(encoding="utf-8")) == models.schema(), "run python -m scripts.schema_page"


def test_rasa_has_offsets_roles_and_groups():
    value = rasa.to_dict(CALIBRATED, Names())
    models.RasaAnswer.model_validate(value, extra="forbid")
    assert value["intent"] == {"name": "CREATE_REMINDER", "confidence": 0.8}
    assert value["intent_ranking"] == [
        {"name": "CREATE_REMINDER", "confidence": 0.8}, {"name": "GET_WEATHER", "confidence": 0.1},
    ]  # fmt: skip
    found = [
        (e["entity"], e["value"], e.get("role"), e.get("group"), e["confidence_entity"]) for e in value["entities"]
    ]
    assert found == [
        ("PERSON_REMINDED", "me", None, None, 0.1),
        ("TODO", "call at 6", None, None, 0.2),
        ("TODO", "call", "TODO", "1:GET_TODO", 0.3),
        ("DATE_TIME", "at 6", "TODO", "1:GET_TODO", 0.4),
        ("TODO", "write at 7", None, None, 0.5),
        ("TODO", "write", "TODO", "2:GET_TODO", 0.6),
        ("DATE_TIME", "at 7", "TODO", "2:GET_TODO", 0.7),
        ("DATE_TIME", "today", None, None, 0.8),
    ]
    for entity in value["entities"]:
        assert NESTED.utterance[entity["start"] : entity["end"]] == entity["value"]


def test_an_abstention_has_no_intent_but_its_confidence():
    value = rasa.to_dict(answered(CALIBRATED.hypotheses[1], abstained=True), Names())
    assert value["intent"] == {"name": None, "confidence": 0.1}
    assert value["entities"] == []
    assert value["intent_ranking"] == [{"name": "GET_WEATHER", "confidence": 0.1}]


def test_confidences_of_scores_are_shares():
    shares = rasa.confidences([Hypothesis(NESTED, -1000.0), Hypothesis(FLAT, -1000.0), Hypothesis(FLAT, float("-inf"))])
    assert shares == [0.5, 0.5, 0.0]


def test_names_are_the_assistants():
    names = Names({"CREATE_REMINDER": "remind", "GET_WEATHER": "remind"}, {"TODO": "task"})
    value = rasa.to_dict(CALIBRATED, names)
    assert value["intent_ranking"] == [{"name": "remind", "confidence": 0.8}]
    assert [e.get("role", e["entity"]) for e in value["entities"]][:3] == ["PERSON_REMINDED", "task", "task"]
    refused = rasa.to_dict(CALIBRATED, Names({"GET_WEATHER": "weather"}, unmapped="abstain"))
    assert refused["intent"] == {"name": None, "confidence": 0.8} and refused["entities"] == []
    assert refused["intent_ranking"] == [{"name": "weather", "confidence": 0.1}]


def test_home_assistant_has_intents_and_not_recognized():
    event = home_assistant.to_event(CALIBRATED, Names({"CREATE_REMINDER": "HassRemind"}), {"id": 1})
    assert (event.type, event.data["name"], event.data["context"]) == ("intent", "HassRemind", {"id": 1})
    assert {entity["name"]: entity["value"] for entity in event.data["entities"]} == {
        "PERSON_REMINDED": "me", "TODO": "call at 6", "TODO__TODO": "call", "TODO__DATE_TIME": "at 6",
        "TODO__2": "write at 7", "TODO__TODO__2": "write", "TODO__DATE_TIME__2": "at 7", "DATE_TIME": "today",
    }  # fmt: skip
    assert home_assistant.to_event(answered(CALIBRATED.hypotheses[1], abstained=True), Names()).type == "not-recognized"


def test_mapping_files_in_yaml_and_json(tmp_path: Path):
    (tmp_path / "names.yaml").write_text(
        "version: 1\nintents:\n  GET_WEATHER: weather\nslots: {DATE_TIME: when}\nunmapped: abstain\n"
    )
    names = Names.read(tmp_path / "names.yaml")
    assert names == Names({"GET_WEATHER": "weather"}, {"DATE_TIME": "when"}, "abstain")
    (tmp_path / "names.json").write_text(json.dumps({"version": 1, "slots": {"DATE_TIME": "when"}}))
    assert Names.read(tmp_path / "names.json") == Names({}, {"DATE_TIME": "when"})
    ontology = Ontology.from_frames([FLAT])
    names.check([ontology])
    with pytest.raises(UsageError, match="E522.*SET_ALRM"):
        Names({"SET_ALRM": "x"}).check([ontology])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [", "E520"), ("[" * 1100, "E520"), ("- 1", "E521.*mapping"), ("version: 2", "E521.*version"),
        ("version: 1\ncolour: red", "E521.*colour"), ("version: 1\nintents: [A]", "E521.*intents"),
        ("version: 1\nintents: {A: 1}", "E521.*'A' to 1"), ("version: 1\nslots: {A: ' '}", "E521.*'A'"),
        ("version: 1\nintents: {IN:A: a}", "E521.*prefix"), ("version: 1\nunmapped: drop", "E521.*drop"),
        ("!!python/object/apply:os.getcwd []", "E520"),
        ("version: 1\nintents: {A: a}\nslots: {}\nintents: {B: b}", "E520.*'intents' stands twice, in lines 2 and 4"),
        ("version: 1\nintents:\n  A: a\n  A: b", "E520.*'A' stands twice"),
    ],
)  # fmt: skip
def test_wrong_mapping_files_are_refused(tmp_path: Path, text: str, code: str):
    (tmp_path / "names.yml").write_text(text)
    with pytest.raises(UsageError, match=code):
        Names.read(tmp_path / "names.yml")


def test_the_example_for_home_assistant_names_known_labels(repository: Path):
    names = Names.read(repository / "examples" / "home_assistant.yaml")
    ontology = json.loads((repository / "models" / "conv-nar-topv2" / "ontology.json").read_text())
    names.check([Ontology.from_dict(ontology)])
    assert names.intents and names.unmapped == "abstain"


def test_a_missing_mapping_file_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="E520"):
        Names.read(tmp_path / "none.yaml")
