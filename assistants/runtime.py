"""Parses with an exported bundle; needs neither torch nor transformers, and faiss only for a bundle with a bank.

>>> from assistants import runtime
>>> parser = runtime.load("models/conv-nar-topv2")
>>> str(parser.parse(["wake me at 6"])[0][0].frame)
'[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]'
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from assistants.bundle import PRECISIONS, Bundle, made_by_anyone
from assistants.onnx_backend import BundleParser, NARBundleParser, OnnxBackend
from frames.errors import BundleError
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from parsers.aliases import known_options
from parsers.confidence import BACKGROUND, Background, Confidence
from parsers.nar import DecodingConfig

#: Seconds before a bundle that cannot be read is looked at again; a folder that is being replaced is away for much less.
PAUSE = 0.05


def load(path: Path | str, precision: str | None = None, threads: int = 1) -> BundleParser:
    """Opens a bundle, every file verified by its checksum.

    Args:
        path: folder or ``.zip`` written by ``framefill export``.
        precision: ``int8``, ``int4`` or ``fp32``; None takes the first of them that the bundle has.
        threads: groups of utterances that are parsed side by side, 0 for one a core.

    Raises:
        BundleError: the bundle is missing, corrupted, of another format, or lacks that precision.
    """
    with made_by_anyone(path):
        bundle: Bundle | None = None
        try:
            bundle = Bundle(path)
            return _load(bundle, path, precision, threads)
        except BundleError:
            if not _replaced(path, bundle):
                raise
        return _load(Bundle(path), path, precision, threads)


def _replaced(path: Path | str, opened: Bundle | None) -> bool:
    """Whether another process has replaced a bundle that could not be read; None for one that could not be opened."""
    time.sleep(PAUSE)
    try:
        now = Bundle(path)
    except BundleError:
        return False
    return opened is None or now.manifest != opened.manifest


def _load(bundle: Bundle, path: Path | str, precision: str | None, threads: int) -> BundleParser:
    language_model = "language_model" in bundle.manifest
    if precision is None:
        first = "early" if language_model else "encoder"
        precision = next((name for name, suffix in PRECISIONS.items() if bundle.has(first + suffix)), "int8")
    if precision not in PRECISIONS:
        raise BundleError("E327", f"precision {precision!r} is not known.", remedy=f"One of {', '.join(PRECISIONS)}.")
    suffix = PRECISIONS[precision]
    names = ("early", "late", "head") if language_model else ("encoder", "decoder")
    graphs = {name: bundle.read(name + suffix) for name in names}
    tokenizer = PieceTokenizer.from_json(bundle.read("tokenizer.json").decode(), str(path))
    ontology = Ontology.from_dict(json.loads(bundle.read("ontology.json")), str(path))
    parser: BundleParser
    try:
        decoding = known_options(DecodingConfig, bundle.manifest["decoding"])
        if decoding.get("num_rescored"):
            graphs["rescorer"] = bundle.read("rescorer" + suffix)
        if language_model:
            from assistants.layerskip import LayerSkipBundleParser

            parser = LayerSkipBundleParser.of(bundle.manifest, graphs, tokenizer, ontology)
        elif "scenarios" in bundle.manifest:
            from assistants.raf import RAFBundleParser

            parser = RAFBundleParser.of(bundle, suffix, graphs, tokenizer, ontology)
        else:
            backend = OnnxBackend(graphs)
            form, options = bundle.manifest["form"], DecodingConfig(**decoding)
            parser = NARBundleParser(backend, tokenizer, ontology, form, options)
    except KeyError as error:
        raise BundleError("E331", f"the manifest lacks {error}.", where=str(path), remedy="Export again.") from error
    if "confidence" in bundle.manifest and isinstance(parser, NARBundleParser):
        background = Background.from_bytes(bundle.read(BACKGROUND), str(path))
        parser.confidence = Confidence.from_dict(bundle.manifest["confidence"], background, str(path))
    parser.manifest, parser.precision = bundle.manifest, precision
    parser.workers = threads or os.cpu_count() or 1
    return parser
