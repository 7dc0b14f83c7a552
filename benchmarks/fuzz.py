"""Requests that no client should send, bundles that no export wrote, and strings that are no frames.

    python -m benchmarks.fuzz --bundle models/conv-nar-topv2

HTTP requests come from schemathesis, which reads the server's own OpenAPI document; half of them keep to it and half do not.
Every answer must have a documented status below 500 and the documented shape. As making up such a request takes far longer than
answering it, most requests are mutations of these: bytes of body, path, method and headers changed at random. Most go to a server
whose parser gives a fixed frame; the others are parsed. The bundle loader and the frame parser are given what hypothesis makes
up: each must answer, or raise a FramefillError. Nothing leaves this process.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import logging
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx
import schemathesis
import structlog
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from assistants import runtime
from assistants.bundle import Bundle
from assistants.serving.app import create_app
from assistants.serving.limits import Limits
from assistants.serving.service import Service
from assistants.shapes.models import ErrorAnswer
from frames.errors import FramefillError
from frames.files import write_json
from frames.frame import Frame
from frames.nodes import Intent
from lightning_modules.evaluation import environment
from parsers.interface import Hypothesis

#: Checks of schemathesis that each answer passes.
PASSED = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
#: Share of the requests by path; the others share what is left.
SHARES = {"/parse": 0.35, "/parse/batch": 0.25, "/model/parse": 0.25}
#: What JSON and Unicode have that parsers stumble over.
_TOKENS = [
    b'"', b"{", b"}", b"[" * 200, b"null", b"NaN", b"-Infinity", b"1e999", b'\\ud800', b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\x00",
    "\u202e😀é".encode(), b'"text": ', b'"n_best": 10, ', b'"details": true, ', b"true", b"-0", b"9" * 400, b'{"text": "wake me"}',
]  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A request on its way to an application."""

    method: str
    path: bytes
    body: bytes
    headers: list[tuple[bytes, bytes]]


