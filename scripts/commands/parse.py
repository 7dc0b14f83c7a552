"""``framefill parse``: utterances from the command line or standard input to frames on standard output."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

from frames.errors import UsageError
from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "parse", run, "parse utterances (arguments, or standard input, one a line)",
        'framefill parse "remind me to call mum at 6" --tree',
        "Without --tree, each utterance has one line of output, in order; an utterance that cannot be parsed has an empty "
        "line, and its error on standard error. With --n-best N above 1, an utterance has up to N lines, each "
        "beginning with the utterance's number, the rank and the score, separated by tabs.",
    )  # fmt: skip
    common.add_model(parser)
    parser.add_argument("utterances", nargs="*", metavar="UTTERANCE", help="without any, standard input is read")
    parser.add_argument("--n-best", type=int, default=1, metavar="N", help="frames for each utterance, best first")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object a line")
    shape.add_argument("--tree", action="store_true", help="indented trees")


def run(options: Any) -> None:
    """Prints a frame for every utterance; errors go to standard error, and the other utterances are still parsed."""
    common.at_least(1, n_best=options.n_best)
    parser, _ = common.load_parser(options)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal whose encoding lacks a character of the answer shows its escape in place of failing.
        sys.stdout.reconfigure(errors="backslashreplace")
    refused = 0
    for number, utterance in enumerate(options.utterances or _lines(), start=1):
        try:
            hypotheses = parser.parse([utterance], options.n_best)[0]
        except UsageError as error:
            refused += 1
            print(f"framefill: {error.at(f'utterance {number}')}", file=sys.stderr)
            if options.json:
                _print(json.dumps({"number": number, "frame": None, "text": None, "error": error.code}))
            elif not options.tree:
                _print("")
            continue
        for rank, hypothesis in enumerate(hypotheses, start=1):
            _print(_shown(options, number, rank, utterance, hypothesis))
    if refused:
        raise UsageError("E408", f"{refused} utterance(s) were not parsed.", remedy="See above; all others were.")


def _shown(options: Any, number: int, rank: int, utterance: str, hypothesis: Any) -> str:
    frame, score = hypothesis.frame, hypothesis.score
    if options.json:
        value = frame.to_dict() if frame else {"utterance": utterance, "frame": None}
        place = {"number": number, "rank": rank}
        text = str(frame) if frame else None
        return json.dumps({**place, **value, "text": text, "score": round(score, 4)}, ensure_ascii=False)
    text = str(frame or "")
    if options.tree and frame:
        ranked = "" if options.n_best == 1 else f"  ({rank}, {score:.3f})"
        return f"{utterance}{ranked}\n{frame.tree()}\n"
    return text if options.n_best == 1 else f"{number}\t{rank}\t{score:.3f}\t{text}"


def _print(line: str) -> None:
    """Prints at once, for a program on the other end of a pipe may wait for the answer to its line."""
    print(line, flush=True)


def _lines() -> Iterator[str]:
    """Lines of standard input, without a byte order mark and carriage returns at their ends.

    Bytes that are no text stay in them, to be refused like any other bad utterance.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape", newline="\n")
    for number, line in enumerate(sys.stdin):
        yield (line.removeprefix("\ufeff") if number == 0 else line).rstrip("\r\n")
