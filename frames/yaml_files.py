"""Files that people write by hand, in YAML: slips that PyYAML passes over are errors. Needs PyYAML."""

from __future__ import annotations

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """YAML, and so JSON, as plain values.

    Raises:
        ValueError: see :func:`check_yaml`, or a value is of a kind that YAML alone does not have.
    """
    check_yaml(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(_in_a_line(error)) from error


def check_yaml(text: str) -> None:
    """Checks what :func:`yaml.safe_load` would either fail at or read to the loss of some of it.

    Raises:
        ValueError: the text is not YAML, a section has a key twice, of which one value would be lost, or a value holds
            itself; the message is one line and tells the line of the text.
    """
    try:
        _check_node(yaml.compose(text, Loader=yaml.SafeLoader), ())
    except yaml.YAMLError as error:
        raise ValueError(_in_a_line(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _check_node(node: yaml.Node | None, above: tuple[int, ...]) -> None:
    if id(node) in above:
        raise ValueError(f"line {_line(node)} holds itself")
    if isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, str], yaml.Node] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    first = _line(seen[key.tag, key.value])
                    raise ValueError(f"the key {key.value!r} stands twice, in lines {first} and {_line(key)}")
                seen[key.tag, key.value] = key
            _check_node(value, (*above, id(node)))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_node(value, (*above, id(node)))


def _line(node: yaml.Node | None) -> int:
    assert node is not None
    return node.start_mark.line + 1


def _in_a_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {' '.join(filter(None, (error.context, error.problem)))}"
    return " ".join(str(error).split())
