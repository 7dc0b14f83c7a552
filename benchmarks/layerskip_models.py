"""Language models for the measurements of LayerSkip: a checkpoint, or the weights of a bundle put back into torch.

A LayerSkip bundle rounds weights and nothing else, so the model that its graphs describe can be rebuilt exactly. So the
speeds of the committed bundle's model can be measured again without a training.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper

from assistants import runtime
from assistants.bundle import Bundle
from assistants.layerskip import LayerSkipBundleParser
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from lightning_modules.layerskip import LayerSkipModule
from parsers.aliases import known_options
from parsers.layerskip.decoding import LayerSkipDecodingConfig
from parsers.layerskip.model import LayerSkipConfig

#: Matrices of a layer in the order in which it multiplies with them.
MATRICES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


def language_model(path: Path, device: str = "cpu") -> tuple[LayerSkipModule, dict[str, Any]]:
    """The module of a checkpoint or of a LayerSkip bundle, in evaluation mode, and how it was trained.

    Args:
        path: a checkpoint, or a bundle's folder.
        device: where it works, as torch names it.

    Raises:
        BundleError: neither, or damaged.
        SystemExit: a bundle of another kind.
    """
    if not path.is_dir():
        module, metadata = load_module(path, device=device)
        assert isinstance(module, LayerSkipModule)
        return module, metadata
    parser = runtime.load(path)
    if not isinstance(parser, LayerSkipBundleParser):
        raise SystemExit(f"{path} is a bundle of another kind than layerskip")
    training = parser.manifest["training"]
    module = LayerSkipModule(
        LayerSkipConfig(**known_options(LayerSkipConfig, training["model"])),
        LayerSkipDecodingConfig(**known_options(LayerSkipDecodingConfig, parser.manifest["decoding"])),
    )
    module.build(Assets(parser.tokenizer, parser.ontology, parser.manifest["form"]))
    parameters = dict(_parameters(Bundle(path)))
    module.net.lm.load_state_dict({**parameters, "model.embed_tokens.weight": parameters["lm_head.weight"]})
    return module.eval().to(device), training


def _parameters(bundle: Bundle) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters of the language model by their names in it; one table embeds tokens and scores them."""
    layer = 0
    for part in ("early", "late", "head"):
        graph = onnx.load_from_string(bundle.read(f"{part}.int8.onnx")).graph
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for name, value in stored.items():
            short = name.removeprefix("model.model.lm.")
            if short.endswith("norm.weight"):
                yield short, torch.tensor(value)
            elif short == "lm_head.weight_rows_int8":
                yield "lm_head.weight", torch.tensor(value * stored[name.replace("int8", "scales")])
        multiplied = [
            node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1].endswith("_columns_fp32")
        ]
        for begin in range(0, len(multiplied), len(MATRICES)):
            for matrix, name in zip(MATRICES, multiplied[begin : begin + len(MATRICES)], strict=True):
                values, scales = (stored[name.replace("fp32", kind)] for kind in ("int8", "scales"))
                yield f"model.layers.{layer}.{matrix}.weight", torch.tensor((values * scales).T)
            layer += 1
