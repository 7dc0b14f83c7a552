import gc
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from data.synthetic import write_corpus
from data.topv2.reader import Example, read_split

#: Whether pytest-xdist runs this process as one of several.
WORKER = "PYTEST_XDIST_WORKER" in os.environ
# Read when torch and huggingface_hub are first imported, here and in the processes that tests start: a worker for each
# core leaves nothing to do for threads, and no test needs a network.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

# Rows and frames are small acyclic objects; at Python's own threshold, reading TOPv2 spends half its time collecting.
gc.set_threshold(100_000, 20, 50)

#: Rows of the small corpus that tests train on.
SIZES = {"train": 700, "evaluation": 120, "test": 40}
#: A model small enough to train in seconds; every test that trains uses it.
TINY = [
    "--model.init_args.model.width=40",
    "--model.init_args.model.encoder_kernels=[3,7]",
    "--model.init_args.model.encoder_feed_forward=32",
    "--model.init_args.model.decoder_kernels=[7]",
    "--model.init_args.model.decoder_feed_forward=32",
    "--model.init_args.model.length_hidden=32",
    "--data.vocabulary=500",
    "--data.batch_size=64",
    "--trainer.check_val_every_n_epoch=15",
    "--trainer.precision=32-true",
    "--trainer.enable_model_summary=false",
]

#: The same for RAF.
TINY_RAF = [
    "--model.init_args.model.width=32",
    "--model.init_args.model.decoder_layers=1",
    "--model.init_args.model.decoder_heads=2",
    "--model.init_args.model.decoder_feed_forward=32",
    "--model.init_args.model.length_hidden=32",
    "--model.init_args.model.retrieval_width=16",
    "--model.init_args.optimization.encoder_lr=1e-3",
    "--model.init_args.optimization.lr=1e-3",
    "--model.init_args.optimization.compose_lr=1e-3",
    "--data.batch_size=64",
    "--trainer.precision=32-true",
    "--trainer.enable_model_summary=false",
]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says which tests stay on one worker, and lets the tests that start trainings begin early."""
    for item in items:
        group = _group(item)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
            _name_group(item, group)
    if WORKER:
        items.sort(key=lambda item: _group(item) is not None or "repository" not in item.fixturenames)


def _name_group(item: pytest.Item, group: str) -> None:
    """Adds the group to the test's name, where pytest-xdist's scheduler looks for it.

    pytest-xdist 3.8 does so by an attribute that pytest 9.2 reads no more, so each worker made the fixtures of all groups.
    """
    if item.config.getoption("loadgroup", False) and hasattr(item, "_id"):
        item._id = type(item._id).parse(f"{item.nodeid}@{group}")


def _group(item: pytest.Item) -> str | None:
    """Tests that share what one process holds in memory: the official rows, or a fixture of their module."""
    if "official_rows" in item.fixturenames:
        return "official_rows"
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    return item.path.stem if any(found[-1].scope == "module" for found in fixtures) else None


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first worker to need it fills by ``make(folder)``, and all workers read."""
    base = factory.getbasetemp()
    # The workers of one run have folders of their own, side by side.
    base = base.parent if WORKER else base
    folder, done = base / name, base / f"{name}.done"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def topv2_root() -> Path:
    """The official corpus, where it is at hand."""
    root = os.environ.get("TOPV2_DIR")
    if not root:
        pytest.skip("TOPV2_DIR is not set")
    return Path(root)


@pytest.fixture(scope="session")
def official_rows(topv2_root: Path) -> dict[str, list[Example]]:
    """All rows of TOPv2's training and evaluation files, by split."""
    rows = {split: read_split(topv2_root, split) for split in ("train", "eval")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 124_597, "eval": 17_160}
    # They stay to the end, so no collection needs to look at them again.
    gc.freeze()
    return rows


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic corpus on disk."""
    return made_once(tmp_path_factory, "corpus", lambda folder: write_corpus(folder / "small", **SIZES)) / "small"


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path, repository: Path) -> Path:
    """The folder in which a tiny parser was trained through the installed command; holds runs/ and results/."""
    from tests.training import fit

    words = ("--run=tiny", "--trainer.max_epochs=30")
    return made_once(tmp_path_factory, "run", lambda folder: fit(folder, corpus, repository, *words))


@pytest.fixture(scope="session")
def checkpoint(run: Path) -> Path:
    return run / "runs" / "tiny" / "best.ckpt"


@pytest.fixture(scope="session")
def graphs_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Makes an ONNX graph once for all exports of the same parameters, by whatever worker; it takes ten seconds."""
    from assistants import export
    from assistants.graphs import Graph, onnx_bytes

    def once(graph: Graph) -> bytes:
        digest = hashlib.sha256(f"{graph.name} {type(graph.part.model).__name__}".encode())
        for name, value in sorted(graph.part.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        folder = made_once(
            tmp_path_factory, digest.hexdigest()[:32], lambda made: (made / "onnx").write_bytes(onnx_bytes(graph))
        )
        return (folder / "onnx").read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "onnx_bytes", once)
        yield


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, graphs_once: None) -> Path:
    from assistants.export import export

    return made_once(tmp_path_factory, "bundle", lambda folder: export(checkpoint, folder / "tiny")) / "tiny"


@pytest.fixture(scope="session")
def raf_checkpoint(tmp_path_factory: pytest.TempPathFactory, corpus: Path, repository: Path) -> Path:
    """A tiny RAF parser on a tiny encoder, trained through the installed command."""
    from tests.encoders import save_encoder
    from tests.training import fit

    utterances = [example.utterance for example in read_split(corpus, "train")]

    def train(folder: Path) -> None:
        encoder = save_encoder(folder / "encoder", "bert", [*utterances, "[ intent | slot ]"])
        words = [
            f"--model.init_args.model.encoder={encoder}", f"--data.pretrained={encoder}", "--run=raf",
            "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2",
            "--model.init_args.optimization.bank_refresh_steps=20", *TINY_RAF,
        ]  # fmt: skip
        fit(folder, corpus, repository, *words, config=repository / "configs" / "raf_minilm.yaml")

    return made_once(tmp_path_factory, "raf", train) / "runs" / "raf" / "best.ckpt"


@pytest.fixture(scope="session")
def raf_bundle(tmp_path_factory: pytest.TempPathFactory, raf_checkpoint: Path, graphs_once: None) -> Path:
    from assistants.export import export

    return made_once(tmp_path_factory, "raf_bundle", lambda folder: export(raf_checkpoint, folder / "raf")) / "raf"
