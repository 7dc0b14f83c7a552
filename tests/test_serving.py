"""The HTTP application in this process; ``test_servers.py`` starts the command."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from assistants import runtime
from assistants.answers import answer
from assistants.serving import service as serving
from assistants.serving.app import create_app
from assistants.serving.service import Service
from assistants.shapes import models
from assistants.shapes.names import Names
from data.topv2.reader import read_split
from frames.errors import BundleError, UsageError

TEXT = "Remind me to call mum at 6"


@pytest.fixture(scope="module")
def service(repository: Path) -> Service:
    return Service([repository / "models" / "conv-nar-topv2"])


@pytest.fixture
def limited(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Service]:
    """The service with other limits, for one test."""

    def limit(**limits: Any) -> Service:
        monkeypatch.setattr(service, "limits", replace(service.limits, **limits))
        monkeypatch.setattr(service.bundle().batcher, "_most", service.limits.waiting)
        return service

    return limit


def talk(app: Any, work: Callable[[httpx.AsyncClient], Awaitable[None]], **headers: str) -> None:
    async def run() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            await work(client)

    asyncio.run(run())


def test_the_fixed_shapes(service: Service):
    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.post("/parse", json={"text": TEXT, "n_best": 2})
        value = reply.json()
        models.ParseAnswer.model_validate(value)
        assert reply.status_code == 200 and list(value) == ["text", "hypotheses", "abstained"]
        assert [list(found) for found in value["hypotheses"]] == [["frame", "text", "probability"]] * 2
        several = (await client.post("/parse/batch", json={"texts": [TEXT, "play queen"]})).json()
        assert list(several) == ["results"] and [one["text"] for one in several["results"]] == [TEXT, "play queen"]
        (alone, _), (among,) = value["hypotheses"], several["results"][0]["hypotheses"]
        assert among["frame"] == alone["frame"] and among["probability"] == pytest.approx(
            alone["probability"], abs=1e-5
        )
        assert (await client.post("/parse/batch", json={"texts": []})).json() == {"results": []}
        rasa = (await client.post("/model/parse", json={"text": TEXT, "message_id": "7", "lang": "en"})).json()
        models.RasaAnswer.model_validate(rasa)
        assert list(rasa) == ["text", "intent", "entities", "intent_ranking"]
        assert rasa["intent"]["name"] == "CREATE_REMINDER" == rasa["intent_ranking"][0]["name"]
        details = (await client.post("/parse", json={"text": TEXT, "details": True})).json()["hypotheses"][0]
        assert details["drawing"].startswith("<svg") and details["trace"]["lengths"]
        assert (await client.get("/bundles")).json()["bundles"][0]["name"] == "conv-nar-topv2"
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}

    talk(create_app(service), work)


def test_the_server_gives_the_frames_of_the_runtime(service: Service, corpus: Path, repository: Path):
    texts = [example.utterance for example in read_split(corpus, "eval")][:48] + ["😀 wake me", "ذكرني غدا", "]"]
    parser = runtime.load(repository / "models" / "conv-nar-topv2")
    together = [str(found[0].frame) for found in parser.parse(texts)]
    alone = [str(parser.parse([text])[0][0].frame) for text in texts]

    async def work(client: httpx.AsyncClient) -> None:
        replies = await asyncio.gather(*(client.post("/parse", json={"text": text}) for text in texts))
        assert [reply.json()["hypotheses"][0]["text"] for reply in replies] == alone
        batch = await client.post("/parse/batch", json={"texts": texts})
        assert [one["hypotheses"][0]["text"] for one in batch.json()["results"]] == together

    talk(create_app(service), work)


def test_improbable_readings_are_refused(service: Service, monkeypatch: pytest.MonkeyPatch):
    parser = service.bundle().parser
    parse = parser.parse

    def calibrated(texts, n_best=1):
        return [[replace(h, probability=0.4) for h in found] for found in parse(texts, n_best)]

    monkeypatch.setattr(parser, "parse", calibrated)
    monkeypatch.setattr(service.bundle(), "_threshold", 0.5)

    def refused() -> float:
        labels = {"bundle": "conv-nar-topv2", "outcome": "abstained"}
        return service.metrics.registry.get_sample_value("framefill_utterances_total", labels) or 0.0

    before = refused()

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.post("/parse", json={"text": TEXT})).json()["abstained"] is True
        rasa = (await client.post("/model/parse", json={"text": TEXT})).json()
        assert rasa["intent"] == {"name": None, "confidence": 0.4} and rasa["entities"] == []
        assert refused() == before + 2

    talk(create_app(service), work)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/parse", b'{"text": ""}', 422, "E410"),
        ("/parse", b'{"text": " \\t"}', 422, "E410"),
        ("/parse", b'{"text": "' + b"a " * 490 + b'b"}', 200, None),
        ("/parse", b'{"text": "' + b"a, " * 300 + b'"}', 422, "E411"),
        ("/parse", b'{"text": "' + b"a" * 1001 + b'"}', 422, "E531"),
        ("/parse/batch", json.dumps({"texts": ["a"] * 257}).encode(), 422, "E530"),
        ("/parse/batch", b'{"texts": ["a", "b", ""]}', 422, "E410"),
        ("/parse", b'{"text": "\\ud800"}', 422, "E412"),
        ("/parse", b'{"text": 7}', 422, "E528"),
        ("/parse", b'{"text": "a", "n_best": NaN}', 422, "E528"),
        ("/parse", b'{"text": "a", "n_best": 0}', 422, "E528"),
        ("/parse", b'{"text": "a", "n_best": 11}', 422, "E528"),
        ("/parse", b'{"text": "a", "colour": "red"}', 422, "E528"),
        ("/parse", b'{"text": "a", "bundle": "none"}', 422, "E529"),
        ("/parse", b'{"text"', 422, "E528"),
        ("/parse", b"\xff\xfe", 422, None),
        ("/parse", b"[" * 100_000, 422, None),
        ("/parse", b"", 422, "E528"),
        ("/parse", b" " * (1 << 20) + b"1", 413, "E523"),
        ("/nothing", b"", 404, ""),
        ("/healthz", b"", 405, ""),
    ],
)
def test_bad_requests_are_refused(service: Service, path: str, body: bytes, status: int, code: str | None):
    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert reply.status_code in (status, 400 if code is None else status), reply.text
        if reply.status_code != 200:
            models.ErrorAnswer.model_validate(reply.json())
            assert code is None or reply.json()["error"]["code"] == code
            assert len(reply.text) < 500, "an error repeats what was sent"

    talk(create_app(service), work)


@pytest.mark.parametrize(
    ("name", "long", "code"),
    [("conv-nar-topv2", "a, " * 300, "E411"), ("layerskip-topv2", "wake me at 6 and " * 20, "E487")],
)
def test_a_bad_utterance_fails_its_own_request_alone(
    name: str, long: str, code: str, repository: Path, monkeypatch: pytest.MonkeyPatch
):
    service = Service([repository / "models" / name])
    parser = service.bundle().parser
    good = ["play queen", "wake me at 6", "snooze", "any rain today"]
    expected = [str(parser.parse([text])[0][0].frame) for text in good]
    bad, codes = [" ", "\ud800", long], ["E410", "E412", code]
    # A language model finds that out while it parses, when all utterances are cut into pieces.
    monkeypatch.setattr(parser, "context", 80, raising=False)

    async def work(client: httpx.AsyncClient) -> None:
        async def ask(path: str, body: object) -> httpx.Response:
            return await client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})

        # The first is parsed alone; the others have come when that is done, and are parsed together.
        asked = ["play it", good[0], bad[0], good[1], bad[1], good[2], bad[2], good[3]]
        one_by_one, several, failing = await asyncio.gather(
            asyncio.gather(*(ask("/parse", {"text": text}) for text in asked)),
            ask("/parse/batch", {"texts": good}),
            ask("/parse/batch", {"texts": [*good, bad[2]]}),
        )
        assert [reply.json()["hypotheses"][0]["text"] for reply in one_by_one[1::2]] == expected
        assert [reply.json()["error"]["code"] for reply in one_by_one[2::2]] == codes
        assert [reply.status_code for reply in one_by_one[2::2]] == [422] * 3
        assert [found["hypotheses"][0]["text"] for found in several.json()["results"]] == expected
        assert (failing.status_code, failing.json()["error"]["where"]) == (422, "texts[4]")

    talk(create_app(service), work)
    batches = [
        service.metrics.registry.get_sample_value(f"framefill_batch_utterances_{part}", {"bundle": name, **size})
        for part, size in (("bucket", {"le": "8.0"}), ("count", {}))
    ]
    assert batches[0] < batches[1], "good and bad were parsed together"  # type: ignore[operator]


def test_a_body_that_tells_no_length_is_measured(limited: Callable[..., Service]):
    async def work(client: httpx.AsyncClient) -> None:
        async def parts():
            for _ in range(100):
                yield b" " * 1000

        reply = await client.post("/parse", content=parts(), headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "E523")

    talk(create_app(limited(body=5000)), work)


def test_a_body_that_never_comes_ends_in_time(limited: Callable[..., Service]):
    async def work(client: httpx.AsyncClient) -> None:
        async def parts():
            yield b"{"
            await asyncio.sleep(5)

        reply = await client.post("/parse", content=parts())
        assert (reply.status_code, reply.json()["error"]["code"]) == (408, "E532")

    talk(create_app(limited(timeout=0.05)), work)


def test_time_rate_and_queue_have_limits(limited: Callable[..., Service], monkeypatch: pytest.MonkeyPatch):
    service = limited(timeout=0.2, waiting=2, rate="5/minute")
    slow = asyncio.Event()

    async def never(jobs):
        await slow.wait()

    async def work(client: httpx.AsyncClient) -> None:
        monkeypatch.setattr(service.bundle().batcher, "_run", never)
        replies = await asyncio.gather(*(client.post("/parse", json={"text": "a"}) for _ in range(7)))
        codes = sorted((reply.status_code, reply.json()["error"]["code"]) for reply in replies)
        assert codes == [(429, "E524")] * 2 + [(503, "E525")] * 2 + [(504, "E526")] * 3
        assert all("retry-after" in reply.headers for reply in replies if reply.status_code in (429, 503))
        assert (await client.get("/healthz")).status_code == 200, "probes have no rate"
        slow.set()

    talk(create_app(service), work)
    service.bundle().batcher._free = 1
    assert service.bundle().batcher.waiting == 0


def test_a_token_is_asked_for(service: Service):
    async def work(client: httpx.AsyncClient) -> None:
        for words in (
            {},
            {"authorization": "Bearer no"},
            {"authorization": "secret"},
            {"authorization": "Basic secret"},
        ):
            for path in ("/parse", "/parse/batch", "/model/parse", "/reload", "/nothing"):
                reply = await client.post(path, json={"text": TEXT}, headers=words)
                assert (reply.status_code, reply.json()["error"]["code"]) == (401, "E527")
            assert (await client.get("/metrics", headers=words)).status_code == 401
        for path in ("/", "/healthz", "/readyz", "/static/page.js", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        reply = await client.post("/parse", json={"text": TEXT}, headers={"authorization": "bearer secret"})
        assert reply.status_code == 200

    talk(create_app(service, "secret"), work)


def test_a_server_without_a_token_is_not_reloaded_from_outside(service: Service):
    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.post("/reload")
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "E534")

    talk(create_app(service), work)


def test_a_fault_of_the_parser_is_told_without_its_text(service: Service, monkeypatch: pytest.MonkeyPatch):
    def fail(texts, n_best):
        raise KeyError("private")

    monkeypatch.setattr(service.bundle().parser, "parse", fail)

    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.post("/parse", json={"text": TEXT})
        assert reply.status_code == 500 and "private" not in reply.text
        models.ErrorAnswer.model_validate(reply.json())

    talk(create_app(service), work)


def test_log_lines_tell_the_utterance_only_if_asked_to(service: Service, capsys: pytest.CaptureFixture[str]):
    async def work(client: httpx.AsyncClient) -> None:
        await client.post("/parse", json={"text": "wake Wilhelmina"})
        await client.post("/wilhelmina?text=Wilhelmina", json={"text": "wake Wilhelmina"})
        await client.post("/parse", json={"text": "wake Wilhelmina", "bundle": "Wilhelmina"})

    talk(create_app(service), work)
    quiet = capsys.readouterr()
    assert "request" in quiet.out + quiet.err and "ilhelmina" not in quiet.out + quiet.err
    talk(create_app(service, log_text=True), work)
    loud = capsys.readouterr()
    assert "wake Wilhelmina" in loud.out + loud.err


def test_the_page_lets_nothing_from_elsewhere_in(service: Service):
    async def work(client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        for path in ("/", "/static/page.js", "/static/page.css", "/static/icon.svg"):
            reply = await client.get(path)
            assert reply.status_code == 200 and reply.headers["x-content-type-options"] == "nosniff"
            assert "://" not in reply.text.replace("http://www.w3.org/2000/svg", "")
        for path in ("/static/none", "/static/..%2Fapp.py", "/static/"):
            assert (await client.get(path)).status_code == 404

    talk(create_app(service), work)


def test_metrics_have_few_labels(service: Service):
    async def work(client: httpx.AsyncClient) -> None:
        for number in range(20):
            await client.get(f"/nothing/{number}")
        text = (await client.get("/metrics")).text
        assert 'path="other",status="404"' in text and "/nothing" not in text
        assert 'framefill_waiting_utterances{bundle="conv-nar-topv2"} 0.0' in text

    talk(create_app(service), work)


def test_reloading_drops_no_request(repository: Path, tmp_path: Path):
    bundle = shutil.copytree(repository / "models" / "conv-nar-topv2", tmp_path / "b")
    service = Service([bundle], names=Names({"CREATE_ALARM": "alarm"}))
    before = service.bundle().parser

    async def work(client: httpx.AsyncClient) -> None:
        asking = asyncio.gather(*(client.post("/parse", json={"text": TEXT}) for _ in range(60)))
        await asyncio.sleep(0.01)
        assert (await client.post("/reload")).json() == {"b": "reloaded"}
        assert service.bundle().parser is not before
        assert {reply.status_code for reply in await asking} == {200}
        (bundle / "ontology.json").write_text("{}")
        assert "E325" in (await client.post("/reload")).json()["b"]
        assert (await client.post("/parse", json={"text": TEXT})).status_code == 200
        text = (await client.get("/metrics")).text
        assert 'outcome="failed"} 1.0' in text and 'outcome="reloaded"} 1.0' in text

    talk(create_app(service, "t"), work, authorization="Bearer t")


def test_a_bundle_that_cannot_parse_keeps_no_other_from_being_reloaded(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    paths = [shutil.copytree(repository / "models" / "conv-nar-topv2", tmp_path / name) for name in ("a", "b")]
    service = Service(paths)
    load, before = runtime.load, service.bundle("b").parser

    def fail() -> None:
        raise AssertionError("an index without vectors")

    def damaged(path, precision):
        parser = load(path, precision)
        if path.name == "a":
            monkeypatch.setattr(parser, "warm_up", fail)
        return parser

    monkeypatch.setattr(runtime, "load", damaged)
    outcome = asyncio.run(service.reload())
    assert "E394" in outcome["a"] and outcome["b"] == "reloaded"
    assert service.bundle("b").parser is not before


def test_a_threshold_needs_probabilities(repository: Path, tmp_path: Path):
    bundle = shutil.copytree(repository / "models" / "conv-nar-topv2", tmp_path / "b")
    service = Service([bundle], threshold=0.99)
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["confidence"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert "E556" in asyncio.run(service.reload())["b"] and service.bundle().threshold == 0.99
    with pytest.raises(UsageError, match=r"/b: .*E556|E556.*/b: "):
        Service([bundle], threshold=0.99)
    with capture_logs() as told:
        uncalibrated = Service([bundle]).bundle()
    assert uncalibrated.threshold is None and told[0]["log_level"] == "warning"
    with pytest.raises(UsageError, match="E556"):
        answer(uncalibrated.parser, [TEXT], threshold=0.5)
    assert not answer(uncalibrated.parser, ["asdf qwerty zxcv"])[0].abstained


def test_what_cannot_be_served_is_refused(service: Service, repository: Path, tmp_path: Path, monkeypatch):
    with pytest.raises(BundleError, match="E320"):
        Service([tmp_path / "none"])
    monkeypatch.setattr(serving.ServedBundle, "load", lambda self: service.bundle().parser)
    path = repository / "models" / "conv-nar-topv2"
    with pytest.raises(UsageError, match="E533"):
        Service([path, path])
    with pytest.raises(UsageError, match="E522"):
        Service([path], names=Names({"SET_ALRM": "x"}))
