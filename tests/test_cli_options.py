"""What an option may be: every wrong value is answered in a line, before the work begins."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from assistants.onnx_backend import NARBundleParser
from parsers.interface import Hypothesis
from parsers.nar import NonAutoregressiveParser
from scripts.cli import main
from scripts.commands.common import decoding_options
from tests.training import environment


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A folder with a file of somebody's own and a folder."""
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    (tmp_path / "folder").mkdir()
    return tmp_path


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize("words", [["--n-best", "-7"], ["--n-best", "0"], ["--threads", "-4"]])
def test_numbers_out_of_range(words: list[str], repository: Path, capsys):
    bundle = repository / "models" / "conv-nar-topv2"
    said = _refused(["parse", "--bundle", str(bundle), *words, "stop"], capsys)
    assert f"[E402] {words[0]} {words[1]} must be at least" in said


@pytest.mark.parametrize("split", ["", "*", "../train", "train/x", "[a]"])
def test_names_that_no_split_has(split: str, corpus: Path, tmp_path: Path, capsys):
    assert "E471" in _refused(["evaluate", "--data-root", str(corpus), "--split", split], capsys)
    words = ["data", "sample", "--data-root", str(corpus), "--domain", "timer", "--spis", "1"]
    assert "E471" in _refused([*words, "--split", split, "--out", str(tmp_path / "s.tsv")], capsys)


@pytest.mark.parametrize("option", ["--json", "--predictions"])
def test_files_of_somebody_are_not_replaced(option: str, places: Path, corpus: Path, capsys):
    words = ["evaluate", "--data-root", str(corpus)]
    assert "E450" in _refused([*words, option, str(places / "notes.json")], capsys)
    assert (places / "notes.json").read_text() == '{"mine": 1}'
    assert "E451" in _refused([*words, option, str(places / "folder")], capsys)
    assert "E474" in _refused([*words, option, str(places / "notes.json" / "deep" / "x")], capsys)


def test_overwrite_replaces_a_file_of_somebody(places: Path, corpus: Path, capsys):
    words = ["data", "sample", "--data-root", str(corpus), "--domain", "timer", "--spis", "1"]
    out = ["--out", str(places / "notes.json")]
    assert "E450" in _refused([*words, *out], capsys)
    assert main([*words, *out, "--overwrite"]) == 0
    assert (places / "notes.json").read_text().startswith("domain\tutterance")


def test_two_outputs_in_one_file(places: Path, corpus: Path, capsys):
    words = ["evaluate", "--data-root", str(corpus), "--json", str(places / "a"), "--predictions"]
    assert "E473" in _refused([*words, str(places / "folder" / ".." / "a")], capsys)


@pytest.mark.parametrize("content", ["[1, 2]", "3", '"x"', "{}", '{"exact_match": "high"}'])
def test_records_that_hold_no_figures(content: str, tmp_path: Path, capsys):
    (tmp_path / "metrics.json").write_text(content)
    words = [
        "export",
        "--checkpoint",
        "none",
        "--out",
        str(tmp_path / "o"),
        "--metrics",
        str(tmp_path / "metrics.json"),
    ]
    assert "E475" in _refused(words, capsys)


@pytest.mark.parametrize("word", ["length_beam", "=3", "length_beam=", "length_beam=[3]", "x=null", "x=NaN", "x=1e999"])
def test_decoding_options_that_cannot_be_read(word: str, tmp_path: Path, capsys):
    words = ["export", "--checkpoint", "none", "--out", str(tmp_path / "o"), "--decoding", word]
    assert "E406" in _refused(words, capsys)


def test_decoding_options_have_their_types():
    options = decoding_options(["num_rescored=4", "constrained=false", "weight=0.5", "index=sq8"])
    assert options == {"num_rescored": 4, "constrained": False, "weight": 0.5, "index": "sq8"}


@pytest.mark.parametrize("name", ["empty.ckpt", "text.ckpt", "zip.ckpt"])
def test_files_that_are_no_checkpoints(name: str, tmp_path: Path, capsys):
    content = {"empty.ckpt": b"", "text.ckpt": b"weights\n" * 9, "zip.ckpt": b"PK\x03\x04" + b"0" * 99}
    (tmp_path / name).write_bytes(content[name])
    said = _refused(["parse", "--checkpoint", str(tmp_path / name), "stop"], capsys)
    assert "E302" in said and "weights_only" not in said


