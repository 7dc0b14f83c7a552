"""The page at ``/`` on which to try a parser; all it needs is in this package, and its policy lets nothing else in."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from assistants.serving.guard import STATIC

router = APIRouter(include_in_schema=False)
_TYPES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_CONTENT = {name: (files("assistants.serving") / "static" / name).read_bytes() for name in _TYPES}


@router.get("/")
async def page() -> Response:
    """The page."""
    return static("page.html")


@router.get(STATIC + "{name}")
async def part(name: str) -> Response:
    """A file that the page loads."""
    return static(name)


def static(name: str) -> Response:
    """A file of the page.

    Raises:
        HTTPException: there is no such file.
    """
    if name not in _TYPES:
        raise HTTPException(404)
    return Response(_CONTENT[name], media_type=_TYPES[name])
