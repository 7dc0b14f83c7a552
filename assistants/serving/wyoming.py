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
        if len(self._connections) >= self._service.limits.connections and not self._hang_up():
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass
        except (
            Exception
        ) as error:  # what the library raises for malformed events, lost connections, and events too slow
            log.info("wyoming connection ended", error=type(error).__name__)
        finally:
            self._connections.pop(task, None)
            # What is closed by now stays until the client has taken all that was written to it, or for this long.
            asyncio.get_running_loop().call_later(self._service.limits.timeout, writer.transport.abort)

    def _hang_up(self) -> bool:
        """Ends the connection that has been without an event for longest; whether there is one."""
        idle = {task: since for task, one in self._connections.items() if (since := one.events.idle_since) is not None}
        if not idle:
            return False
        longest = min(idle, key=idle.__getitem__)
        del self._connections[longest]
        longest.cancel()
        return True


class _Connection(AsyncEventHandler):
    """One client."""

    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.events = _Events(reader, service.limits.body, service.limits.timeout)
        super().__init__(self.events, writer)  # type: ignore[arg-type]
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

    async def write_event(self, event: Event) -> None:
        """As of the library, within the time of a request."""
        async with asyncio.timeout(self._service.limits.timeout):
            await super().write_event(event)

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


class _Events:
    """A stream from which no event is read that is larger than a limit, or takes longer from its first byte on.

    Attributes:
        idle_since: when the wait for an event's first byte began; None while an event is read or answered.
    """

    def __init__(self, reader: asyncio.StreamReader, limit: int, seconds: float) -> None:
        self._reader, self._limit, self._seconds = reader, limit, seconds
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0
        self.idle_since: float | None = self._loop.time()
        self.feed_eof = reader.feed_eof

    async def readline(self) -> bytes:
        """The line with which an event begins; asyncio's own limit holds for its size."""
        self.idle_since = self._loop.time()
        first = await self._reader.read(1)
        self.idle_since, self._deadline = None, self._loop.time() + self._seconds
        if first in (b"", b"\n"):
            return first
        async with asyncio.timeout_at(self._deadline):
            return first + await self._reader.readline()

    async def readexactly(self, n: int) -> bytes:
        """As of a stream; more than the limit ends the connection, for the library takes a ValueError so."""
        if not isinstance(n, int) or n > self._limit:
            raise ValueError(f"an event of {n} bytes")
        async with asyncio.timeout_at(self._deadline):
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
