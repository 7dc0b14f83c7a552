"""The HTTP application: ``/parse``, ``/parse/batch``, Rasa's ``/model/parse``, probes, metrics, reload and the page."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from assistants.answers import Answer
from assistants.serving import page
from assistants.serving.guard import OPEN, TOLD, Guard, error_response
from assistants.serving.limits import RefusedError
from assistants.serving.service import Service
from assistants.shapes import models, own, rasa
from frames.errors import FramefillError

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is not JSON."},
    401: {"description": "The token is missing or wrong."},
    408: {"description": "The body did not come in time."},
    413: {"description": "The body is too large."},
    422: {"description": "The request has not the documented shape, or an utterance cannot be parsed."},
    429: {"description": "Too many requests from this address."},
    503: {"description": "Too many utterances wait to be parsed."},
    504: {"description": "No answer in time."},
}
for _refusal in _REFUSALS.values():
    _refusal["model"] = models.ErrorAnswer


def create_app(service: Service, token: str | None = None, ranking: int = 3, log_text: bool = False) -> FastAPI:
    """The application.

    Args:
        service: parses.
        token: that clients must bear, except for probes and the page; None asks for none and has no reload.
        ranking: readings that Rasa's ``intent_ranking`` is made of.
        log_text: whether log lines tell the utterances.
    """
    app = FastAPI(
        title="framefill",
        description="Utterances to frames. `docs/guides/serve.md` of framefill describes shapes, limits and errors.",
        version=str(own.VERSION),
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )

    async def parse(request: Request, texts: list[str], n_best: int, bundle: str | None) -> list[Answer]:
        told = request.scope[TOLD]
        told |= {"utterances": len(texts), "characters": sum(map(len, texts))}
        if log_text:
            told["texts"] = texts
        answers = await service.parse(texts, n_best, bundle)
        told |= {"bundle": service.bundle(bundle).name, "abstained": sum(answer.abstained for answer in answers)}
        return answers

    @app.post("/parse", response_model=models.ParseAnswer, responses=_REFUSALS)
    async def parse_one(body: models.ParseRequest, request: Request) -> Response:
        """The readings of an utterance, best first."""
        (answer,) = await parse(request, [body.text], body.n_best, body.bundle)
        return JSONResponse(own.to_dict(answer, body.details))

    @app.post("/parse/batch", response_model=models.BatchAnswer, responses=_REFUSALS)
    async def parse_batch(body: models.BatchRequest, request: Request) -> Response:
        """The readings of several utterances, in their order; one that cannot be parsed fails the request."""
        answers = await parse(request, body.texts, body.n_best, body.bundle)
        return JSONResponse({"results": [own.to_dict(answer, body.details) for answer in answers]})

    @app.post("/model/parse", response_model=models.RasaAnswer, responses=_REFUSALS)
    async def parse_for_rasa(body: models.RasaRequest, request: Request) -> Response:
        """Intent, entities and ranking in the shape of Rasa NLU, by the first bundle."""
        (answer,) = await parse(request, [body.text], ranking, None)
        return JSONResponse(rasa.to_dict(answer, service.names))

    @app.get("/bundles", responses={code: _REFUSALS[code] for code in (401, 429)})
    async def bundles() -> models.BundleList:
        """The bundles that are served, the default first."""
        return models.BundleList(bundles=[_about(service, name) for name in service.bundles])

    @app.get("/healthz")
    async def healthz() -> models.Status:
        """Whether the process is alive."""
        return models.Status(status="alive")

    @app.get("/readyz", responses={503: {"description": "The server is shutting down.", "model": models.ErrorAnswer}})
    async def readyz() -> models.Status:
        """Whether requests should be sent here."""
        if service.draining:
            raise RefusedError("E535", "the server is shutting down.", remedy="Send requests to another.")
        return models.Status(status="ready")

    @app.get("/metrics", responses={code: _REFUSALS[code] for code in (401, 429)}, response_class=Response)
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post(
        "/reload",
        responses={**{code: _REFUSALS[code] for code in (401, 429)},
                   403: {"description": "The server has no token.", "model": models.ErrorAnswer}},
    )  # fmt: skip
    async def reload() -> dict[str, str]:
        """Loads the bundles anew without dropping a request; says of each whether that went well."""
        if token is None:
            raise RefusedError(
                "E534",
                "a server without a token is not reloaded from outside.",
                remedy="Send it SIGHUP, or set a token.",
            )
        return await service.reload()

    app.include_router(page.router)
    _explain_errors(app)
    paths = frozenset({*app.openapi()["paths"], *OPEN})
    app.add_middleware(Guard, service=service, token=token, paths=paths)
    return app


def _explain_errors(app: FastAPI) -> None:
    """Gives every error of the application one shape."""

    @app.exception_handler(FramefillError)
    async def refused(_: Request, error: FramefillError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it may be long, private, or no text that JSON can hold.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200].encode(errors="replace").decode()
        return error_response(
            RefusedError(
                "E528", f"not a request of this shape ({first['type']}).", where=where, remedy="See /openapi.json."
            )
        )

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> Response:
        fault = {"code": "", "what": HTTPStatus(error.status_code).phrase, "where": "", "remedy": "See /openapi.json."}
        return JSONResponse({"error": fault}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        fault = {"code": "", "what": "the server failed.", "where": "", "remedy": "Its log tells more."}
        return JSONResponse({"error": fault}, 500)


def _about(service: Service, name: str) -> models.BundleInfo:
    bundle = service.bundles[name]
    manifest = bundle.parser.manifest
    return models.BundleInfo(
        name=name,
        parser=str(manifest.get("parser", "")),
        precision=bundle.parser.precision,
        calibrated="confidence" in manifest,
        threshold=bundle.threshold,
        exact_match=manifest.get("metrics", {}).get("exact_match"),
    )
