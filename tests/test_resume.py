"""A training goes on as it would have, or says why it cannot; what is there is not lost."""

import os
import shutil
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from data.topv2.reader import HEADER, read_split, write_file
from frames.errors import BundleError, CorpusError, FramefillError, UsageError
from lightning_modules import cli, datamodule
from lightning_modules.callbacks import BestCheckpoint, StartMessage
from lightning_modules.conv_nar import ConvNARModule
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.layerskip import LayerSkipModule
from lightning_modules.nar import NAROptimizationConfig
from lightning_modules.parser_module import ParserModule
from lightning_modules.resume import check_same_training
from parsers.conv_nar.model import ConvNARConfig
from tests.test_layerskip import ONTOLOGY

SMALL: dict[str, Any] = {
    "width": 16, "encoder_kernels": [3], "encoder_feed_forward": 16, "decoder_kernels": [3], "decoder_feed_forward": 16,
    "length_hidden": 16,
}  # fmt: skip
CONFIG = """
seed_everything: 0
model:
  class_path: lightning_modules.conv_nar.ConvNARModule
  init_args:
    model: {width: 16, encoder_kernels: [3], encoder_feed_forward: 16, decoder_kernels: [3], decoder_feed_forward: 16, length_hidden: 16}
data: {vocabulary: 80, batch_size: 16}
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 2
  check_val_every_n_epoch: 2
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A corpus of 50 training rows, which are four steps an epoch."""
    folder = tmp_path_factory.mktemp("rows") / "corpus"
    write_file(folder / "music_train.tsv", read_split(corpus, "train", ["music"])[:50])
    write_file(folder / "music_eval.tsv", read_split(corpus, "eval", ["music"])[:12])
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def train(tmp_path: Path, rows: Path, config: str, monkeypatch: pytest.MonkeyPatch):
    """Trains below a new folder in this very process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["framefill"])

    def run(*words: str, root: Path = rows) -> None:
        cli.fit(["--config", config, "--data.root", str(root), *words])

    return run


def last(run: str) -> dict[str, Any]:
    return torch.load(Path("runs") / run / "last.ckpt", weights_only=True)


def changed(rows: Path, folder: Path, old: str, new: str) -> Path:
    """The corpus with a text of its training rows replaced."""
    shutil.copytree(rows, folder)
    path = folder / "music_train.tsv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return folder


def metadata_of(root: Path, model: dict[str, Any] | None = None, lr: float = 1e-3, **data: Any) -> dict[str, Any]:
    module = ConvNARModule(ConvNARConfig(**{**SMALL, **(model or {})}), optimization=NAROptimizationConfig(lr=lr))
    datamodule = TOPv2DataModule(str(root), **{"vocabulary": 80, "batch_size": 16, **data})
    datamodule.setup("fit")
    assert datamodule.assets is not None
    module.build(datamodule.assets)
    module._trainer = SimpleNamespace(datamodule=datamodule)  # type: ignore[assignment]
    return module.metadata()


def test_another_training_is_not_continued(rows: Path, tmp_path: Path):
    saved = metadata_of(rows)
    check_same_training(saved, metadata_of(rows), ConvNARModule)
    fewer, renamed = tmp_path / "fewer", changed(rows, tmp_path / "renamed", "IN:PLAY_MUSIC", "IN:PLAY_SONG")
    shutil.copytree(rows, fewer)
    write_file(fewer / "music_train.tsv", read_split(rows, "train")[:-3])
    for now, named in (
        (metadata_of(fewer), "training rows"),
        (metadata_of(renamed), "training rows.*with IN:PLAY_MUSIC and without IN:PLAY_SONG"),
        (metadata_of(rows, vocabulary=60), r"data\.vocabulary 80, not 60.*tokenizer"),
        (metadata_of(rows, form="index"), r"data\.form 'span', not 'index'"),
        ({**saved, "data": {**saved["data"], "seed": 3}}, "seed 0, not 3"),
        ({**saved, "decoding": {**saved["decoding"], "compose_weight": 1.0}}, "composing False, not True"),
        (metadata_of(rows, {"length_hidden": 24}), r"model\.length_hidden 16, not 24"),
        (metadata_of(rows, lr=2e-3), r"optimization\.lr 0\.001, not 0\.002"),
        ({**saved, "kind": "raf"}, "kind conv_nar, not raf"),
    ):
        with pytest.raises(UsageError, match=f"E462.*{named}.*--run"):
            check_same_training(saved, now, ConvNARModule)


def test_a_language_model_of_another_place_or_version_of_transformers_is_continued():
    assets: dict[str, Any] = {"tokenizer": "t", "ontology": ONTOLOGY.to_dict()}
    about: dict[str, Any] = {"kind": "layerskip", "assets": assets, "decoding": {}, "optimization": {}}
    saved, now, narrow = (
        {
            **about,
            "data": {"checksum": "x"},
            "model": {
                "language_model": path,
                "language_model_config": {"hidden_size": width, "transformers_version": version},
            },
        }
        for path, width, version in (
            ("one/a.gguf", 576, "5.24.0"),
            ("two/a.gguf", 576, "5.99.0"),
            ("one/a.gguf", 288, "5.24.0"),
        )
    )
    check_same_training(saved, now, LayerSkipModule)
    with pytest.raises(UsageError, match=r"E462.*language_model_config"):
        check_same_training(saved, narrow, LayerSkipModule)


def test_the_best_figure_is_kept_where_a_run_was_moved(tmp_path: Path):
    before, after = (
        ModelCheckpoint(dirpath=tmp_path / "a", monitor="val/exact_match", mode="max"),
        BestCheckpoint(tmp_path / "b"),
    )
    assert after.state_key == before.state_key, "checkpoints of earlier versions have the parent's"
    before.best_model_path = before.kth_best_model_path = str(tmp_path / "a" / "best.ckpt")
    before.best_model_score = before.kth_value = torch.tensor(90.0)
    before.best_k_models = {before.best_model_path: torch.tensor(90.0)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after.load_state_dict(before.state_dict())
    assert after.best_model_path == str(tmp_path / "b" / "best.ckpt") and after.best_k_models == {
        after.best_model_path: torch.tensor(90.0)
    }


def test_a_run_is_not_replaced_if_its_teacher_is_missing(train):
    train("--run=pupil", "--trainer.max_epochs=1")
    before = Path("runs/pupil/best.ckpt").read_bytes()
    with pytest.raises(BundleError, match=r"E301.*typo"):
        train("--run=pupil", "--overwrite=true", "--model.optimization.teacher=runs/typo/best.ckpt")
    assert Path("runs/pupil/best.ckpt").read_bytes() == before


def test_epochs_that_end_early_are_all_as_long_and_validated(train):
    found = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            found.append((trainer.current_epoch, trainer.global_step))

    start = StartMessage.on_fit_start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            StartMessage, "on_fit_start",
            lambda self, trainer, module: (trainer.callbacks.append(Watch()), start(self, trainer, module)),
        )  # fmt: skip
        train(
            "--run=short",
            "--trainer.limit_train_batches=3",
            "--trainer.max_epochs=4",
            "--trainer.check_val_every_n_epoch=1",
        )
    assert found == [(0, 3), (1, 6), (2, 9), (3, 12)]


def test_a_checkpoint_of_an_earlier_version_is_continued(rows: Path):
    now = metadata_of(rows, num_augmented=2, augment_prob=0.25)
    old = {**now, "model": {**now["model"], "pointer_heads": 8, "reads_tokens": False}}
    old["optimization"] = {
        "length_weight" if name == "length_loss_weight" else name: value for name, value in now["optimization"].items()
    }
    names = {"num_augmented": "variants", "augment_prob": "varied", "init_from": "start"}
    old["data"] = {**{names.get(name, name): value for name, value in now["data"].items()}, "pruned": 0.0}
    check_same_training(old, now, ConvNARModule)
    old["data"]["varied"] = 0.5
    with pytest.raises(UsageError, match=r"E462.*data\.augment_prob 0\.5, not 0\.25"):
        check_same_training(old, now, ConvNARModule)


def test_a_run_is_resumed_refused_and_replaced(train, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    train("--run=a/b", "--resume=true")
    assert "nothing to resume in runs/a/b" in capsys.readouterr().err
    # Every epoch has a checkpoint, however many steps are allowed between two.
    assert last("a/b")["global_step"] == 8
    first = Path("runs/a/b/best.ckpt").read_bytes()
    with pytest.raises(UsageError, match=r"E465.*runs/a/b.*best\.ckpt.*--resume true.*--overwrite true"):
        train("--run=a/b")
    other = changed(rows, tmp_path / "other", "SL:AMOUNT", "SL:COUNT")
    with pytest.raises(UsageError, match=r"E462.*labels.*SL:COUNT"):
        train("--run=a/b", "--resume=true", "--trainer.max_epochs=3", root=other)
    with pytest.raises(UsageError, match=r"E462.*model\.width 16, not 24"):
        train("--run=a/b", "--resume=true", "--trainer.max_epochs=3", "--model.model.width=24")
    assert Path("runs/a/b/best.ckpt").read_bytes() == first
    assert "width: 16" in Path("runs/a/b/config.yaml").read_text()
    train("--run=a/b", "--resume=true", "--trainer.max_epochs=4")
    assert last("a/b")["global_step"] == 16
    train("--run=a/b", "--overwrite=true", "--trainer.max_epochs=1")
    assert last("a/b")["global_step"] == 4
    assert torch.load("runs/a/b/best.ckpt", weights_only=True)["global_step"] == 4
    Path("runs/a/b/last.ckpt").write_bytes(Path("runs/a/b/last.ckpt").read_bytes()[:2000])
    with pytest.raises(BundleError, match=r"E302.*last\.ckpt"):
        train("--run=a/b", "--resume=true")
    Path("runs/a/b/last.ckpt").unlink()
    with pytest.raises(UsageError, match=r"E465.*no last\.ckpt to resume from"):
        train("--run=a/b", "--resume=true")


@pytest.mark.parametrize("run", ["../x", "a/../../x", "{here}/x", ".", ""])
def test_runs_stay_below_their_folder(run: str, train, tmp_path: Path):
    with pytest.raises(UsageError, match="E464"):
        train(f"--run={run.format(here=tmp_path)}", "--overwrite=true")
    assert not list(tmp_path.iterdir())


def test_sigterm_leaves_a_checkpoint_and_its_status(train, monkeypatch: pytest.MonkeyPatch):
    arguments = ("--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=3")
    train("--run=whole", *arguments)
    step = ParserModule.training_step

    def terminated(self: ParserModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ParserModule, "training_step", terminated)
    with pytest.raises(SystemExit) as ended:
        train("--run=ended", *arguments)
    assert ended.value.code == 143
    assert last("ended")["global_step"] == 6 and not Path("results/ended").exists()
    monkeypatch.setattr(ParserModule, "training_step", step)
    train("--run=ended", "--resume=true", *arguments)
    one, other = last("whole")["state_dict"], last("ended")["state_dict"]
    assert all(torch.equal(one[name], other[name]) for name in one)


AVERAGED = (
    '--trainer.callbacks=[{"class_path": "pytorch_lightning.callbacks.EMAWeightAveraging", '
    '"init_args": {"decay": 0.5, "use_buffers": false}}]'
)


def test_sigterm_in_a_validation_loses_nothing(train, monkeypatch: pytest.MonkeyPatch):
    arguments = ("--trainer.max_epochs=4", "--checkpoint_every=3", AVERAGED)
    validated: list[int] = []
    ends_at: int | None = None
    step, stream = ParserModule.validation_step, datamodule.RowStream
    # Three batches a validation, so that one can end within.
    monkeypatch.setattr(datamodule, "RowStream", lambda rows, chunk, *world: stream(rows, 4, *world))

    def terminated(self: ParserModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            validated.append(self.global_step)
        if self.global_step == ends_at:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, batch, batch_idx)

    monkeypatch.setattr(ParserModule, "validation_step", terminated)
    train("--run=whole", *arguments)
    assert validated == [8, 16]
    # Within the first validation, and within the last, after which nothing is trained.
    for ends_at in (8, 16):
        validated.clear()
        with pytest.raises(SystemExit) as ended:
            train("--run=ended", "--resume=true", *arguments)
        assert ended.value.code == 143
        assert last("ended")["global_step"] == ends_at
        assert validated == ([8] if ends_at == 8 else [8, 16])
    ends_at = None
    validated.clear()
    train("--run=ended", "--resume=true", *arguments)
    assert validated == [16]
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (torch.load(Path("runs") / run / name, weights_only=True) for run in ("whole", "ended"))
        for part in ("state_dict", "current_model_state"):
            assert all(torch.equal(one[part][key], other[part][key]) for key in one[part])


@pytest.mark.parametrize(
    "utterance, code", [("play " * 700, "E411"), ("\u2028 \u3000", "E21|E41")], ids=["too long", "without a word"]
)
def test_an_eval_row_that_cannot_be_read_is_named_before_training(
    utterance: str, code: str, rows: Path, tmp_path: Path
):
    root = tmp_path / "late"
    shutil.copytree(rows, root)
    path = root / "music_eval.tsv"
    line = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + f"music\t{utterance}\t[IN:PLAY_MUSIC {utterance}]\n")
    with pytest.raises(FramefillError, match=rf"(?s){code}.*music_eval\.tsv:{line}"):
        TOPv2DataModule(str(root), vocabulary=80, validation_rows=1).setup("fit")
    # With few rows, another split selects; the rows that are reported on are read before the training as well.
    few = root / "low_resource_splits"
    few.mkdir()
    shutil.copy(rows / "music_train.tsv", few / "music_train_5spis.tsv")
    shutil.copy(rows / "music_eval.tsv", few / "music_valid_5spis.tsv")
    with pytest.raises(FramefillError, match=rf"(?s)music_eval\.tsv:{line}"):
        TOPv2DataModule(str(root), vocabulary=80, spis=5).setup("fit")


def test_contradictory_rows_are_counted_at_the_start(rows: Path, tmp_path: Path, train, capsys):
    root = tmp_path / "contradictory"
    shutil.copytree(rows, root)
    path = root / "music_train.tsv"
    more = [
        "music\tturn it up\t[IN:LOUDER turn [SL:WHAT it ] up ]", "music\tturn it up\t[IN:LOUDER turn it up ]",
        "music\tturn it up\t[IN:LOUDER turn it up ]", "music\tagain please\t[IN:AGAIN again please ]",
        "music\tagain please\t[IN:AGAIN again please ]", "music\tnext\t[IN:NEXT next ]", "music\tnext\t[IN:SKIP next ]",
    ]  # fmt: skip
    path.write_text(path.read_text() + "\n".join(more) + "\n")
    train("--run=c", "--trainer.fast_dev_run=true", root=root)
    said = capsys.readouterr().out
    assert "training on 57 rows" in said and "at most one can be learned: 2 utterances (5 rows)" in said


@pytest.mark.parametrize(
    "words, said",
    [
        (["--data.varied=0.2"], "varied is called augment_prob now"),
        (["--model.optimization.warmup=0.2"], "warmup is called lr_warmup now"),
        (["--data.form=text"], r"data\.form: expected one of 'index', 'span'"),
        (["--model.model.pointer_copy=words"], r"pointer_copy: expected one of 'positions', 'types'"),
        (["--data.fraction=1.5"], r"data\.fraction 1\.5"),
        (["--model.optimization.lr=fast"], r"model\.optimization\.lr: expected float"),
        (["--checkpoint_every=0"], "at least 1"),
        (["--threads=-2"], r"E463.*--threads -2 must be at least 0"),
        (["--seed_everything=-7"], r"E463.*--seed_everything -7"),
        (["--data.vocabulary=-1"], r"E463.*--data\.vocabulary -1"),
        (["--trainer.check_val_every_n_epoch=0"], r"E463.*check_val_every_n_epoch 0"),
        (["--trainer.val_check_interval=0"], r"E463.*val_check_interval 0 must be above 0"),
        (["--trainer.accumulate_grad_batches=-1"], r"E463.*accumulate_grad_batches -1"),
        (["--data.vocabulary=3"], r"E458.*3 pieces.*--data\.vocabulary"),
        (["--data.vocabulary=99999999999"], r"E458.*99999999999 pieces"),
        (["--model.model.width=-4"], "E466.*-4"),
        (["--model.model.width=0"], "E466"),
        (["--model.model.dropout=1.5"], r"E466.*dropout 1\.5"),
        (["--model.optimization.lr=-0.1"], r"E466.*lr -0\.1 must be at least 0"),
        (["--model.decoding.rescoring_weight=-5"], r"E466.*rescoring_weight -5\.0 must be at least 0"),
        (["--trainer.max_time=soon"], "E466.*soon"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_options_are_answered_in_a_line(words: list[str], said: str, train):
    with pytest.raises(UsageError, match=said) as error:
        train(*words)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 250


@pytest.mark.parametrize(
    "text, said",
    [
        (
            b"data:\n  seed: 1\ntrainer:\n  max_epochs: 1\ndata:\n  form: span\n",
            "'data' stands twice, in lines 1 and 5",
        ),
        (b'{"run": "a", "run": "b"}', "'run' stands twice"),
        (b"trainer: [", "line 1"),
        (b"\xff\xfet\x00", "UTF|utf"),
        (b"trainer: &a {callbacks: [*a]}", "holds itself"),
        (b"- trainer", "trainer"),
        (b"", ""),
    ],
)
def test_configs_that_cannot_be_read_are_named(text: bytes, said: str, train, tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes(text)
    for words in (["--config=mine.yaml"], ["--config", "mine.yaml"]):
        with pytest.raises(UsageError, match=rf"E466\] mine\.yaml: .*({said})") as error:
            train(*words)
        assert len(str(error.value).splitlines()) == 1


def test_a_fault_of_the_program_is_no_option_of_the_user(train, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(ParserModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        train("--run=faulty")


def test_a_checkpoint_that_is_named_does_not_replace_a_run(train, tmp_path: Path):
    train("--run=one", "--trainer.max_epochs=1")
    train("--run=two", "--trainer.max_epochs=1")
    first = Path("runs/two/best.ckpt").read_bytes()
    with pytest.raises(UsageError, match=r"E465.*runs/two"):
        train("--run=two", "--ckpt_path=runs/one/last.ckpt", "--trainer.max_epochs=2")
    (tmp_path / "mine.ckpt").write_text("mine")
    with pytest.raises(BundleError, match=r"E302.*mine\.ckpt"):
        train("--run=three", "--ckpt_path=mine.ckpt")
    assert Path("runs/two/best.ckpt").read_bytes() == first
    train("--run=two", "--ckpt_path=runs/two/last.ckpt", "--trainer.max_epochs=2")
    assert last("two")["global_step"] == 8


@pytest.mark.parametrize("named", ["./runs/two/last.ckpt", "{here}/runs/two/last.ckpt", None], ids=str)
def test_a_run_that_goes_on_or_is_tried_keeps_its_best_checkpoint(named: str | None, train, tmp_path: Path):
    train("--run=two", "--trainer.max_epochs=1")
    first = Path("runs/two/best.ckpt").read_bytes()
    words = ["--trainer.fast_dev_run=true"] if named is None else [f"--ckpt_path={named.format(here=tmp_path)}"]
    # No epoch is validated, so nothing better takes the place of what is there.
    train("--run=two", "--overwrite=true", "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=3", *words)
    assert Path("runs/two/best.ckpt").read_bytes() == first


def test_figures_of_somebody_are_not_replaced(train):
    Path("results/mine").mkdir(parents=True)
    Path("results/mine/metrics.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"E450.*results/mine/metrics\.json"):
        train("--run=mine")
    assert Path("results/mine/metrics.json").read_text() == '{"mine": 1}'
    assert not Path("runs/mine").exists()


@pytest.mark.parametrize("words, code", [(["--data.root=nowhere"], "E202"), (["--data.spis=7"], "E203"), ([], "E201")])
def test_remedies_name_the_options_of_the_command(words, code, config: str, rows: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["framefill"])
    monkeypatch.delenv("TOPV2_DIR", raising=False)
    root = ["--data.root", str(rows)] if code == "E203" else []
    with pytest.raises(CorpusError, match=code) as error:
        cli.fit(["--config", config, *root, *words])
    assert "--data-root" not in str(error.value)
    assert ("--data.root" in str(error.value)) == (code != "E203")


def test_what_a_training_needs_is_said():
    with pytest.raises(UsageError, match="E467.*--config.*--data.root"):
        cli.fit([])


def test_intents_to_leave_out_that_no_row_has(rows: Path, train):
    with pytest.raises(UsageError, match=r"E497.*no row has PLAY_MUSICK\..*without the IN:"):
        train("--run=x", "--data.without_intents=[PLAY_MUSICK, PLAY_MUSIC]")
    data = TOPv2DataModule(str(rows), without_intents=["PLAY_MUSIC"], vocabulary=80)
    data.setup("fit")
    assert data.train_corpus is not None and 0 < len(data.train_corpus) < 50


def test_no_row_is_left(rows: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="E460.*fraction"):
        TOPv2DataModule(str(rows), fraction=0.001).setup("fit")
    (tmp_path / "music_train.tsv").write_text("\t".join(HEADER) + "\n")
    with pytest.raises(CorpusError, match="E213"):
        TOPv2DataModule(str(tmp_path)).setup("fit")
