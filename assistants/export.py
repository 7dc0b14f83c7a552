"""From a checkpoint to a bundle: ONNX graphs in fp32, int8 and int4, checked against torch before anything is kept."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from assistants import banks
from assistants.bundle import FORMAT, PRECISIONS, write_in_parts, write_packed
from assistants.four_bits import BLOCK_SIZE, BLOCK_SIZES, in_four_bits
from assistants.graphs import Graph, difference, graphs, onnx_bytes
from assistants.layerskip_graphs import exit_of, layerskip_graphs, manifest_entry
from assistants.quantization import quantize_graph
from assistants.weight_only import weight_only
from frames.errors import UsageError
from frames.files import write_bytes
from frames.folders import atomic_folder, check_replaceable, write_manifest
from frames.outputs import check_output
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment
from lightning_modules.layerskip import LayerSkipModule
from lightning_modules.parser_module import ParserModule
from lightning_modules.raf import RAFModule
from parsers.nar_model import NARModel
from parsers.raf.model import RAF

LICENCE = "Weights trained by framefill on TOPv2 1.1 (Chen et al. 2020), which is CC-BY-SA; the training rows are not included."


def export(
    checkpoint: Path | str,
    out: Path | str,
    precisions: Sequence[str] = ("fp32", "int8"),
    metrics: dict[str, Any] | None = None,
    decoding: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    largest_file: int | None = None,
    block_size: int = BLOCK_SIZE,
) -> Path:
    """Writes a bundle, whole or not at all.

    Args:
        checkpoint: written by ``framefill fit``.
        out: folder to write, or a path ending in ``.zip``.
        precisions: names in :data:`assistants.bundle.PRECISIONS`.
        metrics: figures to carry in the manifest.
        decoding: options of decoding that differ from those of the checkpoint.
        overwrite: replace a file at ``out`` that is not this program's; a folder never is.
        largest_file: bytes of a file at most, larger graphs being written in parts; None for whole files.
        block_size: int4 weights that share a scale, one of :data:`assistants.four_bits.BLOCK_SIZES`.

    Returns:
        ``out``.

    Raises:
        BundleError: the checkpoint cannot be read, or the graphs do not compute what torch computes.
        MachineError: the disk is full; an existing bundle at ``out`` is left as it was.
        UsageError: an unknown precision or block size, a precision that the kind of parser is not made in, an unknown option of decoding, or
            ``out`` is or holds what this program did not write.
    """
    out = Path(out)
    if out.suffix == ".zip":
        check_output(out, overwrite)
    else:
        check_replaceable(out)
    unknown = set(precisions) - set(PRECISIONS)
    if unknown or not precisions:
        raise UsageError(
            "E430",
            f"precision {', '.join(sorted(unknown)) or '(none)'} is not known.",
            remedy=f"Give some of {', '.join(PRECISIONS)}.",
        )
    if block_size not in BLOCK_SIZES:
        raise UsageError(
            "E436",
            f"a block of {block_size} weights is not supported.",
            remedy=f"Give one of {', '.join(map(str, BLOCK_SIZES))}.",
        )
    module, metadata = load_module(checkpoint, decoding)
    assert module.assets is not None
    if not isinstance(module.model, NARModel) and not isinstance(module, LayerSkipModule):
        raise UsageError(
            "E431",
            f"a parser of kind {module.kind!r} is not exported: it decodes token by token, which the runtime does not do.",
            remedy="Export a checkpoint of another kind; this kind is parsed with --checkpoint.",
        )
    if isinstance(module, LayerSkipModule) and "int4" in precisions:
        raise UsageError(
            "E435",
            "a language model's graphs are not made in int4: they read a token once alone and once among others.",
            remedy="Give int8 or fp32.",
        )
    if isinstance(module.model, RAF) and module.model.uses_cross_encoder:
        raise UsageError(
            "E432",
            "a bundle holds one encoder, and reads a scenario once and for all.",
            remedy="Train with model.filling: table; others are parsed with --checkpoint.",
        )
    int8 = weight_only if isinstance(module, LayerSkipModule) else quantize_graph
    makers: dict[str, Callable[[bytes], bytes]] = {
        "fp32": bytes,
        "int8": int8,
        "int4": partial(in_four_bits, block_size=block_size),
    }
    files = {PRECISIONS[precision]: makers[precision] for precision in precisions}
    if out.suffix != ".zip":
        _write(module, metadata, out, files, metrics, largest_file)
        return out
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / out.stem
        _write(module, metadata, folder, files, metrics, largest_file)
        _zip(folder, out)
    return out


def bundle_size(path: Path | str) -> int:
    """Bytes of a bundle."""
    path = Path(path)
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())


def _write(
    module: ParserModule,
    metadata: Mapping[str, Any],
    out: Path,
    files: Mapping[str, Callable[[bytes], bytes]],
    metrics: dict[str, Any] | None,
    largest_file: int | None,
) -> None:
    """Writes a bundle folder; ``files`` makes a graph's file from its fp32 content, for each suffix."""
    assert module.assets is not None
    with atomic_folder(out) as staging:
        worst = 0.0
        for graph in _graphs(module):
            path = staging / f"{graph.name}.onnx"
            content = onnx_bytes(graph)
            worst = max(worst, difference(graph, content))
            for suffix, make in files.items():
                # Weights in 4 bits are not evenly distributed, and whoever takes them asks for a small bundle.
                write = write_packed if suffix == PRECISIONS["int4"] else write_in_parts
                write(path.with_suffix(suffix), make(content), largest_file)
        module.assets.tokenizer.save(staging / "tokenizer.json")
        module.assets.ontology.save(staging / "ontology.json")
        own = _own(module, staging)
        manifest = {
            "format": FORMAT,
            "parser": metadata["kind"],
            "form": module.assets.form,
            "decoding": metadata["decoding"],
            "metrics": metrics or {},
            "training": {key: metadata[key] for key in ("model", "optimization", "data")},
            "licence": LICENCE,
            **own,
            "largest_difference_from_torch": worst,
            "environment": environment(),
        }
        write_manifest(staging, manifest)


def _graphs(module: ParserModule) -> list[Graph]:
    """The graphs of a kind of parser."""
    if isinstance(module, LayerSkipModule):
        return layerskip_graphs(module.net.merged(), exit_of(module.net, module.decoding))
    assert isinstance(module.model, NARModel)
    made = graphs(module.model, module.built.tokenizer.vocab_size)
    return [graph for graph in made if graph.name != "rescorer" or module.decoding.num_rescored]


def _own(module: ParserModule, folder: Path) -> dict[str, Any]:
    """What the manifest says of parts that other kinds of parser do not have; their files are written."""
    if isinstance(module, RAFModule):
        return {"scenarios": banks.write(module.parser().table, module.config.gloss, folder)}
    if isinstance(module, LayerSkipModule):
        return {"language_model": manifest_entry(module.net, exit_of(module.net, module.decoding))}
    return {}


def _zip(folder: Path, out: Path) -> None:
    """Packs the folder's files into ``out``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    write_bytes(out, buffer.getvalue())
