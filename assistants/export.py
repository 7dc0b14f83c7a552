"""From a checkpoint to a bundle: ONNX graphs in fp32 and int8, checked against torch before anything is kept."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from assistants import runtime
from assistants.bundle import FORMAT, MANIFEST
from data.topv2.errors import BundleError, UsageError
from data.topv2.files import sha256, whole_folder, write_bytes, write_json
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment
from parsers.nar_model import NARModel

#: Largest difference between a torch and an fp32 ONNX log-probability that an export accepts.
TOLERANCE = 1e-3
LICENCE = "Weights trained by framefill on TOPv2 1.1 (Chen et al. 2020), which is CC-BY-SA; the training rows are not included."


class _Encoder(nn.Module):
    def __init__(self, model: NARModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pieces: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode(pieces, mask)


class _Decoder(nn.Module):
    def __init__(self, model: NARModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, memory: Tensor, pieces: Tensor, mask: Tensor, tokens: Tensor, target_lengths: Tensor) -> Tensor:
        return self.model.decode(memory, pieces, mask, tokens, target_lengths)


def export(
    checkpoint: Path | str,
    out: Path | str,
    precisions: Sequence[str] = ("fp32", "int8"),
    metrics: dict[str, Any] | None = None,
    licence: str = LICENCE,
) -> Path:
    """Writes a bundle, whole or not at all.

    Args:
        checkpoint: written by ``framefill fit``.
        out: folder to write, or a path ending in ``.zip``.
        precisions: ``fp32``, ``int8`` or both.
        metrics: figures to carry in the manifest.
        licence: what a holder of the weights must know.

    Returns:
        ``out``.

    Raises:
        BundleError: the checkpoint cannot be read, or the graphs do not compute what torch computes.
        MachineError: the disk is full; an existing bundle at ``out`` is left as it was.
        UsageError: an unknown precision.
    """
    out = Path(out)
    unknown = set(precisions) - set(runtime.PRECISIONS)
    if unknown or not precisions:
        raise UsageError(
            "E430",
            f"precision {', '.join(sorted(unknown)) or '(none)'} is not known.",
            remedy="Use fp32, int8 or both.",
        )
    module, made = load_module(checkpoint)
    assert module.assets is not None
    if not isinstance(module.model, NARModel):
        raise UsageError(
            "E431",
            f"a parser of kind {module.kind!r} is not exported: it decodes token by token, which the runtime does not do.",
            remedy="Export a conv_nar or span_pointer checkpoint; this kind is parsed with --checkpoint.",
        )
    vocabulary = module.assets.tokenizer.vocab_size
    folder = out.with_suffix("") if out.suffix == ".zip" else out
    with whole_folder(folder) as staging:
        fp32 = {part: staging / f"{part}.onnx" for part in ("encoder", "decoder")}
        _graphs(module.model, vocabulary, fp32)
        difference = _compare(module.model, vocabulary, fp32)
        if "int8" in precisions:
            for path in fp32.values():
                _quantize(path, path.with_suffix(".int8.onnx"))
        if "fp32" not in precisions:
            for path in fp32.values():
                path.unlink()
        module.assets.tokenizer.save(staging / "tokenizer.json")
        module.assets.ontology.save(staging / "ontology.json")
        manifest = {
            "format": FORMAT,
            "parser": made["kind"],
            "form": module.assets.form,
            "decoding": made["decoding"],
            "metrics": metrics or {},
            "training": {key: made[key] for key in ("model", "optimization", "data")},
            "licence": licence,
            "largest_difference_from_torch": difference,
            "environment": environment(),
            "files": {path.name: sha256(path) for path in sorted(staging.iterdir())},
        }
        write_json(staging / MANIFEST, manifest)
    if out.suffix == ".zip":
        _zip(folder, out)
    return out


def size(path: Path | str) -> int:
    """Bytes of a bundle."""
    path = Path(path)
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())


def _graphs(model: NARModel, vocabulary: int, paths: dict[str, Path]) -> None:
    """Exports both halves with dynamic batch and lengths."""
    pieces, mask, tokens, lengths = _sample(vocabulary)
    memory, _ = model.encode(pieces, mask)
    batch, source, target = (
        torch.export.Dim(name, min=1, max=limit)
        for name, limit in (("batch", 4096), ("source", 512), ("target", model.max_length))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        for name, half, inputs, names, outputs, shapes in (
            ("encoder", _Encoder(model), (pieces, mask), ["pieces", "mask"], ["memory", "lengths"],
             ({0: batch, 1: source}, {0: batch, 1: source})),
            ("decoder", _Decoder(model), (memory, pieces, mask, tokens, lengths),
             ["memory", "pieces", "mask", "tokens", "target_lengths"], ["scores"],
             ({0: batch, 1: source}, {0: batch, 1: source}, {0: batch, 1: source}, {0: batch, 1: target}, {0: batch})),
        ):  # fmt: skip
            program = torch.onnx.export(
                half.eval(), inputs, input_names=names, output_names=outputs,
                dynamic_shapes=shapes, dynamo=True, verbose=False, optimize=True,
            )  # fmt: skip
            assert program is not None
            write_bytes(paths[name], program.model_proto.SerializeToString())


def _sample(vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random pieces, mask, masked tokens and lengths of a small batch with padding in both."""
    generator = torch.Generator().manual_seed(seed)
    pieces = torch.randint(2, vocabulary, (3, 11), generator=generator)
    mask = torch.arange(11)[None, :] < torch.tensor([11, 7, 2])[:, None]
    lengths = torch.tensor([10, 6, 2])
    return pieces, mask, torch.full((3, 10), -1), lengths


