import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from data.topv2.reader import LOW_RESOURCE, read_split, write_file
from data.topv2.spis import sample
from frames.errors import BundleError, CorpusError, UsageError
from frames.files import write_json
from frames.frame import Frame
from frames.ontology import Ontology
from lightning_modules.datamodule import TOPv2DataModule
from parsers.conv_nar.model import ConvNAR
from scripts import trainings
from scripts.cli import main
from scripts.low_resource import low_resource, plot
from tests.conftest import TINY
from tests.test_training import SMALL
from tests.training import environment, fit, in_a_fork


def ontology_of(*texts: str) -> Ontology:
    return Ontology.from_frames([Frame.parse(text) for text in texts])


def test_merged_ontologies_have_the_labels_and_nesting_of_both():
    one = ontology_of("[IN:A [SL:X x ] ]", "[IN:A [SL:Y [IN:B [SL:X z ] ] ] ]")
    other = ontology_of("[IN:A [SL:Z x ] ]", "[IN:C [SL:X ] ]")
    merged = one.merged(other)
    assert merged == ontology_of(
        "[IN:A [SL:X x ] ]", "[IN:A [SL:Y [IN:B [SL:X z ] ] ] ]", "[IN:A [SL:Z x ] ]", "[IN:C [SL:X ] ]"
    )
    assert one.merged(one).tokens == one.tokens


def test_a_wider_model_scores_old_tokens_as_before():
    torch.manual_seed(0)
    old, new = ["]", "IN:A", "SL:X"], ["]", "IN:A", "IN:B", "SL:W", "SL:X"]
    config = SMALL
    small, wide = ConvNAR(config, 50, len(old), 20).eval(), ConvNAR(config, 50, len(new), 20).eval()
    wide.load_extending_ontology(small.state_dict(), old, new)
    states = torch.randn(3, config.width)
    kept = [new.index(token) for token in old]
    assert torch.allclose(wide.head.ontology(states)[:, kept], small.head.ontology(states), atol=1e-6)
    pieces = torch.randint(2, 50, (2, 6))
    assert torch.equal(wide.encode(pieces, None)[1], small.encode(pieces, None)[1])
    with pytest.raises(RuntimeError):
        ConvNAR(replace(config, width=64), 50, len(new), 20).load_extending_ontology(small.state_dict(), old, new)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The small corpus with low-resource splits of one domain."""
    folder = tmp_path_factory.mktemp("low") / "corpus"
    rows = {(d, s): read_split(corpus, s, [d]) for d in ("weather", "timer", "alarm") for s in ("train", "eval")}
    for (domain, split), examples in rows.items():
        write_file(folder / f"{domain}_{split}.tsv", examples)
    for spis in (2, 6):
        drawn = sample(rows["weather", "train"], spis)
        write_file(folder / LOW_RESOURCE / f"weather_train_{spis}spis.tsv", drawn)
        write_file(folder / LOW_RESOURCE / f"weather_valid_{spis}spis.tsv", drawn[:10])
    return folder


def test_the_curve_is_trained_recorded_drawn_and_taken_up_again(
    root: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scripts.trainings.run_to_end", in_a_fork)
    words = [
        "bench", "low-resource", "--data-root", str(root), "--targets", "weather",
        "--config", str(repository / "configs" / "demo.yaml"), "--spis", "2", "6",
        "--source-training", str(tmp_path / "source.yaml"),
        "--fine-tuning", str(repository / "configs" / "low_resource.yaml"), str(tmp_path / "short.yaml"), "--fit", "--threads=1", "--trainer.precision=32-true",
        *(word for word in TINY if word.startswith("--model")),
    ]  # fmt: skip
    tuning = {"trainer": {"max_steps": 20, "val_check_interval": 10}}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(tuning))
    folder = tmp_path / "results" / "low_resource" / "demo"
    source = {"trainer": {"max_epochs": 4, "check_val_every_n_epoch": 4}}
    (tmp_path / "source.yaml").write_text(yaml.safe_dump(source))
    assert main(words) == 0, (tmp_path / "output.log").read_text()[-6000:]
    curve = json.loads((folder / "curve.json").read_text())["exact_match_by_spis"]["weather"]
    assert list(curve) == ["2", "6"]
    source = json.loads((folder / "source" / "metrics.json").read_text())["made"]["data"]
    assert source["domains"] == ["alarm", "timer"]
    record = json.loads((folder / "weather_6" / "metrics.json").read_text())
    assert record["exact_match"] == curve["6"]
    assert record["count"] == len(read_split(root, "eval", ["weather"]))
    assert record["made"]["data"]["init_from"].endswith("source/best.ckpt")
    assert str(root) not in json.dumps(record), "a record tells where this machine keeps its rows"
    trained = torch.load(tmp_path / "runs" / "low_resource" / "demo" / "weather_6" / "best.ckpt", weights_only=True)
    assert str(root) not in str(trained["datamodule_hyper_parameters"]), "and so does a checkpoint"
    assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    words.remove("6")
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")} == before
    again = json.loads((folder / "curve.json").read_text())["exact_match_by_spis"]["weather"]
    assert again == curve, "points of earlier calls are on the curve"


@pytest.fixture
def low(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """The experiment without its trainings: gives the curve's record, and keeps the runs that were trained in ``trained``."""
    monkeypatch.chdir(tmp_path)

    def fit(run: str, words: list[str], needed: bool = False) -> Path:
        if not Path("results", run, "metrics.json").exists():
            experiment.trained.append(Path(run).name)
            write_json(Path("results", run, "metrics.json"), {"exact_match": 50.0})
        return Path("runs", run, "best.ckpt")

    monkeypatch.setattr("scripts.trainings.fit", fit)
    for name in ("parser", "source", "tuning", "other"):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"run": "parser", "data": {"vocabulary": len(name)}}))

    def experiment(targets=("weather",), spis=(2,), words=(), source="source", tuning=("tuning",), rows=root) -> dict:
        experiment.trained = []
        config, shorter, *laid = (Path(f"{name}.yaml") for name in ("parser", source, *tuning))
        folder = low_resource(config, shorter, laid, str(rows), targets, spis, words)
        return json.loads((folder / "curve.json").read_bytes())

    return experiment


