"""A parser on the command line: ``framefill parse``, and the command that a wheel brings."""

from __future__ import annotations

import argparse
import codecs
import difflib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from frames.errors import FramefillError, MachineError, UsageError

if TYPE_CHECKING:
    from parsers.interface import Hypothesis, Parser

#: How utterances become lines, for ``--help``.
DETAILS = (
    "Without --tree, each utterance has one line of output, in order; an utterance that cannot be parsed has an empty "
    "line, and its error on standard error. With --n-best N above 1, an utterance has up to N lines, each "
    "beginning with the utterance's number, the rank and the score, separated by tabs."
)


class CommandParser(argparse.ArgumentParser):
    """Says in a line what is wrong with a command line, in place of all its options."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse.

        Raises:
            UsageError: always.
        """
        raise UsageError("E456", f"{message}.", where=self.prog, remedy=f"`{self.prog} --help` tells what to give it.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """As of argparse, which asks the parser of a subcommand; a word that is no option of it is an error.

        Raises:
            UsageError: see above.
        """
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            close = difflib.get_close_matches(unknown[0].partition("=")[0], list(self._option_string_actions), 1)
            self.error(f"{unknown[0]!r} is not known" + (f", did you mean {close[0]}?" if close else ""))
        return options, unknown


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the utterances, and the options of what is printed for them."""
    parser.add_argument("utterances", nargs="*", metavar="UTTERANCE", help="without any, standard input is read")
    parser.add_argument("--n-best", type=int, default=1, metavar="N", help="frames for each utterance, best first")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object a line")
    shape.add_argument("--tree", action="store_true", help="indented trees")


#: Byte order marks of UTF-16, as they stand in a text that was read as UTF-8.
_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")

#: Utterances that a thread parses between two lines of output at most.
_TOGETHER = 32

#: Of the options, the utterance's number, the rank, the utterance and a hypothesis, what is printed.
Shape = Callable[[Any, int, int, str, "Hypothesis"], str]


def print_frames(parser: Parser, options: Any, shape: Shape | None = None) -> None:
    """Prints a frame for every utterance; errors go to standard error, and the other utterances are still parsed.

    Args:
        parser: parses.
        options: those of :func:`add_options`.
        shape: what is printed for a hypothesis; None follows the options.

    Raises:
        UsageError: an utterance could not be parsed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal whose encoding lacks a character of the answer shows its escape in place of failing.
        sys.stdout.reconfigure(errors="backslashreplace")
    refused = 0
    for number, (utterance, found) in enumerate(_parsed(parser, options), start=1):
        if isinstance(found, UsageError):
            refused += 1
            print(f"framefill: {found.at(f'utterance {number}')}", file=sys.stderr)
            if options.json:
                _print(json.dumps({"number": number, "frame": None, "text": None, "error": found.code}))
            elif not options.tree:
                _print("")
            continue
        for rank, hypothesis in enumerate(found, start=1):
            _print((shape or _shown)(options, number, rank, utterance, hypothesis))
    if refused:
        raise UsageError("E408", f"{refused} utterance(s) were not parsed.", remedy="See above; all others were.")


def guarded(work: Callable[[], None]) -> int:
    """Runs a command.

    Returns:
        The exit status: 0; 2 after an error, which is printed on standard error; 130 after Ctrl-C.
    """
    try:
        work()
    except FramefillError as error:
        return _failed(error)
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = str(error.filename or "")
        return _failed(
            MachineError(
                "E502", f"the system refused ({error.strerror or error}).", where=where, remedy="Check the path."
            )
        )
    except KeyboardInterrupt:
        return 130
    return 0


def main(name: str, load: Callable[[], Parser], arguments: Sequence[str] | None = None) -> int:
    """The command of a wheel.

    Args:
        name: of the command.
        load: gives the parser, once the options are read.
        arguments: the command line; None takes that of the process.

    Returns:
        See :func:`guarded`.
    """
    parser = CommandParser(
        prog=name,
        description=f"Parses utterances (arguments, or standard input, one a line). {DETAILS}",
        epilog=f'Example: {name} "wake me at 6" --tree',
    )
    add_options(parser)

    def work() -> None:
        options = parser.parse_args(arguments)
        print_frames(load(), options)

    return guarded(work)


def _shown(options: Any, number: int, rank: int, utterance: str, hypothesis: Hypothesis) -> str:
    frame, score = hypothesis.frame, hypothesis.score
    if options.json:
        value = frame.to_dict() if frame else {"utterance": utterance, "frame": None}
        place = {"number": number, "rank": rank}
        text = str(frame) if frame else None
        told = {"score": round(score, 4)}
        if hypothesis.probability is not None:
            told["probability"] = round(hypothesis.probability, 4)
        return json.dumps({**place, **value, "text": text, **told}, ensure_ascii=False)
    text = str(frame or "")
    if options.tree and frame:
        ranked = "" if options.n_best == 1 else f"  ({rank}, {score:.3f})"
        return f"{utterance}{ranked}\n{frame.tree()}\n"
    return text if options.n_best == 1 else f"{number}\t{rank}\t{score:.3f}\t{text}"


def _print(line: str) -> None:
    """Prints at once, for a program on the other end of a pipe may wait for the answer to its line."""
    print(line, flush=True)


def _parsed(parser: Parser, options: Any) -> Iterator[tuple[str, list[Hypothesis] | UsageError]]:
    """Each utterance with its frames or its error; those that are there are parsed together, as far as threads need it."""
    from parsers.interface import parse_each

    most = _TOGETHER * getattr(parser, "workers", 1)
    for there in [options.utterances] if options.utterances else _lines():
        for begin in range(0, len(there), most):
            utterances = there[begin : begin + most]
            yield from zip(utterances, parse_each(parser, utterances, options.n_best), strict=True)


def _lines() -> Iterator[list[str]]:
    """Lines of standard input, without a byte order mark and carriage returns at their ends.

    Bytes that are no text stay in them, to be refused like any other bad utterance.

    Raises:
        UsageError: the text is in UTF-16, as some shells of Windows write it, where every other byte would be parsed.
    """
    for number, lines in enumerate(_arrived()):
        if number == 0:
            if lines[0].startswith(_UTF16):
                raise UsageError("E457", "the text is in UTF-16.", where="standard input", remedy="Write it in UTF-8.")
            lines[0] = lines[0].removeprefix("\ufeff")
        yield [line.rstrip("\r\n") for line in lines]


def _arrived() -> Iterator[list[str]]:
    """Lines of standard input, those together that are there: whoever waits for the answer to a line gets it."""
    if not isinstance(sys.stdin, io.TextIOWrapper):
        yield from ([line] for line in sys.stdin)
        return
    decoder = codecs.getincrementaldecoder(sys.stdin.encoding)("surrogateescape")
    rest: list[str] = []
    # Gives what is there, and waits only where nothing is.
    while content := sys.stdin.buffer.read1(1 << 16):
        lines, end, tail = decoder.decode(content).rpartition("\n")
        if end:
            yield "".join([*rest, lines]).split("\n")
            rest.clear()
        rest.append(tail)
    if last := "".join([*rest, decoder.decode(b"", final=True)]):
        yield [last]


def _failed(error: FramefillError) -> int:
    print(f"framefill: {error}", file=sys.stderr)
    return 2
