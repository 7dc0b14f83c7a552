"""HTTP connections that end where a client keeps the server waiting; uvicorn ends only those that are idle after an answer."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def timely(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with a limit of time for what a client sends and takes.

    The body of a request has its limit in :class:`assistants.serving.guard.Guard`, the parse in
    :meth:`assistants.serving.service.Service.parse`.

    Args:
        seconds: for the head of a request, from the begin of the connection or, after an answer, from its first byte; as
            many for an answer that the client does not take at once.
    """

    class Timely(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._head, self._answer = _Limit(seconds, transport), _Limit(seconds, transport)
            self._head.start()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head.stop()
            self._answer.stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle  # of the latest request whose head is whole
            super().data_received(data)
            if self.cycle is not before:
                self._head.stop()
            elif self.cycle is not None and self.cycle.response_complete:
                self._head.start()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._answer.start()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._answer.stop()
            self._limit_closing()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._limit_closing()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._limit_closing()

        def _limit_closing(self) -> None:
            # A connection that is closed stays until the client has taken all that was written to it.
            if self.transport.is_closing():
                self._answer.start()

    return Timely


class _Limit:
    """Ends a connection after some seconds, unless it is stopped before."""

    def __init__(self, seconds: float, transport: asyncio.Transport) -> None:
        self._seconds, self._transport = seconds, transport
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to count, unless it does already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._transport.abort)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