@pytest.mark.parametrize("device", ["", "meta", "cpu:x", "gpu"])
def test_devices_that_are_not_known(device: str, tmp_path: Path, capsys):
    assert "E476" in _refused(["parse", "--checkpoint", "none", "--device", device, "stop"], capsys)


@pytest.mark.parametrize(
    "words, code",
    [
        (["export", "--checkpoint", "none", "--out", "{here}/o", "--block-size", "64"], "E498"),
        (["calibrate", "--bundle", "none", "--device", "cuda", "--data-root", "none"], "E439"),
        (["calibrate", "--checkpoint", "none", "--train-split", "train", "--data-root", "none"], "E516.*--train-split"),
        (["serve", "--ranking", "50"], "E499.*50 is more than 10"),
    ],
)
def test_options_that_would_do_nothing(words: list[str], code: str, tmp_path: Path, capsys):
    assert re.search(code, _refused([word.format(here=tmp_path) for word in words], capsys))


def test_configs_that_are_not_there(tmp_path: Path, capsys):
    words = ["bench", "ablations", "--config", str(tmp_path / "none.yaml"), "--changes", str(tmp_path)]
    assert "E472" in _refused(words, capsys)
    (tmp_path / "one.yaml").write_text("run: one\n")
    words = ["bench", "low-resource", "--config", str(tmp_path / "one.yaml"), "--fine-tuning", str(tmp_path)]
    assert "E472" in _refused(words, capsys)


