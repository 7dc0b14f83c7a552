"""How much a client may ask of a server, and the errors of asking for more."""

from __future__ import annotations

from dataclasses import dataclass

from frames.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body: bytes of a request's body.
        characters: of one utterance.
        texts: utterances of one request.
        rate: requests of one client address, in the notation of the library ``limits`` (``"100/second"``); None sets no limit.
        timeout: seconds for each part of a request: its head, its body, its parse, and until the client has taken the answer.
        waiting: utterances that wait to be parsed, of all clients together.
        connections: open at a time, to the HTTP server and to Wyoming's each.
        batch: utterances that are parsed at once; 1 parses each alone.
    """

    body: int = 1 << 20
    characters: int = 1000
    texts: int = 256
    rate: str | None = "1000/second"
    timeout: float = 30.0
    waiting: int = 512
    connections: int = 1024
    batch: int = 32


class RefusedError(UsageError):
    """A request that a server does not answer, by its :data:`STATUS`."""


#: HTTP status of each error that a request can cause; others of the family are of the utterance and are 422.
STATUS = {
    "E523": 413,
    "E524": 429,
    "E525": 503,
    "E526": 504,
    "E527": 401,
    "E528": 422,
    "E529": 422,
    "E530": 422,
    "E531": 422,
    "E532": 408,
    "E534": 403,
    "E535": 503,
}


def check_texts(texts: list[str], limits: Limits) -> None:
    """Whether utterances may be parsed together.

    Raises:
        RefusedError: one is too long, or there are too many.
    """
    if len(texts) > limits.texts:
        raise RefusedError(
            "E530", f"{len(texts)} utterances in one request.", remedy=f"Send at most {limits.texts} at a time."
        )
    for place, text in enumerate(texts):
        if len(text) > limits.characters:
            raise RefusedError(
                "E531",
                f"an utterance of {len(text)} characters.",
                where=f"texts[{place}]",
                remedy=f"Send at most {limits.characters} characters.",
            )
