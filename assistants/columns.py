"""Frames as columns of a table: what bulk parsing, Ray Data and Spark add to the utterances that they are given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from assistants.answers import Answer, answer_each
from assistants.onnx_backend import BundleParser
from frames.errors import UsageError

#: Columns that :func:`columns` gives, and what each holds:
#: the bracketed frame; its tree as JSON, with character offsets; its log-probability; its calibrated probability, null
#: without calibration; whether that is too low to act on; and the code of the error where an utterance is not parsed.
COLUMNS = {
    "frame": str,
    "tree": str,
    "score": float,
    "probability": float,
    "abstained": bool,
    "error": str,
}


def columns(parser: BundleParser, utterances: Sequence[Any]) -> dict[str, list[Any]]:
    """Parses utterances into columns.

    Args:
        parser: as :func:`assistants.runtime.load` gives it.
        utterances: texts; anything else is an error of its row, as is a text that cannot be parsed.

    Returns:
        The columns of :data:`COLUMNS`, each as long as ``utterances``; null where there is nothing to tell.
    """
    rows = [_row(found) for found in answer_each(parser, list(utterances))]
    return {name: [row.get(name) for row in rows] for name in COLUMNS}


def check_free(names: Iterable[str], where: str = "") -> None:
    """Whether a table or a row has none of the columns of :data:`COLUMNS`, whose values would be lost.

    Args:
        names: of its columns.
        where: the table or row, for the message.

    Raises:
        UsageError: it has one.
    """
    if taken := [name for name in names if name in COLUMNS]:
        raise UsageError(
            "E552", f"the table has a column {taken[0]!r} already.", where=where, remedy="Rename that column."
        )


def _row(found: Answer | UsageError) -> dict[str, Any]:
    if isinstance(found, UsageError):
        return {"error": found.code}
    best = found.hypotheses[0]
    tree = None if best.frame is None else json.dumps(best.frame.to_dict()["frame"], ensure_ascii=False)
    text = None if best.frame is None else str(best.frame)
    return {
        "frame": text,
        "tree": tree,
        "score": best.score,
        "probability": best.probability,
        "abstained": found.abstained,
    }