def test_points_of_earlier_calls_stay_on_the_curve(low: Callable[..., dict], root: Path, tmp_path: Path):
    rows = shutil.copytree(root, tmp_path / "rows")
    for split in ("train_2spis", "valid_2spis"):
        shutil.copy(rows / LOW_RESOURCE / f"weather_{split}.tsv", rows / LOW_RESOURCE / f"timer_{split}.tsv")
    low(["timer", "weather"], [2], rows=rows)
    assert low.trained == ["source", "timer_2", "weather_2"]
    curve = low(["weather"], [6], rows=rows)
    assert low.trained == ["weather_6"] and curve["sources"] == ["alarm"]
    assert curve["exact_match_by_spis"] == {"timer": {"2": 50.0}, "weather": {"2": 50.0, "6": 50.0}}
    shutil.rmtree("results/low_resource/parser/weather_6")
    with pytest.raises(UsageError, match="E494.*'timer_2'"):
        low(["weather"], [6], tuning=["other"], rows=rows)
    # The source parser has seen alarm.
    for split in ("train_6spis", "valid_6spis"):
        shutil.copy(rows / LOW_RESOURCE / f"weather_{split}.tsv", rows / LOW_RESOURCE / f"alarm_{split}.tsv")
    with pytest.raises(UsageError, match="E494.*'source'"):
        low(["alarm"], [6], rows=rows)


