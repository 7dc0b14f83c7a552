"""``framefill serve``: bundles behind HTTP and Wyoming."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from assistants.bundle import PRECISIONS
from frames.errors import UsageError
from scripts.commands import common

#: Environment variable that holds the token; a command line would show it to every user of the machine.
TOKEN = "FRAMEFILL_TOKEN"


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "serve", run, "answer over HTTP (framefill's own JSON, Rasa's, a page to try it) or Home Assistant's Wyoming",
        "framefill serve --bundle models/conv-nar-topv2 --port 5005",
        f"The variable {TOKEN} holds a token that clients must bear. SIGHUP reloads the bundles.",
    )  # fmt: skip
    parser.add_argument(
        "--bundle", type=Path, action="append", metavar="DIR",
        help="written by `framefill export`, or the name of a package that `framefill wheel` made; may be given several times, "
        "the first is the default",
    )  # fmt: skip
    parser.add_argument("--precision", choices=[*PRECISIONS], help="graphs to use (default: the first that is there)")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, help="port for HTTP, 0 for any that is free (default: 5005)")
    parser.add_argument(
        "--wyoming", metavar="URI", help="serve Wyoming at tcp://HOST:PORT; without --host and --port there is no HTTP"
    )
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="YAML or JSON file of the assistant's names for labels"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="refuse readings less probable than this; bundles must be calibrated (default: each one's own)",
    )
    parser.add_argument(
        "--ranking",
        type=int,
        default=3,
        help="readings behind Rasa's intent_ranking, at most 10; more than 1 parses twice (default: 3)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="batches of a bundle parsed side by side, 0 for one a core (default: 1)"
    )
    parser.add_argument("--log-text", action="store_true", help="write utterances into the log")
    _add_limits(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    for name, kind, value, text in (
        ("--max-body", int, 1 << 20, "bytes of a request; more is 413"),
        ("--max-characters", int, 1000, "of an utterance; more is 422"),
        ("--max-texts", int, 256, "utterances of a request; more is 422"),
        ("--rate", str, "1000/second", "requests of a client address, or none; more is 429"),
        (
            "--timeout",
            float,
            30.0,
            "seconds for each part of a request: head, body, parse, answer; longer is 504, or 408 for a body",
        ),
        ("--max-waiting", int, 512, "utterances in a bundle's queue, at least --max-texts; more is 503"),
        (
            "--max-connections",
            int,
            1024,
            "open at a time; more is 503, and for Wyoming the end of the one that is idle for longest",
        ),
        ("--max-batch", int, 32, "utterances parsed together; 1 switches batching off"),
    ):
        limits.add_argument(name, type=kind, default=value, help=f"{text} (default: %(default)s)")


def run(options: Any) -> None:
    """Serves until a signal.

    Raises:
        UsageError: the extra is not installed, or an option is out of range.
        BundleError: a bundle cannot be loaded.
        MachineError: the address is taken.
    """
    common.at_least(0, threads=options.threads, port=options.port)
    whole = {name: value for name, value in vars(options).items() if name.startswith("max_")}
    common.at_least(1, ranking=options.ranking, **whole)
    common.at_least(options.max_texts, max_waiting=options.max_waiting)  # or the largest requests would never be taken
    if not 0 < options.timeout < float("inf"):
        raise UsageError("E538", f"--timeout {options.timeout} is no time.", remedy="Give seconds above 0.")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UsageError("E539", f"--threshold {options.threshold} is no probability.", remedy="Give 0 to 1.")
    try:
        import fastapi  # noqa: F401
        import limits  # noqa: F401
        import prometheus_client  # noqa: F401
        import structlog  # noqa: F401
        import uvicorn  # noqa: F401
        import wyoming  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "E477", f"the server needs {error.name}.", remedy="Install it with: pip install 'framefill[serve]'"
        ) from error
    _serve(options)


def _serve(options: Any) -> None:
    import asyncio

    import limits
    import structlog

    from assistants.serving import logs
    from assistants.serving.app import create_app
    from assistants.serving.limits import Limits
    from assistants.serving.server import serve
    from assistants.serving.service import Service
    from assistants.shapes.models import MAX_N_BEST
    from assistants.shapes.names import Names

    if options.ranking > MAX_N_BEST:
        raise UsageError(
            "E499", f"--ranking {options.ranking} is more than {MAX_N_BEST}.", remedy="No more readings are made."
        )
    rate = None if options.rate == "none" else options.rate
    try:
        if rate is not None and limits.parse(rate).amount < 1:
            raise ValueError("no request would be answered")
    except ValueError as error:
        raise UsageError("E478", f"--rate {rate!r} cannot be read.", remedy="Write 100/second, or none.") from error
    logs.configure()
    allowed = Limits(
        body=options.max_body, characters=options.max_characters, texts=options.max_texts, rate=rate,
        timeout=options.timeout, waiting=options.max_waiting, connections=options.max_connections, batch=options.max_batch,
    )  # fmt: skip
    service = Service(
        [common.installed(path) for path in options.bundle or ()] or [common.default_bundle()],
        allowed,
        Names.read(options.names) if options.names is not None else None,
        options.precision,
        options.threads or os.cpu_count() or 1,
        options.threshold,
    )
    token = os.environ.get(TOKEN, "").strip() or None  # the file of a secret often ends with a line end
    host, port = options.host or "127.0.0.1", 5005 if options.port is None else options.port
    with_http = options.wyoming is None or options.host is not None or options.port is not None
    if with_http and token is None and host not in ("127.0.0.1", "localhost", "::1"):
        structlog.get_logger("framefill").warning("other machines can reach this server, and it asks for no token")
    app = create_app(service, token, options.ranking, options.log_text) if with_http else None
    asyncio.run(serve(service, app, host, port, options.wyoming))
