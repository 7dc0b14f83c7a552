"""The ONNX graphs of each kind of parser: exported, and compared with torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from frames.errors import BundleError
from parsers.nar_model import NARModel
from parsers.raf.model import RAF

#: Largest difference between a torch and an fp32 ONNX log-probability that an export accepts.
TOLERANCE = 1e-3
#: What is less likely than this counts as impossible, and impossible things are not compared.
FLOOR = -100.0


@dataclass(frozen=True)
class Graph:
    """A part of a model that becomes one file.

    Attributes:
        name: of the file, without its suffix.
        part: the inputs, in order, to a tensor or a tuple of them.
        inputs: seed to example inputs of three rows, by name.
        outputs: names of what comes out.
        axes: dynamic axes of each input, by name of the input.
    """

    name: str
    part: nn.Module
    inputs: Callable[[int], dict[str, Tensor]]
    outputs: tuple[str, ...]
    axes: dict[str, dict[int, Any]]


class Part(nn.Module):
    """A method of a model as a module of its own."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: Tensor) -> Any:
        """What the method gives for these inputs."""
        return getattr(self.model, self.method)(*inputs)


def graphs(model: NARModel, vocabulary: int) -> list[Graph]:
    """The graphs that a bundle of this model needs.

    Args:
        model: in evaluation mode.
        vocabulary: number of piece ids.
    """
    batch, source, target, leaves = (
        torch.export.Dim(name, min=1, max=limit)
        for name, limit in (("batch", 4096), ("source", 512), ("target", model.max_length), ("leaves", 64))
    )
    rows = {0: batch, 1: source}

    def utterances(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        pieces = torch.randint(2, vocabulary, (3, 11), generator=generator)
        return {"pieces": pieces, "mask": torch.arange(11)[None, :] < torch.tensor([11, 7, 2])[:, None]}

    def states(seed: int) -> dict[str, Tensor]:
        given = utterances(seed)
        memory, _ = model.encode(given["pieces"], given["mask"])
        return {"memory": memory, **given}

    def targets(seed: int) -> dict[str, Tensor]:
        return {**states(seed), "tokens": torch.full((3, 10), -1), "target_lengths": torch.tensor([10, 6, 2])}

    def wholes(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {**targets(seed), "tokens": torch.randint(0, model.ontology_size + 2, (3, 10), generator=generator)}

    made = [
        Graph("encoder", Part(model, "encode"), utterances, ("memory", "lengths"), {"pieces": rows, "mask": rows}),
        Graph(
            "decoder", Part(model, "decode"), targets, ("scores",),
            {"memory": rows, "pieces": rows, "mask": rows, "tokens": {0: batch, 1: target},
             "target_lengths": {0: batch}},
        ),
    ]  # fmt: skip
    if model.rescorer is not None:
        made.append(replace(made[1], name="rescorer", part=Part(model, "rescore"), inputs=wholes))
    if not isinstance(model, RAF):
        return made

    def masked_states(seed: int) -> dict[str, Tensor]:
        given = states(seed)
        return {"memory": given["memory"], "mask": given["mask"]}

    def glosses(seed: int) -> dict[str, Tensor]:
        return {**masked_states(seed), "leaves": torch.tensor([[3, 9], [1, 0], [1, 1]])}

    def scenarios(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            **masked_states(seed),
            "leaves": torch.randn((3, 2, model.leaf_width), generator=generator),
            "leaf_mask": torch.tensor([[True, True], [True, False], [True, False]]),
        }

    spans = {0: batch, 1: leaves}
    return [
        *made,
        Graph("query", Part(model, "query"), masked_states, ("vector",), {"memory": rows, "mask": rows}),
        Graph(
            "describe", Part(model, "project_new_scenarios"), glosses, ("vector", "states"),
            {"memory": rows, "mask": rows, "leaves": spans},
        ),
        Graph(
            "fill", Part(model, "fill"), scenarios, ("scores",),
            {"memory": rows, "mask": rows, "leaves": spans, "leaf_mask": spans},
        ),
    ]  # fmt: skip


@torch.inference_mode()
def onnx_bytes(graph: Graph) -> bytes:
    """The graph as an ONNX model."""
    given = graph.inputs(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.part.eval(), tuple(given.values()), input_names=list(given), output_names=list(graph.outputs),
            dynamic_shapes=(tuple(graph.axes[name] for name in given),), dynamo=True, verbose=False, optimize=True,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        # The exporter notes which lines of which files on this machine an operator came from.
        del part.metadata_props[:]
        part.doc_string = ""
    return model.SerializeToString()


@torch.inference_mode()
def difference(graph: Graph, content: bytes) -> float:
    """Largest difference of an output from torch's, over random inputs of several shapes.

    Raises:
        BundleError: it exceeds :data:`TOLERANCE`.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    reads = {entry.name for entry in session.get_inputs()}
    differences = []
    for seed, rows in ((1, slice(0, 3)), (2, slice(0, 1)), (3, slice(1, 3))):
        given = {name: value[rows] for name, value in graph.inputs(seed).items()}
        wanted = graph.part(*given.values())
        found = session.run(None, {name: value.numpy() for name, value in given.items() if name in reads})
        for one, other in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            differences.append(np.abs(np.maximum(one, FLOOR) - np.maximum(other.numpy(), FLOOR)).max())
    worst = float(np.max(differences))  # NaN wins, as it must
    if not worst <= TOLERANCE:
        raise BundleError(
            "E330",
            f"the ONNX graph {graph.name} differs from torch by {worst:.2g}; {TOLERANCE} is accepted.",
            remedy="Do not ship this bundle; report the versions of torch and onnxruntime.",
        )
    return worst
