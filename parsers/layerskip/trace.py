"""How a frame was written, token by token and in colour: for terminals and for notebooks; without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich.text import Text

#: Of each origin (:class:`parsers.layerskip.decoding.Written`): a terminal's colour, a page's colours, and what it means.
ORIGINS = {
    "forced": ("bright_black", "#eceff3", "#5b6470", "forced by the grammar"),
    "copied": ("cyan", "#e0f4f7", "#0b6b7a", "copied from the utterance"),
    "drafted": ("green", "#e6f5ec", "#1d7a46", "drafted by early layers and accepted"),
    "corrected": ("red", "#fdeaea", "#c02626", "corrected by the whole model"),
    "decoded": ("blue", "#e8eefc", "#2f55c8", "decoded by the whole model"),
}


def has_origins(trace: Mapping[str, Any]) -> bool:
    """Whether a hypothesis' trace is one of LayerSkip's."""
    tokens = trace.get("tokens")
    return isinstance(tokens, list) and bool(tokens) and isinstance(tokens[0], Mapping) and "origin" in tokens[0]


def lines(trace: Mapping[str, Any]) -> list[Text]:
    """One line a token: its origin, the token, and what was drafted in its place, separated by tabs.

    Args:
        trace: of a hypothesis of :class:`parsers.layerskip.parser.LayerSkipParser`.
    """
    found = []
    for token in trace["tokens"]:
        line = Text(f"{token['origin']:10}\t{token['token']}", style=ORIGINS[token["origin"]][0])
        if "refused" in token:
            line.append(f"\tin place of {token['refused']}", style="red strike")
        found.append(line)
    return found


def html(trace: Mapping[str, Any]) -> str:
    """The tokens side by side on the colour of their origin, refused drafts crossed out before what replaced them.

    Args:
        trace: as for :func:`lines`.
    """
    tokens: Sequence[Mapping[str, Any]] = trace["tokens"]
    counts = Counter(token["origin"] for token in tokens)
    legend = " ".join(
        _chip(f"{counts[origin]} {meaning}", origin) for origin, (*_, meaning) in ORIGINS.items() if counts[origin]
    )
    return (
        '<figure style="margin:0 0 1em 0;line-height:2.1;font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px">'
        f'<div dir="auto">{" ".join(_drawn(token) for token in tokens)}</div>'
        f'<figcaption style="font-size:11px">{legend}</figcaption></figure>'
    )


def _drawn(token: Mapping[str, Any]) -> str:
    title = f"{ORIGINS[token['origin']][3]}, log-probability {token['log_prob']:.3f}"
    refused = f'<del style="color:#c02626">{escape(token["refused"])}</del> ' if "refused" in token else ""
    return refused + _chip(token["token"], token["origin"], title)


def _chip(text: str, origin: str, title: str = "") -> str:
    _, fill, ink, _ = ORIGINS[origin]
    hint = f' title="{escape(title)}"' if title else ""
    return (
        f'<span{hint} style="background:{fill};color:{ink};border-radius:4px;padding:2px 5px;white-space:pre">'
        f"{escape(text)}</span>"
    )
