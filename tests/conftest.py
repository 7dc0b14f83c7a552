import os
from pathlib import Path

import pytest

from data.synthetic import write_corpus

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
    "--model.init_args.model.leaf_width=16",
    "--model.init_args.optimization.encoder_lr=1e-3",
    "--model.init_args.optimization.lr=1e-3",
    "--model.init_args.optimization.compose_lr=1e-3",
    "--data.batch_size=64",
    "--trainer.precision=32-true",
    "--trainer.enable_model_summary=false",
]


@pytest.fixture(scope="session")
def topv2_root() -> Path:
    """The official corpus, where it is at hand."""
    root = os.environ.get("TOPV2_DIR")
    if not root:
        pytest.skip("TOPV2_DIR is not set")
    return Path(root)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic corpus on disk."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "small", **SIZES)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path, repository: Path) -> Path:
    """The folder in which a tiny parser was trained through the installed command; holds runs/ and results/."""
    from tests.training import fit

    folder = tmp_path_factory.mktemp("run")
    fit(folder, corpus, repository, "--run=tiny", "--trainer.max_epochs=30")
    return folder


@pytest.fixture(scope="session")
def checkpoint(run: Path) -> Path:
    return run / "runs" / "tiny" / "best.ckpt"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    from assistants.export import export

    return export(checkpoint, tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def raf_checkpoint(tmp_path_factory: pytest.TempPathFactory, corpus: Path, repository: Path) -> Path:
    """A tiny RAF parser on a tiny encoder, trained through the installed command."""
    from data.topv2.reader import read_split
    from tests.encoders import save_encoder
    from tests.training import fit

    folder = tmp_path_factory.mktemp("raf")
    utterances = [example.utterance for example in read_split(corpus, "train")]
    encoder = save_encoder(folder / "encoder", "bert", [*utterances, "[ intent | slot ]"])
    words = [
        f"--model.init_args.model.encoder={encoder}", f"--data.pretrained={encoder}", "--run=raf",
        "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2",
        "--model.init_args.optimization.bank_refresh_steps=20", *TINY_RAF,
    ]  # fmt: skip
    fit(folder, corpus, repository, *words, config=repository / "configs" / "raf_minilm.yaml")
    return folder / "runs" / "raf" / "best.ckpt"


@pytest.fixture(scope="session")
def raf_bundle(tmp_path_factory: pytest.TempPathFactory, raf_checkpoint: Path) -> Path:
    from assistants.export import export

    return export(raf_checkpoint, tmp_path_factory.mktemp("bundles") / "raf")
