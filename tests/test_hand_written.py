"""Slips in files that people write, which parsers of YAML and JSON would pass over or fail at in ways of their own."""

import pytest

from frames.files import parse_json
from frames.yaml_files import check_yaml, parse_yaml


def test_values_are_those_of_yaml_and_json():
    assert parse_yaml("a: [1, null]\nb: {c: 1.5}\n") == {"a": [1, None], "b": {"c": 1.5}}
    assert parse_yaml("base: &b {x: 1}\nmore: {<<: *b, y: 2}\nsame: [*b, *b]\n")["more"] == {"x": 1, "y": 2}
    assert parse_yaml("") is None
    assert parse_json('{"a": [1, {"a": null}]}') == {"a": [1, {"a": None}]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data:\n  a: 1\nmodel: 2\ndata:\n  b: 1\n", "'data' stands twice, in lines 1 and 4"),
        ("- x: 1\n  y: {z: 1,\n  z: 2}\n", "'z' stands twice, in lines 2 and 3"),
        ('{"seed": 1, "seed": 2}', "'seed' stands twice, in lines 1 and 1"),
        ("a: 1\nb: [2\n", "line 3: while parsing a flow sequence"),
        ("a: 1\n\tb: 2\n", "line 2: while scanning"),
        ("a: &a\n  b: *a\n", "line 1 holds itself"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: !!python/object:os.system x", "line 1: could not determine a constructor"),
    ],
)
def test_yaml_that_would_lose_something_is_refused(text: str, said: str):
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_may_stand_in_two_sections():
    check_yaml("a: {x: 1}\nb: {x: 2}\n1: c\n'1': d\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"slots": {"A": "b", "C": "d", "A": "e"}}', "'A' stands twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": }', "Expecting value"),
        (b'{"a": "\xff"}', "codec"),
    ],
)
def test_json_that_would_lose_something_is_refused(text: str | bytes, said: str):
    with pytest.raises(ValueError, match=said):
        parse_json(text)
