"""Do all ways to a bundle give the same frames? On every row of a split, compared with the runtime.

    python -m benchmarks.assistants_agreement --bundles models/conv-nar-topv2 --data-root $TOPV2_DIR

Every way is given the same utterances in the same groups. The record is added to, bundle by bundle and way by way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import structlog
from rich.progress import track

from assistants import runtime
from assistants.serving.app import create_app
from assistants.serving.limits import Limits
from assistants.serving.service import Service
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_json
from lightning_modules.evaluation import environment, spread

#: Utterances that are given to a way at once.
GROUP = 64
#: Groups of utterances through a bundle to bracketed frames.
Way = Callable[[Path, list[list[str]]], Iterator[str | None]]


def through_runtime(bundle: Path, groups: list[list[str]]) -> Iterator[str | None]:
    """The runtime in this process."""
    parser = runtime.load(bundle)
    for group in groups:
        for hypotheses in parser.parse(group):
            yield str(hypotheses[0].frame) if hypotheses[0].frame else None


def through_server(bundle: Path, groups: list[list[str]]) -> Iterator[str | None]:
    """The HTTP application, ``POST /parse/batch``; requests and answers are bytes as over a network."""
    app = create_app(Service([bundle], Limits(rate=None, timeout=600)))
    transport = httpx.ASGITransport(app)
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=600)
        for group in groups:
            reply = runner.run(client.post("/parse/batch", json={"texts": group}))
            reply.raise_for_status()
            for result in reply.json()["results"]:
                yield result["hypotheses"][0]["text"]
        runner.run(client.aclose())


#: Each way that is compared with the runtime.
WAYS: dict[str, Way] = {"server": through_server}


def main() -> None:
    """Parses in all ways, compares, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundles", type=Path, nargs="+", default=sorted(Path("models").glob("*-topv2")))
    options.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS])
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--rows", type=int, help="about so many rows, evenly spread (default: all)")
    options.add_argument("--out", type=Path, default=Path("results/assistants/agreement.json"))
    given = options.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    root = data_root(given.data_root)
    examples = spread(read_split(root, given.split), given.rows)
    texts = [example.utterance for example in examples]
    groups = [texts[begin : begin + GROUP] for begin in range(0, len(texts), GROUP)]
    record = json.loads(given.out.read_text()) if given.out.exists() else {"bundles": {}}
    for bundle in given.bundles:
        expected = list(track(through_runtime(bundle, groups), description=bundle.name, total=len(texts)))
        entry = {}
        for name in given.ways:
            found = list(track(WAYS[name](bundle, groups), description=name, total=len(texts)))
            differing = sum(a != b for a, b in zip(expected, found, strict=True))
            entry[name] = {"utterances": len(texts), "frames_that_differ_from_the_runtime": differing}
            print(bundle.name, name, entry[name])
        kept = record["bundles"].get(bundle.name, {})
        manifest = json.loads((bundle / "manifest.json").read_text())
        record["bundles"][bundle.name] = {**kept, **entry, "files": manifest["files"]}
    record |= {"split": given.split, "data_checksum": corpus_checksum(root, given.split), "environment": environment()}
    write_json(given.out, record)


if __name__ == "__main__":
    main()