def test_trainings_made_otherwise_are_not_taken_for_these(low: Callable[..., dict], root: Path, tmp_path: Path):
    words = ["--model.optimization.lr", "1"]
    made = low(words=words)
    assert low(words=["--model.optimization.lr=1", "--threads", "2", "--trainer.enable_progress_bar=false"]) == made
    assert not low.trained
    rows = shutil.copytree(root, tmp_path / "rows")
    drawn = rows / LOW_RESOURCE / "weather_train_2spis.tsv"
    drawn.write_text("".join(drawn.read_text().splitlines(keepends=True)[:-1]))
    for otherwise, run in (
        ({"words": []}, "source"),
        ({"words": ["--model.optimization.lr", "2"]}, "source"),
        ({"words": words, "source": "other"}, "source"),
        ({"words": words, "tuning": ["tuning", "other"]}, "weather_2"),
        ({"words": words, "rows": rows}, "weather_2"),
    ):
        with pytest.raises(UsageError, match=f"E494.*{run}'.*Move results/low_resource/parser"):
            low(**otherwise)
    # A curve of an earlier version tells the configs' names and the domains.
    curve = tmp_path / "results" / "low_resource" / "parser" / "curve.json"
    write_json(curve, {name: value for name, value in made.items() if name != "made_by"})
    for otherwise in ({"words": words}, {"source": "other"}, {"tuning": ["other"]}):
        with pytest.raises(UsageError, match="E494"):
            low(**otherwise)
    assert low()["exact_match_by_spis"] == made["exact_match_by_spis"] and not low.trained
    # Nor is it known who made records without a curve.
    curve.unlink()
    with pytest.raises(UsageError, match="E494"):
        low()
    curve.write_text("[")
    with pytest.raises(BundleError, match="E582"):
        low()


@pytest.mark.parametrize(
    ("parser", "source", "tuning"),
    [
        ("span_pointer_minilm", "low_resource_source", ["low_resource", "low_resource_wide"]),
        ("raf_minilm", "low_resource_raf_source", ["low_resource", "low_resource_raf"]),
    ],
)
def test_the_documented_commands_find_the_committed_curves(
    parser: str, source: str, tuning: list[str], repository: Path
):
    curve = json.loads((repository / "results" / "low_resource" / parser / "curve.json").read_bytes())
    named = {"config": parser, "source_training": source, "fine_tuning": tuning}
    written = {
        key: [f"{n}.yaml" for n in name] if key == "fine_tuning" else f"{name}.yaml" for key, name in named.items()
    }
    assert {**curve, **written} == curve
    guide = (repository / "docs" / "guides" / "few_rows.md").read_text()
    laid = " ".join(f"configs/{name}.yaml" for name in tuning)
    assert f"--config configs/{parser}.yaml --source-training configs/{source}.yaml --fine-tuning {laid} " in guide


