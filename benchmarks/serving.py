"""A server under load: throughput and latency by connections, with micro-batching and without; limits; memory.

    python -m benchmarks.serving --bundle models/conv-nar-topv2 --data-root $TOPV2_DIR

The client is wrk (https://github.com/wg/wrk), a process of its own on the same machine, over the loopback interface. Client and
server share the processor's cores, and whatever else ran meanwhile shared them too: the record has the load averages.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_json
from lightning_modules.evaluation import environment

CONNECTIONS = (1, 8, 64, 256)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", type=Path, default=Path("models/conv-nar-topv2"))
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--utterances", type=int, default=2000, help="different ones, drawn from the split")
    options.add_argument("--seconds", type=int, default=20, help="of each measurement of throughput")
    options.add_argument("--threads", type=int, default=1, help="of the server, with batching and without")
    options.add_argument("--batch", type=int, default=32, help="utterances parsed together at most")
    options.add_argument("--memory-requests", type=int, default=200_000, help="requests over which memory is watched")
    options.add_argument("--memory-seconds", type=int, default=300, help="but no longer than this")
    options.add_argument("--out", type=Path, default=Path("results/assistants/load.json"))
    given = options.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("this measurement needs wrk (apt-get install wrk)")
    root = data_root(given.data_root)
    rows = read_split(root, given.split)
    texts = [row.utterance for row in random.Random(0).sample(rows, min(given.utterances, len(rows)))]
    result: dict[str, Any] = {
        "bundle": given.bundle.name, "threads": given.threads, "cores": os.cpu_count(), "seconds": given.seconds,
        "utterances": len(texts), "load_average_before": os.getloadavg(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "post.lua"
        script.write_text(_script(texts), encoding="utf-8")

        def server(*words: str) -> Any:
            base = ("--bundle", str(given.bundle), "--threads", str(given.threads), "--port", "0", "--timeout", "60")
            return served(Path(scratch), *base, *words)

        for name, batch in (("batching", given.batch), ("no_batching", 1)):
            with server("--max-batch", str(batch), "--rate", "none") as (port, process):
                _load(port, 8, 3, script)  # warm-up
                result[name] = {c: _timed(process.pid, port, c, given.seconds, script) for c in CONNECTIONS}
                print(name, json.dumps(result[name], indent=1), flush=True)
            time.sleep(1)
        both = (result["batching"][64], result["no_batching"][64])
        result["times_the_throughput_at_64"] = round(both[0]["per_second"] / both[1]["per_second"], 2)
        with server("--max-waiting", "16", "--max-texts", "16", "--rate", "none") as (port, _):
            result["beyond_the_queue_of_16"] = _load(port, 256, 10, script)
        with server("--rate", "20/second") as (port, _):
            result["beyond_20_a_second"] = _load(port, 64, 10, script)
        with server("--max-connections", "32", "--rate", "none") as (port, _):
            result["beyond_32_connections"] = _load(port, 64, 10, script)
        with server("--rate", "none") as (port, process):
            result["memory"] = _memory(port, process.pid, script, given.memory_requests, given.memory_seconds)
    result |= {
        "load_average_after": os.getloadavg(), "data_checksum": corpus_checksum(root, given.split),
        "client": "wrk, 1 thread, keep-alive", "environment": environment(),
    }  # fmt: skip
    write_json(given.out, result)
    print(json.dumps({key: value for key, value in result.items() if key != "environment"}, indent=1))


def _script(texts: list[str]) -> str:
    """wrk's script: one utterance after another as ``POST /parse``."""
    bodies = ",\n".join(f"[==[{json.dumps({'text': text})}]==]" for text in texts)
    return (
        f"local bodies = {{\n{bodies}\n}}\nlocal i = 0\n"
        'local headers = {["Content-Type"] = "application/json"}\n'
        "request = function()\n  i = i % #bodies + 1\n"
        '  return wrk.format("POST", "/parse", headers, bodies[i])\nend\n'
    )


@contextmanager
def served(folder: Path, *words: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server in a process of its own, on a port that is free."""
    log = folder / "log"
    with open(log, "wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", "scripts.cli", "serve", *words], stderr=stream)
    try:
        while not (found := re.search(r'"http": "http://[^"]*:(\d+)"', log.read_text())):
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        yield int(found[1]), process
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    finally:
        process.kill()


def _load(port: int, connections: int, seconds: int, script: Path) -> dict[str, Any]:
    """What wrk and the server say of a load."""
    before = _statuses(port)
    words = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency", "-s", str(script)]
    done = subprocess.run(["wrk", *words, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True)
    found = {
        f"p{percent}_ms": round(1000 * float(number) * _SECONDS[unit], 2)
        for percent, number, unit in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)", done.stdout, re.MULTILINE)
    }
    errors = re.search(r"Socket errors: (.*)", done.stdout)
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    total = int(re.search(r"(\d+) requests in", done.stdout)[1])  # type: ignore[index]
    per_second = float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1])  # type: ignore[index]
    after = _statuses(port)
    statuses = {
        status: count - before.get(status, 0) for status, count in after.items() if count != before.get(status, 0)
    }
    return {
        "per_second": round(per_second, 1), **found, "requests": total, "not_2xx": int(other[1]) if other else 0,
        "socket_errors": errors[1] if errors else None, "statuses": statuses,
    }  # fmt: skip


def _timed(pid: int, port: int, connections: int, seconds: int, script: Path) -> dict[str, Any]:
    """As :func:`_load`, with the processor's time that the server took, which a busy machine changes less."""
    before = _processor_seconds(pid)
    found = _load(port, connections, seconds, script)
    spent = _processor_seconds(pid) - before
    return {**found, "server_cpu_ms_a_request": round(1000 * spent / max(1, found["requests"]), 2)}


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, see proc(5)


def _statuses(port: int) -> dict[str, int]:
    """Answers of ``/parse`` so far by status, as the server counts them."""
    for _ in range(100):
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
                text = reply.read().decode()
            break
        except OSError:  # limits of connections and rate hold for this client too
            time.sleep(0.1)
    found = re.findall(r'framefill_requests_total\{path="/parse",status="(\d+)"\} ([\d.e+]+)', text)
    return {status: int(float(count)) for status, count in found}


def _memory(port: int, pid: int, script: Path, requests: int, seconds: int) -> dict[str, Any]:
    """Resident memory of the server while it answers, in MB by the number of requests answered."""
    began, points = time.monotonic(), []
    while True:
        answered = _statuses(port).get("200", 0)
        points.append([answered, _resident(pid)])
        if answered >= requests or time.monotonic() - began > seconds:
            break
        _load(port, 64, 15, script)
    # The first load makes every buffer as large as it gets; what grows afterwards would grow for ever.
    return {
        "requests": points[-1][0],
        "mb_by_requests": points,
        "mb_grown_after_the_first_load": round(points[-1][1] - points[1][1], 1),
    }


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


if __name__ == "__main__":
    main()
