"""Runs the servers: listens, reloads on SIGHUP, and on SIGTERM answers all that was accepted before it ends."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from assistants.serving.connections import timely
from assistants.serving.service import Service
from assistants.serving.wyoming import WyomingServer
from frames.errors import MachineError

log = structlog.get_logger("framefill")

#: Seconds between the signal to stop and the end of listening. Meanwhile every answer closes its connection, so that clients
#: find no connection closed that they have just used for another request, and balancers see ``/readyz`` fail.
DRAIN = 0.5
#: Seconds that a connection without a request is kept.
_KEEP_ALIVE = 30


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own, which would end the process before other servers have."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to :func:`serve`."""
        yield


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; its connections send small answers at once.

    Args:
        host: an address of this machine.
        port: 0 for any that is free.

    Raises:
        OSError: the address is taken or not this machine's.
        OverflowError: there is no such port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.create_server((host, port), family=family, backlog=2048)
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol, which this one does not. With it, a
    # client that keeps its connection would wait 40 ms for the body of each answer.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


async def serve(
    service: Service, app: FastAPI | None, host: str = "127.0.0.1", port: int = 5005, wyoming: str | None = None
) -> None:
    """Serves until SIGTERM or SIGINT; a second signal ends at once.

    Args:
        service: parses.
        app: the HTTP application, None to serve Wyoming alone.
        host: address to listen on for HTTP.
        port: its port, 0 for any that is free.
        wyoming: address of the Wyoming server, None for none.

    Raises:
        MachineError: an address is taken or not this machine's.
        UsageError: ``wyoming`` is no address.
    """
    http: _Server | None = None
    for_home = WyomingServer(service, wyoming) if wyoming is not None else None
    sockets: list[socket.socket] = []
    place = f"{host}:{port}"
    try:
        if app is not None:
            sockets = [listening(host, port)]
            http = _Server(_config(service, app))
        if for_home is not None:
            place = str(wyoming)
            await for_home.start()
    except (OSError, OverflowError) as error:
        raise MachineError(
            "E537", f"cannot listen ({error}).", where=place, remedy="Choose another port, or end who listens there."
        ) from error
    stopping = asyncio.Event()
    reloads: set[asyncio.Task[dict[str, str]]] = set()

    def stop() -> None:
        if stopping.is_set() and http is not None:
            http.force_exit = True
        stopping.set()

    def reload() -> None:
        task = asyncio.get_running_loop().create_task(service.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    for number, handler in handlers.items():
        asyncio.get_running_loop().add_signal_handler(number, handler)
    try:
        running = asyncio.create_task(http.serve(sockets)) if http is not None else None
        log.info(
            "listening",
            http=f"http://{host}:{sockets[0].getsockname()[1]}" if sockets else None,
            wyoming=f"{wyoming} (port {for_home.port})" if for_home is not None else None,
            bundles=list(service.bundles),
        )
        await _until(stopping, running)
        service.draining = True
        log.info("shutting down")
        await asyncio.sleep(DRAIN if http is not None else 0)
        if for_home is not None:
            await for_home.close()
        if http is not None and running is not None:
            http.should_exit = True
            await running
        await service.close()
        log.info("ended")
    finally:
        for number in handlers:
            asyncio.get_running_loop().remove_signal_handler(number)


async def _until(stopping: asyncio.Event, running: asyncio.Task[None] | None) -> None:
    """Waits for the signal to stop, or for the end of a server that failed."""
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait([task for task in (waiting, running) if task is not None], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _config(service: Service, app: FastAPI) -> uvicorn.Config:
    limits = service.limits
    return uvicorn.Config(
        app,
        http=timely(limits.timeout),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(limits.timeout) + 5,
    )