@torch.inference_mode()
def _compare(model: NARModel, vocabulary: int, paths: dict[str, Path]) -> float:
    """Largest difference of log-probabilities from torch, over random inputs of several shapes.

    Raises:
        BundleError: it exceeds :data:`TOLERANCE`.
    """
    backend = runtime.OnnxBackend(paths["encoder"].read_bytes(), paths["decoder"].read_bytes(), threads=1)
    differences = []
    for seed, rows in ((1, slice(0, 3)), (2, slice(0, 1)), (3, slice(1, 3))):
        pieces, mask, tokens, lengths = (value[rows] for value in _sample(vocabulary, seed))
        memory, priors = model.encode(pieces, mask)
        scores = model.decode(memory, pieces, mask, tokens, lengths)
        arrays = [value.numpy() for value in (pieces, mask, tokens, lengths)]
        found_memory, found_priors = backend.encode(*arrays[:2])
        found = backend.decode(found_memory, np.arange(len(arrays[0])), *arrays)
        differences.append(np.abs(found_priors - priors.numpy()).max())
        for row, length in enumerate(arrays[3]):
            differences.append(np.abs(found[row, :length] - scores[row, :length].numpy()).max())
    worst = float(np.max(differences))  # NaN wins, as it must
    if not worst <= TOLERANCE:
        raise BundleError(
            "E330",
            f"the ONNX graphs differ from torch by {worst:.2g} in a log-probability; {TOLERANCE} is accepted.",
            remedy="Do not ship this bundle; report the versions of torch and onnxruntime.",
        )
    return worst


def _quantize(source: Path, target: Path) -> None:
    """Dynamic int8 quantization of matrix products and embeddings, weights per output channel."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the quantizer advises preprocessing that the exporter has already done
    try:
        # The exporter's shape annotations of intermediate values contradict the quantizer's own inference.
        model = onnx.load(source)
        del model.graph.value_info[:]
        quantize_dynamic(model, target, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)


def _zip(folder: Path, out: Path) -> None:
    """Packs the folder's files into ``out``, then drops the folder."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    write_bytes(out, buffer.getvalue())
    shutil.rmtree(folder)