def test_a_folder_that_the_system_refuses(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    assert "[E5" in _refused(["data", "synthetic", "--out", str(tmp_path / "file" / "x")], capsys)


def test_options_that_a_checkpoint_does_not_use_are_reported(checkpoint: Path, capsys):
    words = ["parse", "--checkpoint", str(checkpoint), "--threads", "3", "--precision", "fp32", "stop the timer"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "--threads is for bundles" in told.err and "--precision is for bundles" in told.err
    assert told.out.startswith("[IN:")


def _parse(given: bytes, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    main(["parse", *words])
    return capsys.readouterr().out.split("\n")[:-1]


def test_standard_input_has_one_answer_a_line(repository: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    words = ["--bundle", str(repository / "models" / "conv-nar-topv2")]
    plain = _parse(b"stop the timer\nset an alarm for 7\n", words, monkeypatch, capsys)
    assert len(plain) == 2
    # As Windows writes text; and a carriage return inside of a line ends no line.
    assert _parse(b"\xef\xbb\xbfstop the timer\r\nset an alarm for 7\r\n", words, monkeypatch, capsys) == plain
    assert len(_parse(b"stop the\rtimer\n \n\nset an alarm for 7", words, monkeypatch, capsys)) == 4
    values = [json.loads(line) for line in _parse(b"\nstop the timer\n", [*words, "--json"], monkeypatch, capsys)]
    assert [(value["number"], value["text"]) for value in values] == [(1, None), (2, plain[0])]
    assert values[0]["error"] == "E410"


def test_lines_that_are_there_are_parsed_together(repository: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    sizes = []

    def parse(self: NARBundleParser, utterances: list[str], n_best: int = 1) -> list[list[Hypothesis]]:
        sizes.append(len(utterances))
        return NonAutoregressiveParser.parse(self, utterances, n_best)

    monkeypatch.setattr(NARBundleParser, "parse", parse)
    words = ["--bundle", str(repository / "models" / "conv-nar-topv2")]
    given = "".join(f"wake me at {n} café\n" for n in range(100)).encode()
    one = _parse(given, words, monkeypatch, capsys)
    assert sizes == [32, 32, 32, 4]
    sizes.clear()
    assert _parse(given, [*words, "--threads", "4"], monkeypatch, capsys) == one and len(one) == 100
    assert sizes == [100]
    sizes.clear()
    # A dialogue's next line comes when that before it is answered, and pieces of a line may come apart.
    answered = []

    class Dialogue(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            answered.append(len(capsys.readouterr().out.splitlines()))
            return self.read(next(steps))

    lengths = [len(line) for line in given.splitlines(keepends=True)]
    steps = iter([lengths[0], lengths[1], lengths[2] - 2, 2 + lengths[3] + lengths[4], -1, -1])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Dialogue(given), encoding="utf-8"))
    assert main(["parse", *words]) == 0
    assert answered == [0, 1, 1, 0, 3, 95] and sizes[:3] == [1, 1, 3]


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_standard_input_in_utf_16_is_refused(order: str, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    given = "\ufeffstop the timer\r\nsnooze\r\n".encode(order)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    assert "E457" in _refused(["parse", "--bundle", str(repository / "models" / "conv-nar-topv2")], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parse", "--n-bst", "3", "snooze"], "framefill parse: '--n-bst' is not known, did you mean --n-best?"),
        (["data", "synthetic", "--outt=x", "--out", "y"], "framefill data synthetic: '--outt=x'"),
        (["bank", "remove", "--bundle", "b"], "framefill bank remove: the following arguments are required: scenarios"),
        (["serve", "--port", "http"], "framefill serve: argument --port: invalid int value: 'http'"),
        (
            ["export", "--checkpoint", "a", "--out", "b", "--precision", "fp16"],
            "framefill export: argument --precision",
        ),
        (["bench", "lottery"], "framefill bench lottery: the following arguments are required"),
        (["calibrate", "--bundle", "a", "--checkpoint", "b"], "not allowed with argument --bundle"),
        (["evluate"], "framefill: argument COMMAND: invalid choice: 'evluate'"),
        ([], "framefill: the following arguments are required: COMMAND"),
    ],
)
def test_words_that_are_wrong_are_told_in_a_line(words: list[str], said: str, capsys):
    told = _refused(words, capsys)
    assert "[E456]" in told and said in told and "--help` tells" in told


@pytest.mark.parametrize("word", ["length_beam=1.5", "length_beam=true", "constrained=1", "rescoring_margin=wide"])
def test_options_of_decoding_have_their_kind(word: str, checkpoint: Path, tmp_path: Path, capsys):
    words = ["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "x"), "--decoding", word]
    assert "E434" in _refused(words, capsys)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("value", ["true", "NaN", "-1", "101", '"85"', "null", "[85]"])
def test_figures_that_are_none(value: str, checkpoint: Path, tmp_path: Path, capsys):
    (tmp_path / "m.json").write_text(f'{{"exact_match": {value}}}')
    words = ["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "x"), "--metrics"]
    assert "E475" in _refused([*words, str(tmp_path / "m.json")], capsys)


@pytest.mark.parametrize("words", [["--kept", "0.5", "nan"], ["--kept", "-0.5"], ["--kept", "0"], ["--kept", "1.5"]])
def test_shares_that_cannot_be_kept(words: list[str], repository: Path, corpus: Path, tmp_path: Path, capsys):
    config = repository / "configs" / "lottery_structured_conv_nar.yaml"
    common = ["bench", "structured", "--config", str(config), "--data-root", str(corpus), "--domain", "timer"]
    assert "E492" in _refused([*common, "--out", str(tmp_path / "o"), *words], capsys)
    assert "E402" in _refused([*common, "--kept", "0.5", "--seeds", "1", "-3"], capsys)


@pytest.mark.parametrize("experiment", ["lottery", "structured"])
@pytest.mark.parametrize("name", ["study.json", "summary.json", "timer_to_weather.png"])
def test_results_of_somebody_are_not_replaced(
    experiment: str, name: str, repository: Path, corpus: Path, tmp_path: Path, capsys
):
    (tmp_path / name).write_text('[{"mine": 1}]')
    config = repository / "configs" / f"lottery{'_structured' if experiment == 'structured' else ''}_conv_nar.yaml"
    words = ["bench", experiment, "--config", str(config), "--data-root", str(corpus), "--out", str(tmp_path)]
    domains = {
        "lottery": ["--sources", "timer", "--targets", "weather"],
        "structured": ["--domain", "timer", "--kept", "1"],
    }
    assert re.search("E450|E493", _refused([*words, *domains[experiment]], capsys))
    assert (tmp_path / name).read_text() == '[{"mine": 1}]'


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"\xff\xfe", "E404"),
        (b"run: [", "E404"),
        (b"run: 3", "E404"),
        (b"- run", "E404"),
        (b"run: a\nrun: b", "E404.*'run' stands twice"),
        (b"run: ../../a", "E464"),
        (b"run: /a", "E464"),
        (b"run: ''", "E464"),
    ],
)
def test_configs_of_experiments_that_cannot_be_read(text: bytes, code: str, tmp_path: Path, capsys):
    (tmp_path / "c.yaml").write_bytes(text)
    path = str(tmp_path / "c.yaml")
    words = ["bench", "ablations", "--config", path, "--trial", path, "--changes", path, "--data-root", str(tmp_path)]
    assert re.search(rf"{code}.*", told := _refused(words, capsys)) and "c.yaml" in told


def test_a_rate_that_lets_nothing_through(repository: Path, capsys):
    words = ["serve", "--bundle", str(repository / "models" / "conv-nar-topv2"), "--rate", "0/minute"]
    assert "E478" in _refused(words, capsys)


def test_frames_of_several_utterances_are_told_apart(repository: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    words = ["--bundle", str(repository / "models" / "conv-nar-topv2"), "--n-best", "3"]
    lines = [line.split("\t") for line in _parse(b"stop the timer\nsnooze\n", words, monkeypatch, capsys)]
    assert [(number, rank) for number, rank, _, _ in lines] == [(n, r) for n in "12" for r in "123"]
    assert all(float(lines[i][2]) >= float(lines[i + 1][2]) for i in (0, 1, 3, 4))


def test_an_output_encoding_without_the_characters_of_a_tree(repository: Path):
    bundle = str(repository / "models" / "conv-nar-topv2")
    words = [sys.executable, "-m", "scripts.cli", "parse", "--bundle", bundle, "--tree", "call zoë at 6"]
    given = {**environment(repository), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, cwd=repository, env=given, capture_output=True, text=True)
    assert done.returncode == 0 and "IN:" in done.stdout, done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("framefill ")


def test_help_waits_for_no_heavy_library(repository: Path):
    code = "import sys, scripts.cli as c; c.build_parser(); print([m for m in ('torch','transformers','numpy','rich','dataclasses','inspect') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(repository), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["evaluate", "export", "parse"])
def test_alias_scripts_start_from_any_folder(name: str, repository: Path, tmp_path: Path):
    words = [sys.executable, str(repository / "scripts" / f"{name}.py"), "--help"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(repository), capture_output=True, text=True)
    assert f"framefill {name}" in done.stdout, done.stderr


def test_mtop_help_names_what_cannot_be_trained(capsys):
    with pytest.raises(SystemExit):
        main(["data", "mtop", "--help"])
    assert "cannot train" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("word", "place", "value"),
    [
        ("--model.optimization.last_weight=null", ("optimization", "last_weight"), None),
        ("--model.init_args.optimization.encoder_lr=null", ("optimization", "encoder_lr"), None),
        ("--model.optimization={last_weight: null, rotation: 3}", ("optimization", "last_weight"), None),
        ("--model.model.language_model=null", ("model", "language_model"), None),
        ("--model.optimization.last_weight=0.5", ("optimization", "last_weight"), 0.5),
        ("--model.model.language_model=somebody/nullable", ("model", "language_model"), "somebody/nullable"),
    ],
)
def test_null_is_null_in_options_of_every_depth(word, place, value, repository: Path, monkeypatch: pytest.MonkeyPatch):
    from lightning_modules.cli import FrameFillCLI

    class Parsed(Exception):  # noqa: N818 (it ends the command once its options are read)
        pass

    def stop(cli: FrameFillCLI) -> None:
        raise Parsed(cli.chosen.model.init_args)

    monkeypatch.setattr(FrameFillCLI, "before_instantiate_classes", stop)
    monkeypatch.setattr(sys, "argv", ["fit", "fit", "--config", str(repository / "configs/layerskip_tiny.yaml"), word])
    with pytest.raises(Parsed) as caught:
        FrameFillCLI()
    assert caught.value.args[0][place[0]][place[1]] == value