def main() -> None:
    """Fuzzes, prints and writes; ends with status 1 where anything failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", type=Path, default=Path("models/conv-nar-topv2"))
    options.add_argument(
        "--requests", type=int, default=4_000, help="of schemathesis, to a server that gives a fixed frame"
    )
    options.add_argument("--parsed", type=int, default=1_000, help="of schemathesis, to a server that parses")
    options.add_argument("--mutated", type=int, default=84_000, help="mutations of all these, every 20th parsed")
    options.add_argument("--frames", type=int, default=8_000, help="strings for the frame parser")
    options.add_argument("--bundles", type=int, default=4_000, help="bundles for the loader")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("results/assistants/fuzz.json"))
    given_ = options.parse_args()
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    fixed = _service(given_.bundle)
    parser = fixed.bundle().parser
    # The tokenizer refuses what no parser reads.
    parser.parse = lambda texts, n_best=1: [  # type: ignore[method-assign]
        _fixed(source.text, n_best) for source in parser.tokenizer.batch(list(texts))
    ]
    parsing = _service(given_.bundle)
    sent: list[Sent] = []
    parts: dict[str, dict[str, Any]] = {}
    for name, work in (
        ("frames", lambda: _frames(given_.frames, given_.seed)),
        ("bundles", lambda: _bundles(given_.bundle, given_.bundles, given_.seed)),
        ("requests", lambda: _requests(fixed, given_.requests, given_.seed, sent)),
        ("requests_parsed", lambda: _requests(parsing, given_.parsed, given_.seed + 1, sent)),
        ("requests_mutated", lambda: _mutations(fixed, parsing, given_.mutated, given_.seed, sent)),
    ):
        began = time.perf_counter()
        parts[name] = {**work(), "seconds": round(time.perf_counter() - began, 1)}
        print(name, parts[name], flush=True)
    total = sum(part["cases"] for part in parts.values())
    failures = sum(len(part["failures"]) for part in parts.values())
    result = {
        "bundle": given_.bundle.name, "seed": given_.seed, "cases": total, "failed": failures, **parts,
        "limits": vars(Limits(rate=None)), "environment": environment(),
    }  # fmt: skip
    write_json(given_.out, result)
    print(f"{total} cases, {failures} failures")
    if failures:
        raise SystemExit(1)


def _service(bundle: Path) -> Service:
    return Service([bundle], Limits(rate=None))


def _fixed(text: str, n_best: int) -> list[Hypothesis]:
    return [Hypothesis(Frame(Intent("GET_WEATHER"), text), -float(n), {}, 1 / (n + 2)) for n in range(n_best)]


def _many(cases: int, number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a property on so many cases without shrinking or a database."""
    config = settings(
        max_examples=cases, phases=[Phase.generate], database=None, deadline=None,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    return lambda work: seed(number)(config(work))


def _tried(work: Callable[[], object], outcomes: Counter[str], failures: list[str]) -> None:
    """Counts an answer, a refusal by its code, or notes a failure."""
    try:
        work()
    except FramefillError as error:
        outcomes[error.code] += 1
    except Exception as error:
        outcomes["failed"] += 1
        if len(failures) < 20:
            failures.append(f"{type(error).__name__}: {error}"[:300])
    else:
        outcomes["accepted"] += 1


def _frames(cases: int, number: int) -> dict[str, Any]:
    """The frame parser on any text, and on tokens of frames in any order."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    token = st.sampled_from(["[IN:A", "[SL:B", "]", "[IN:", "[SL:", "\\]", "x", "6", "😀", "[IN:A]", "\x00", "[sl:b"])
    word = st.text(max_size=4).map(lambda text: text.strip() or "x")
    intent = st.deferred(lambda: st.lists(word | slot, max_size=3).map(lambda parts: " ".join(["[IN:A", *parts, "]"])))
    slot = st.lists(word | intent, max_size=3).map(lambda parts: " ".join(["[SL:B", *parts, "]"]))
    strings = intent | st.text() | st.lists(token | st.text(max_size=4), max_size=30).map(" ".join)

    @_many(cases, number)
    @given(text=strings, utterance=st.none() | st.text(max_size=20))
    def check(text: str, utterance: str | None) -> None:
        def work() -> None:
            frame = Frame.parse(text, utterance)
            assert Frame.parse(str(frame), frame.utterance) == frame, "parsing and printing are not inverse"

        _tried(work, outcomes, failures)

    check()
    return {"cases": outcomes.total(), "outcomes": dict(outcomes.most_common()), "failures": failures}


def _bundles(bundle: Path, cases: int, number: int) -> dict[str, Any]:
    """The loader on manifests with other values, zips with flipped bytes, and graphs with other content."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    manifest = json.loads((bundle / "manifest.json").read_text())
    head = (bundle / "decoder.int8.onnx").read_bytes()[:600]  # a whole graph would take too long for so many cases
    small = {name: (bundle / name).read_bytes() for name in ("ontology.json", "tokenizer.json")}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"manifest.json": json.dumps(manifest).encode(), **small}.items():
            archive.writestr(name, content)
    packed = stream.getvalue()
    value = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=8,
    )
    edits = st.tuples(st.integers(0, len(packed) - 1), st.integers(0, 255))
    whole = st.dictionaries(st.sampled_from([*manifest, "scenarios"]), value, max_size=4)

    with tempfile.TemporaryDirectory() as scratch:
        folder, path = Path(scratch) / "bundle", Path(scratch) / "bundle.zip"
        folder.mkdir()
        for name, content in small.items():
            (folder / name).write_bytes(content)

        @_many(cases, number)
        @given(
            other=whole, flips=st.none() | st.lists(edits, min_size=1, max_size=6), cut=st.integers(0, len(packed)),
            graph=st.binary(max_size=200) | st.integers(0, len(head)).flatmap(lambda n: st.binary(max_size=9).map(lambda b: head[:n] + b)),
        )  # fmt: skip
        def check(other: dict[str, Any], flips: list[tuple[int, int]] | None, cut: int, graph: bytes) -> None:
            if flips is None:
                graphs = {f"{name}.int8.onnx": hashlib.sha256(graph).hexdigest() for name in ("encoder", "decoder")}
                for name in graphs:
                    (folder / name).write_bytes(graph)
                files = {"files": {**manifest["files"], **graphs}}
                (folder / "manifest.json").write_text(json.dumps({**manifest, **files, **other}))
                _tried(lambda: runtime.load(folder), outcomes, failures)
            else:
                damaged = bytearray(packed)
                for place, byte in flips:
                    damaged[place] = byte
                path.write_bytes(damaged[: cut if len(flips) == 1 else None])

                def work() -> None:
                    opened = Bundle(path)
                    for name in small:
                        opened.read(name)

                _tried(work, outcomes, failures)

        check()
    return {"cases": outcomes.total(), "outcomes": dict(outcomes.most_common()), "failures": failures}


