"""Bundles behind Home Assistant's Wyoming protocol, https://github.com/OHF-Voice/wyoming.

Home Assistant's conversation agent sends a ``Transcript`` and reads an ``Intent`` or ``NotRecognized``; ``Recognize`` is
answered alike. ``SelectProgram`` chooses among several bundles.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlparse

import structlog
from wyoming.asr import Transcript
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Attribution, Describe, Info, IntentModel, IntentProgram, SelectProgram
from wyoming.intent import NotRecognized, Recognize
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler

from assistants.serving.service import Service
from assistants.shapes.home_assistant import to_event
from frames.errors import FramefillError, UsageError

log = structlog.get_logger("framefill")


class WyomingServer:
    """Answers on one address, until it is closed.

    Args:
        service: parses.
        uri: ``tcp://HOST:PORT`` or ``unix:///PATH``.

    Raises:
        UsageError: the address is neither.
    """

    def __init__(self, service: Service, uri: str) -> None:
        self._service, self._place = service, _place(uri)
        self._server: asyncio.AbstractServer | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            OSError: the address is taken or not this machine's.
        """
        if isinstance(self._place, str):
            self._server = await asyncio.start_unix_server(self._connected, self._place)
        else:
            self._server = await asyncio.start_server(self._connected, *self._place)

    @property
    def port(self) -> int | None:
        """The port that it listens on, None for a Unix socket."""
        assert self._server is not None, "start() comes first"
        return None if isinstance(self._place, str) else self._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def close(self) -> None:
        """Listens no more, answers what was asked, then hangs up."""
        if self._server is None:
            return
        self._server.close()
        for task, connection in list(self._connections.items()):
            if not connection.busy:
                task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=self._service.limits.timeout)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self._service, reader, writer)
        if len(self._connections) >= self._service.limits.connections:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass
        except Exception as error:  # what the library raises for malformed events, and lost connections
            log.info("wyoming connection ended", error=type(error).__name__)
        finally:
            del self._connections[task]


class _Connection(AsyncEventHandler):
    """One client."""

    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(_SmallEvents(reader, service.limits.body), writer)  # type: ignore[arg-type]
        self._service = service
        self._bundle: str | None = None
        self.busy = False

    async def handle_event(self, event: Event) -> bool:
        """Answers an event; one of another kind is ignored, as the protocol asks."""
        self.busy = True
        try:
            if Describe.is_type(event.type):
                await self.write_event(_info(self._service).event())
            elif Ping.is_type(event.type):
                await self.write_event(Pong(Ping.from_event(event).text).event())
            elif SelectProgram.is_type(event.type):
                self._bundle = str(SelectProgram.from_event(event).name)
            elif Transcript.is_type(event.type) or Recognize.is_type(event.type):
                await self._parse(event.data.get("text"), event.data.get("context"))
        finally:
            self.busy = False
        return not self._service.draining

    async def _parse(self, text: Any, context: dict[str, Any] | None) -> None:
        try:
            (answer,) = await self._service.parse([text if isinstance(text, str) else ""], 1, self._bundle)
        except FramefillError as error:
            # The error is for people who look for it; a client that waits for an intent has its answer as well.
            await self.write_event(Error(str(error), error.code).event())
            await self.write_event(NotRecognized(context=context).event())
            log.info("wyoming", error=error.code)
        else:
            await self.write_event(to_event(answer, self._service.names, context))
            log.info("wyoming", characters=len(answer.text), abstained=answer.abstained)


class _SmallEvents:
    """A stream from which no event larger than a limit is read."""

    def __init__(self, reader: asyncio.StreamReader, limit: int) -> None:
        self._reader, self._limit = reader, limit
        self.readline = reader.readline  # asyncio's own limit holds for a line
        self.feed_eof = reader.feed_eof

    async def readexactly(self, n: int) -> bytes:
        """As of a stream; more than the limit ends the connection, for the library takes a ValueError so."""
        if not isinstance(n, int) or n > self._limit:
            raise ValueError(f"an event of {n} bytes")
        return await self._reader.readexactly(n)


def _place(uri: str) -> tuple[str, int] | str:
    """Host and port, or the path of a Unix socket."""
    try:
        parts = urlparse(uri)
        if parts.scheme == "tcp" and parts.hostname and parts.port is not None:
            return parts.hostname, parts.port
    except ValueError:  # a port that is none
        parts = urlparse("")
    if parts.scheme == "unix" and parts.path:
        return parts.path
    raise UsageError("E536", f"{uri!r} is no address of a Wyoming server.", remedy="Write tcp://127.0.0.1:10500.")


def _info(service: Service) -> Info:
    """One program for each bundle."""
    by = Attribution("framefill", "")
    programs = []
    for name, bundle in service.bundles.items():
        about = {"attribution": by, "installed": True, "version": None}
        description = f"{bundle.parser.manifest.get('parser', '')} parser of task-oriented utterances"
        model = IntentModel(name=name, description=description, languages=["en"], **about)  # type: ignore[arg-type]
        programs.append(IntentProgram(name=name, description=description, models=[model], **about))  # type: ignore[arg-type]
    return Info(intent=programs)
