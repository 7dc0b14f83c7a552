"""``framefill serve`` as a process: signals, Wyoming, and the page in a real browser."""

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import httpx
import pytest
from wyoming.asr import Transcript
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info, SelectProgram
from wyoming.intent import Intent, NotRecognized, Recognize
from wyoming.ping import Ping, Pong

from assistants.serving.limits import Limits
from assistants.serving.server import _config, _Server, listening
from assistants.serving.service import Service
from assistants.serving.wyoming import WyomingServer
from assistants.shapes.names import Names
from frames.errors import UsageError
from scripts.cli import main
from scripts.commands.common import load_parser
from tests.training import environment

TEXT = "Remind me to call mum at 6"
#: Seconds that a busy machine may need to start a server.
PATIENCE = 60


@dataclass
class Server:
    """A running command."""

    process: subprocess.Popen
    log: Path
    port: int

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_for(self, event: str) -> dict:
        for _ in range(PATIENCE * 20):
            found = [line for line in self.lines() if line["event"] == event]
            if found:
                return found[-1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


@contextmanager
def served(repository: Path, folder: Path, *words: str, **variables: str) -> Iterator[Server]:
    log = folder / "log"
    command = [sys.executable, "-m", "scripts.cli", "serve", "--port", "0", *words]
    with open(log, "w") as stream:
        variables = {**environment(repository), **variables}
        process = subprocess.Popen(command, cwd=repository, env=variables, stderr=stream)
    try:
        server = Server(process, log, 0)
        server.port = int(server.wait_for("listening")["http"].rpartition(":")[2])
        yield server
    finally:
        process.kill()
        process.wait()


def ask(connection: http.client.HTTPConnection, text: str = TEXT) -> tuple[dict, bool]:
    """An answer, and whether the server closes the connection after it."""
    connection.request("POST", "/parse", json.dumps({"text": text}), {"content-type": "application/json"})
    reply = connection.getresponse()
    return json.loads(reply.read()), reply.will_close


def test_connections_send_small_answers_at_once():
    with (
        listening("127.0.0.1", 0) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_server_reloads_and_ends_without_losing_a_request(repository: Path, tmp_path: Path):
    bundle = shutil.copytree(repository / "models" / "conv-nar-topv2", tmp_path / "b")
    answers: list[dict] = []
    lost: list[Exception] = []

    def client(port: int) -> None:
        """Asks one request after another, until the server closes the connection after an answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
            closes = False
            while not closes:
                try:
                    answer, closes = ask(connection)
                    answers.append(answer)
                except Exception as error:
                    lost.append(error)
                    return

    with served(repository, tmp_path, "--bundle", str(bundle)) as server:
        threads = [threading.Thread(target=client, args=(server.port,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("bundle reloaded")
        (bundle / "decoder.int8.onnx").write_bytes(b"")
        server.process.send_signal(signal.SIGHUP)
        assert "E325" in server.wait_for("bundle was not reloaded")["error"]
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(PATIENCE)
        assert server.process.wait(PATIENCE) == 0
        assert not lost and len(answers) >= len(threads)
        assert {answer["hypotheses"][0]["text"].split()[0] for answer in answers} == {"[IN:CREATE_REMINDER"}
        assert server.lines()[-1]["event"] == "ended"
        assert sum(line["event"] == "request" for line in server.lines()) == len(answers)
        assert TEXT not in server.log.read_text()


def over_http(service: Service, app, work) -> None:
    """Does something with a server in this process, given its address."""

    async def run() -> None:
        with listening("127.0.0.1", 0) as place:
            server = _Server(_config(service, app))
            running = asyncio.create_task(server.serve([place]))
            while not server.started:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(PATIENCE):
                await work(place.getsockname())
            server.should_exit = True
            await running

    asyncio.run(run())


async def small_app(scope, receive, send) -> None:
    """Answers as many bytes as the path tells."""
    body = bytes(int(scope["path"][1:]))
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("half", [b"", b"GET /1 HTTP/1.1\r\nHost:", b"GET /12000000 HTTP/1.1\r\n\r\n"])
def test_connections_that_keep_a_server_waiting_are_ended(
    service: Service, half: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service, "limits", Limits(timeout=0.5, connections=5))

    async def status(place) -> int:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://{place[0]}:{place[1]}/1")).status_code

    async def work(place) -> None:
        clients = [await asyncio.open_connection(*place, limit=1) for _ in range(4)]
        for _, writer in clients:
            writer.write(half)
        await asyncio.sleep(0.1)
        assert await status(place) == 503
        while await status(place) == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for _, writer in clients:
            writer.close()

    over_http(service, small_app, work)


def test_the_head_of_a_later_request_has_its_time(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "limits", Limits(timeout=0.3))

    async def work(place) -> None:
        request = b"GET /0 HTTP/1.1\r\n\r\n"
        idle, dripping = [await asyncio.open_connection(*place) for _ in range(2)]
        for reader, writer in (idle, dripping):
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
        began = time.perf_counter()
        dripping[1].write(b"GET /")
        with suppress(ConnectionError):
            while not dripping[0].at_eof():
                dripping[1].write(b"0")
                await dripping[1].drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(dripping[0].read(1), 0.05)
        assert time.perf_counter() - began >= 0.25
        idle[1].write(request)  # an idle connection stays
        assert await idle[0].readuntil(b"\r\n\r\n")
        for _, writer in (idle, dripping):
            writer.close()

    over_http(service, small_app, work)


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(chromium() is None, reason="there is no chromium, chromium-browser or google-chrome on PATH")
def test_the_page_in_a_browser(repository: Path, tmp_path: Path):
    from playwright.sync_api import expect, sync_playwright

    models = repository / "models"
    words = ["--bundle", str(models / "conv-nar-topv2"), "--bundle", str(models / "raf-topv2")]
    variables = {"FRAMEFILL_TOKEN": "secret"}
    with served(repository, tmp_path, *words, **variables) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        faults: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda told: faults.append(told.text) if "Content Security" in told.text else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.port}/")
        expect(page.locator("#status")).to_contain_text("E527")
        page.fill("#token", "secret")
        page.focus("#text")
        page.keyboard.type("😀 remind me to call mum at 6")
        page.keyboard.press("Enter")
        card = page.locator("article[aria-label=conv-nar-topv2]")
        expect(card.locator("mark").nth(1)).to_have_text("call mumTODO")
        assert card.locator("mark").all_text_contents() == ["mePERSON_REMINDED", "call mumTODO", "at 6DATE_TIME"]
        expect(card.locator(".drawing svg text", has_text="IN:CREATE_REMINDER")).to_be_visible()
        assert card.locator(".readings li").count() == 3
        page.locator("input[type=radio]").first.focus()
        page.keyboard.press("ArrowDown")
        expect(card.locator("input[type=radio]").nth(1)).to_be_checked()
        assert (
            card.locator(".drawing").get_attribute("aria-label") == card.locator(".readings code").nth(1).text_content()
        )
        page.locator("input[value=raf-topv2]").check()
        rival = page.locator("article[aria-label=raf-topv2]")
        expect(rival.locator(".scenarios tbody tr").first).to_contain_text("bank")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, "the page is wider than a phone"
        page.fill("#text", "<img src=x onerror=alert(1)> wake me at 6")
        page.keyboard.press("Enter")
        expect(card.locator(".utterance")).to_contain_text("<img src=x")
        assert page.locator("img").count() == 0 and not faults
        assert {url.split("/")[2] for url in asked} == {f"127.0.0.1:{server.port}"}
        page.set_viewport_size({"width": 1100, "height": 800})
        left, right = card.bounding_box(), rival.bounding_box()
        assert left and right and left["y"] == right["y"] and left["x"] < right["x"], "bundles are not side by side"
        browser.close()


@pytest.fixture(scope="module")
def service(repository: Path) -> Service:
    return Service([repository / "models" / "conv-nar-topv2"], names=Names({"CREATE_REMINDER": "HassRemind"}))


def at_home(service: Service, work) -> None:
    async def run() -> None:
        server = WyomingServer(service, "tcp://127.0.0.1:0")
        await server.start()
        try:
            async with asyncio.timeout(PATIENCE):
                await work(server)
        finally:
            await server.close()

    asyncio.run(run())


def test_wyoming_answers_its_own_client(service: Service):
    async def work(server: WyomingServer) -> None:
        async with AsyncTcpClient("127.0.0.1", server.port) as client:
            await client.write_event(Describe().event())
            info = Info.from_event(await client.read_event())
            assert [program.name for program in info.intent] == ["conv-nar-topv2"]
            assert info.intent[0].models[0].languages == ["en"] and info.intent[0].installed
            for request in (
                Transcript(TEXT, context={"conversation_id": "7"}),
                Recognize(TEXT, {"conversation_id": "7"}),
            ):
                await client.write_event(request.event())
                intent = Intent.from_event(await client.read_event())
                assert intent.name == "HassRemind" and intent.context == {"conversation_id": "7"}
                found = {entity.name: entity.value for entity in intent.entities}
                assert found == {"PERSON_REMINDED": "me", "TODO": "call mum", "DATE_TIME": "at 6"}
            await client.write_event(Ping("x").event())
            assert Pong.from_event(await client.read_event()).text == "x"
            await client.write_event(Event("nothing-of-ours"))
            for text in ("", " ", "a" * 5000, None, 7):
                await client.write_event(Event("transcript", {"text": text}))
                assert (await client.read_event()).type == "error"
                assert NotRecognized.is_type((await client.read_event()).type)
            await client.write_event(SelectProgram("none").event())
            await client.write_event(Transcript(TEXT).event())
            assert "E529" in (await client.read_event()).data["text"]

    at_home(service, work)


def test_wyoming_refuses_an_abstention(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("assistants.shapes.home_assistant.accepted", lambda answer, names: None)

    async def work(server: WyomingServer) -> None:
        async with AsyncTcpClient("127.0.0.1", server.port) as client:
            await client.write_event(Transcript("hello").event())
            assert NotRecognized.is_type((await client.read_event()).type)

    at_home(service, work)


def test_wyoming_outlives_bad_clients(service: Service):
    bad = [
        b"[]\n", b"{\n", b"{}\n", b"\xff\n", b"a" * 200_000, b'{"type": "transcript", "data": 7}\n',
        b'{"type": "transcript", "data_length": 99999999999}\n', b'{"type": "x", "payload_length": "9"}\n',
        b'{"type": "select-program"}\n', b"[" * 60_000 + b"\n", b'{"type": "describe", "data_length": 5}\n[1,2]',
    ]  # fmt: skip

    async def work(server: WyomingServer) -> None:
        for line in bad:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(line)
            writer.write_eof()
            with suppress(ConnectionError):  # what the server has not read, it need not
                await reader.read()
            writer.close()
        async with AsyncTcpClient("127.0.0.1", server.port) as client:
            await client.write_event(Transcript(TEXT).event())
            assert Intent.is_type((await client.read_event()).type)

    at_home(service, work)


def test_wyoming_ends_events_that_do_not_come(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "limits", Limits(timeout=0.3, connections=3))

    async def work(server: WyomingServer) -> None:
        halves = [
            b'{"type": "transcript"',
            b'{"type": "transcript", "data_length": 9}\n{',
            b'{"type": "x", "payload_length": 9}\n',
        ]
        clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in halves]
        for (_, writer), half in zip(clients, halves, strict=True):
            writer.write(half)
        await asyncio.sleep(0.1)
        clients.append(await asyncio.open_connection("127.0.0.1", server.port))
        assert await clients[-1][0].read() == b"", "there is a place for a fourth, though none is idle"
        for reader, writer in clients:
            assert await reader.read() == b""
            writer.close()
        assert not server._connections

    at_home(service, work)


def test_wyoming_hangs_up_on_clients_that_take_no_answer(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "limits", Limits(timeout=0.3))

    async def work(server: WyomingServer) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        ping = json.dumps({"type": "ping", "data": {"text": "x" * 60_000}}).encode() + b"\n"
        with suppress(ConnectionError):
            while True:
                writer.write(ping)
                await writer.drain()
                await asyncio.sleep(0)
        assert not server._connections
        writer.close()

    at_home(service, work)


def test_wyoming_gives_the_place_of_the_longest_idle_client(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "limits", Limits(timeout=0.2, connections=2))

    async def work(server: WyomingServer) -> None:
        async with (
            AsyncTcpClient("127.0.0.1", server.port) as first,
            AsyncTcpClient("127.0.0.1", server.port) as second,
        ):
            await first.write_event(Ping("x").event())
            assert Pong.is_type((await first.read_event()).type)
            await asyncio.sleep(0.5)  # an idle client has more than the time of an event
            async with AsyncTcpClient("127.0.0.1", server.port) as third:
                assert await second.read_event() is None
                for client in (first, third):
                    await client.write_event(Ping("x").event())
                    assert Pong.is_type((await client.read_event()).type)

    at_home(service, work)


def test_wyoming_answers_before_it_ends(service: Service):
    async def work(server: WyomingServer) -> None:
        async with AsyncTcpClient("127.0.0.1", server.port) as client, AsyncTcpClient("127.0.0.1", server.port) as idle:
            await client.write_event(Transcript(TEXT).event())
            await asyncio.sleep(0.001)
            while not any(connection.busy for connection in server._connections.values()):
                await asyncio.sleep(0)
            service.draining = True
            await server.close()
            assert Intent.is_type((await client.read_event()).type)
            assert await client.read_event() is None and await idle.read_event() is None

    try:
        at_home(service, work)
    finally:
        service.draining = False


@pytest.mark.parametrize(
    "uri", ["stdio://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "http://127.0.0.1:1", "", "unix://"]
)
def test_wrong_addresses_are_refused(service: Service, uri: str):
    with pytest.raises(UsageError, match="E536"):
        WyomingServer(service, uri)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--timeout", "0"], "E538"), (["--timeout", "nan"], "E538"), (["--threshold", "1.5"], "E539"),
        (["--rate", "fast"], "E478"), (["--max-batch", "0"], "E402"), (["--port", "-1"], "E402"),
        (["--names", "none.yaml"], "E520"), (["--bundle", "none"], "E320"), (["--port", "99999"], "E537"),
        (["--host", "203.0.113.1"], "E537"), (["--max-waiting", "100"], "--max-waiting 100 must be at least 256"),
        (["--max-texts", "600"], "--max-waiting 512 must be at least 600"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(
    repository: Path, words: list[str], code: str, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("assistants.serving.logs.configure", lambda: None)
    given = [] if "--bundle" in words else ["--bundle", str(repository / "models" / "conv-nar-topv2")]
    assert main(["serve", *given, *words]) == 2
    assert code in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert "E477" in (told := capsys.readouterr().err) and "pip install 'framefill[serve]'" in told


def test_wyoming_alone_opens_no_other_port(monkeypatch: pytest.MonkeyPatch, repository: Path):
    called = []

    async def serve(service, app, host, port, wyoming):
        called.append((app is not None, host, port, wyoming))

    monkeypatch.setattr("assistants.serving.server.serve", serve)
    monkeypatch.setattr("assistants.serving.logs.configure", lambda: None)
    monkeypatch.setitem(os.environ, "FRAMEFILL_TOKEN", "")
    bundle = ["--bundle", str(repository / "models" / "conv-nar-topv2"), "--wyoming", "tcp://127.0.0.1:1"]
    assert main(["serve", *bundle]) == 0 and main(["serve", *bundle, "--port", "7"]) == 0
    assert called == [(False, "127.0.0.1", 5005, "tcp://127.0.0.1:1"), (True, "127.0.0.1", 7, "tcp://127.0.0.1:1")]


def test_installed_packages_are_known_by_their_names(monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path):
    """The folder of each package's bundle has the same name."""
    served, names = [], ("alarm_parser", "timer_parser")
    entries = []
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle").symlink_to(repository / "models" / "conv-nar-topv2")
        (tmp_path / name / "__init__.py").write_text(
            "from pathlib import Path\nBUNDLE = Path(__file__).parent / 'bundle'\n"
        )
        entries.append(EntryPoint(name, f"{name}:BUNDLE", "framefill.bundles"))

    async def serve(service, *_):
        served.extend(service.bundles)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **asked: EntryPoints(entries).select(**asked))
    monkeypatch.setattr("assistants.serving.server.serve", serve)
    monkeypatch.setattr("assistants.serving.logs.configure", lambda: None)
    words = [word for name in names for word in ("--bundle", name)]
    folder = str(repository / "models" / "conv-nar-topv2")
    assert main(["serve", *words, "--bundle", folder]) == 0
    assert served == [*names, "conv-nar-topv2"]
    options = Namespace(bundle=Path(names[0]), checkpoint=None, precision=None, threads=None, device="cpu")
    assert load_parser(options)[1]["bundle"] == names[0]


@pytest.mark.parametrize("token", ["secret\n", "schlüssel", "schlüsselà", "鍵"])
def test_a_token_may_end_with_a_line_end_and_have_any_letters(
    token: str, monkeypatch: pytest.MonkeyPatch, repository: Path
):
    statuses = []

    async def serve(service, app, *addresses):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            right = [token.strip().encode()]
            if token != "鍵":
                right.append(token.strip().encode("latin-1"))  # as browsers do
            for sent in (*right, token.strip().encode()[:-1], b"", b"?"):
                reply = await client.get("/bundles", headers={"authorization": b"Bearer " + sent})
                statuses.append(reply.status_code)

    monkeypatch.setattr("assistants.serving.server.serve", serve)
    monkeypatch.setattr("assistants.serving.logs.configure", lambda: None)
    monkeypatch.setitem(os.environ, "FRAMEFILL_TOKEN", token)
    assert main(["serve", "--bundle", str(repository / "models" / "conv-nar-topv2")]) == 0
    assert set(statuses[:-3]) == {200} and statuses[-3:] == [401] * 3