def test_a_training_without_its_checkpoint_is_done_again_if_it_is_needed(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked: list[list[str]] = []

    def run(command: list[str]) -> int:
        asked.append(command)
        return 0

    monkeypatch.setattr("scripts.trainings.run_to_end", run)
    best = trainings.fit("a/b", ["--x"])
    assert len(asked) == 1 and asked[0][-5:] == ["--x", "--run", "a/b", "--resume", "true"]
    (tmp_path / "results" / "a" / "b").mkdir(parents=True)
    (tmp_path / "results" / "a" / "b" / "metrics.json").write_text("{}")
    trainings.fit("a/b", [])
    assert len(asked) == 1
    trainings.fit("a/b", [], needed=True)
    assert len(asked) == 2
    best.parent.mkdir(parents=True, exist_ok=True)
    best.touch()
    trainings.fit("a/b", [], needed=True)
    assert len(asked) == 2


def test_a_checkpoint_of_a_training_that_was_killed_is_not_gone_on_from(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json("results/a/metrics.json", {"exact_match": 80.0})
    asked: list[int] = []

    def run(command: list[str], status: int = 143) -> int:
        best = Path("runs/a/best.ckpt")
        best.write_text("of the first validation")
        asked.append(status)
        return status

    monkeypatch.setattr("scripts.trainings.run_to_end", run)
    with pytest.raises(UsageError, match="E405.*143"):
        trainings.fit("a", [], needed=True)
    monkeypatch.setattr("scripts.trainings.run_to_end", lambda command: run(command, 0))
    for _ in range(2):
        trainings.fit("a", [], needed=True)
    assert asked == [143, 0]


@pytest.mark.parametrize("text", ["{}", "[]", '{"exact_match"'])
def test_records_that_are_damaged_are_named(text: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results/a").mkdir(parents=True)
    Path("results/a/metrics.json").write_text(text)
    with pytest.raises(BundleError, match=r"E585.*results/a/metrics\.json"):
        trainings.record("a")


def test_files_count_by_their_content_in_what_makes_a_training(tmp_path: Path):
    config, laid, teacher = (tmp_path / name for name in ("one.yaml", "more.yaml", "teacher.ckpt"))
    config.write_text(f"run: a\nmodel: {{init_args: {{optimization: {{teacher: {teacher}}}}}}}\n")
    digests = {trainings.digest_of([config], ["--config", str(laid)], [])}
    for path, text in (
        (laid, "data: {batch_size: 2}"),
        (teacher, "a"),
        (laid, "data: {batch_size: 3}"),
        (teacher, "b"),
    ):
        path.write_text(text)
        digests.add(trainings.digest_of([config], ["--config", str(laid)], []))
    assert len(digests) == 5
    assert trainings.digest_of([config], ["--trainer.callbacks", "[" + "x" * 5000 + "]"], []) not in digests


def test_what_cannot_be_started_from(root: Path, repository: Path, tmp_path: Path, checkpoint: Path):
    with pytest.raises(BundleError, match="E301"):
        TOPv2DataModule(str(root), init_from=str(tmp_path / "none.ckpt")).setup("fit")
    with pytest.raises(UsageError, match="E404"):
        low_resource(tmp_path / "none.yaml", None, [tmp_path / "x.yaml"], str(root), ["weather"], [2], [])
    for targets, spis, split in ((["waether"], [2], "E204"), (["weather"], [3], "E203")):
        with pytest.raises(CorpusError, match=split):
            low_resource(
                repository / "configs" / "demo.yaml", None, [tmp_path / "x.yaml"], str(root), targets, spis, []
            )
    assert not list(tmp_path.iterdir()), "nothing may be trained before all splits are found"
    with pytest.raises(AssertionError, match="E308"):
        fit(
            tmp_path, root, repository, "--run=x", "--trainer.max_epochs=1", f"--data.init_from={checkpoint}",
            "--model.init_args.model.width=80",
        )  # fmt: skip


def test_a_record_does_not_tell_where_a_machine_has_its_files(tmp_path: Path):
    starts = (str(tmp_path / "source.ckpt"), "runs/source/best.ckpt", None)
    provenance = [TOPv2DataModule(str(tmp_path), init_from=start).data_provenance() for start in starts]
    assert [p["init_from"] for p in provenance] == ["source.ckpt", "runs/source/best.ckpt", None]
    assert str(tmp_path) not in str(provenance) and provenance[0]["form"] == "span"


def test_the_plot_is_a_picture():
    assert plot({"weather": {"10": 40.0, "25": 60.5}})[:4] == b"\x89PNG"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_training_ends_before_the_experiment_that_was_asked_to_end(
    number: signal.Signals, status: int, repository: Path, tmp_path: Path
):
    training = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "def end(*_): Path('checkpoint').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('began', flush=True)\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "training.py").write_text(training)
    experiment = (
        "import signal, sys\n"
        # What a shell starts in the background ignores Ctrl-C, and so would this.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from assistants.command import guarded\n"
        "from scripts.trainings import run_to_end\n"
        "sys.exit(guarded(lambda: print('status', run_to_end([sys.executable, 'training.py']))))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", experiment], cwd=tmp_path, env=environment(repository), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "began\n"
    process.send_signal(number)
    assert process.wait(timeout=30) == status
    assert (tmp_path / "checkpoint").exists() and "status" not in process.stdout.read()