def _requests(service: Service, cases: int, number: int, sent: list[Sent]) -> dict[str, Any]:
    """The HTTP application on what schemathesis makes of its OpenAPI document; adds the requests to those ``sent``."""
    app = create_app(service)
    schema = schemathesis.openapi.from_dict(app.openapi())
    operations = [found.ok() for found in schema.get_all_operations()]
    checks = CHECKS.get_by_names(list(PASSED))
    outcomes: dict[str, Counter[str]] = {}
    failures: list[str] = []
    loop = asyncio.new_event_loop()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")
    rest = (1 - sum(SHARES.values())) / (len(operations) - len(SHARES))

    def send(case: Any, counts: Counter[str]) -> None:
        told = case.as_transport_kwargs(base_url="http://test")
        request = {key: told[key] for key in ("method", "url", "params", "json", "headers") if key in told}
        if isinstance(told.get("data"), bytes | str):
            request["content"] = told["data"]
        try:
            reply = loop.run_until_complete(client.request(**request))
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError, ValueError):
            return  # no client can send it
        counts[str(reply.status_code)] += 1
        told = reply.request
        sent.append(Sent(told.method, told.url.raw_path, told.content, [(k.lower(), v) for k, v in told.headers.raw]))
        try:
            case.validate_response(reply, checks=checks)
        except Exception as error:
            if len(failures) < 20:
                failures.append(f"{case.method} {case.path}: {error}"[:600])

    for place, operation in enumerate(operations):
        counts = outcomes.setdefault(operation.path, Counter())
        wanted = round(cases * SHARES.get(operation.path, rest))
        for mode, goal in ((GenerationMode.POSITIVE, wanted // 2), (GenerationMode.NEGATIVE, wanted)):
            # A document that leaves little to vary is used up early; then it is asked again.
            for attempt in range(200):
                before = counts.total()
                if before >= goal:
                    break
                _send_all(
                    operation,
                    mode,
                    goal - before,
                    number + 1000 * place + attempt,
                    lambda case, counts=counts: send(case, counts),
                )
                if counts.total() == before:
                    break
    loop.run_until_complete(client.aclose())
    loop.close()
    total = sum(counts.total() for counts in outcomes.values())
    return {"cases": total, "outcomes": {path: dict(c) for path, c in outcomes.items()}, "failures": failures}


def _mutations(fixed: Service, parsing: Service, cases: int, number: int, sent: list[Sent]) -> dict[str, Any]:
    """The HTTP application on requests with random changes; every 20th goes to the server that parses."""
    apps = [create_app(parsing), *[create_app(fixed)] * 19]
    random = Random(number)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []

    async def run() -> None:
        for place in range(cases):
            request = _mutated(random.choice(sent), random)
            try:
                status, body = await _answer(apps[place % len(apps)], request)
                outcomes[str(status)] += 1
                if status >= 400:
                    ErrorAnswer.model_validate_json(body)
                assert status < 500, f"status {status}"
            except Exception as error:
                if len(failures) < 20:
                    failures.append(f"{request}: {type(error).__name__}: {error}"[:600])

    asyncio.run(run())
    return {"cases": cases, "outcomes": dict(outcomes.most_common()), "failures": failures}


def _mutated(request: Sent, random: Random) -> Sent:
    body, method, path, headers = bytearray(request.body), request.method, request.path, list(request.headers)
    for _ in range(random.randint(1, 6)):
        place, other = random.randint(0, len(body)), random.randint(0, len(body))
        kind = random.randrange(8)
        if kind == 0 and place < len(body):
            body[place] = random.randrange(256)
        elif kind == 1:
            body[place:place] = random.choice(_TOKENS)
        elif kind == 2:
            del body[min(place, other) : max(place, other)]
        elif kind == 3:
            body[place:place] = body[min(place, other) : max(place, other)][:4096]
        elif kind == 4 and headers:
            name, value = headers[random.randrange(len(headers))]
            changed = random.choice(
                [b"", value * 2, b"application/json; charset=utf-7", b"-1", b"99999999999", b"text/plain"]
            )
            headers.append((name, changed))
        elif kind == 5 and not random.randrange(4):
            method = random.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "X"])
        elif kind == 6 and not random.randrange(4):
            path += random.choice([b"/", b"?text=a", b"/..", b"%00", b"%ff", b"//", b"/%2e%2e/%2e%2e/etc/passwd"])
        else:
            body[place:place] = bytes(random.choices(range(256), k=random.randint(1, 8)))
    return Sent(method, path, bytes(body), headers)


async def _answer(app: Any, request: Sent) -> tuple[int, bytes]:
    """Status and body that an application answers, given a request as a server would give it."""
    path, _, query = request.path.partition(b"?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request.method, "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"), "raw_path": path, "query_string": query, "root_path": "",
        "headers": request.headers, "client": ("test", 1), "server": ("test", 80),
    }  # fmt: skip
    status, parts = 0, []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return status, b"".join(parts)


def _send_all(operation: Any, mode: GenerationMode, cases: int, number: int, send: Callable[[Any], None]) -> None:
    """Sends so many requests to an operation, unless its document leaves nothing to get wrong."""

    @_many(cases, number)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        send(case)

    with suppress(Unsatisfiable):
        check()


if __name__ == "__main__":
    main()
