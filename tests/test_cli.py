import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.cli import main
from tests.training import environment


def test_evaluate_writes_what_others_read(bundle: Path, checkpoint: Path, corpus: Path, tmp_path: Path, capsys):
    found = {}
    for which, path in (("--bundle", bundle), ("--checkpoint", checkpoint)):
        out, rows = tmp_path / f"{which}.json", tmp_path / f"{which}.tsv"
        words = ["evaluate", which, str(path), "--data-root", str(corpus), "--split", "eval"]
        assert main([*words, "--json", str(out), "--predictions", str(rows)]) == 0
        found[which] = json.loads(out.read_text())
        assert {"exact_match", "count", "well_formed", "by_domain"} <= found[which].keys()
        lines = rows.read_text().splitlines()
        assert len(lines) == found[which]["count"] + 1 == 121
        exact = sum(line.endswith("\t1") for line in lines)
        assert 100 * exact / 120 == pytest.approx(found[which]["exact_match"], abs=0.01)
    assert "by domain" in capsys.readouterr().out
    assert found["--bundle"]["made"]["precision"] == "int8"


def test_evaluate_one_domain_folder(bundle: Path, corpus: Path, tmp_path: Path):
    (tmp_path / "timer_eval.tsv").write_bytes((corpus / "timer_eval.tsv").read_bytes())
    assert (
        main(["evaluate", "--bundle", str(bundle), "--data-root", str(tmp_path), "--json", str(tmp_path / "o.json")])
        == 0
    )
    assert list(json.loads((tmp_path / "o.json").read_text())["by_domain"]) == ["timer"]


def test_a_bundle_keeps_its_own_figures(bundle: Path, corpus: Path, tmp_path: Path):
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    before = json.loads((copy / "manifest.json").read_text())
    words = ["evaluate", "--data-root", str(corpus), "--json", str(tmp_path / "o.json"), "--keep"]
    assert main(words) == 2
    words += ["--bundle", str(copy)]
    assert main([*words, "--domains", "timer"]) == main([*words, "--split", "train"]) == 2
    assert main([*words, "--precision", "fp32"]) == 2, "these are not the figures of what `framefill parse` uses"
    assert json.loads((copy / "manifest.json").read_text()) == before
    assert main(words) == 0
    after = json.loads((copy / "manifest.json").read_text())
    told = json.loads((tmp_path / "o.json").read_text())
    assert after["metrics"]["by_domain"] == told["by_domain"] and after["metrics"] != before["metrics"]
    assert {**after, "metrics": None} == {**before, "metrics": None}
    assert main(["parse", "--bundle", str(copy), "wake me at 6"]) == 0


def test_parse_arguments_stdin_json_tree_n_best(bundle: Path, capsys, monkeypatch):
    assert main(["parse", "--bundle", str(bundle), "wake me at 6", "stop the timer"]) == 0
    plain = capsys.readouterr().out.splitlines()
    assert len(plain) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("wake me at 6\nstop the timer\n"))
    assert main(["parse", "--bundle", str(bundle)]) == 0
    assert capsys.readouterr().out.splitlines() == plain
    assert main(["parse", "--bundle", str(bundle), "--json", "--n-best", "2", "wake me at 6"]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(value["number"], value["rank"]) for value in values] == [(1, 1), (1, 2)]
    assert values[0]["text"] == plain[0]
    assert values[0]["score"] >= values[1]["score"]
    assert main(["parse", "--bundle", str(bundle), "--tree", "wake me at 6"]) == 0
    assert "IN:" in capsys.readouterr().out


def test_what_cannot_be_parsed_is_told_and_the_rest_is_parsed(bundle: Path, capsys, monkeypatch):
    given = io.TextIOWrapper(io.BytesIO(b"wake me at 6\n\nstop \xff\nstop the timer\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", given)
    assert main(["parse", "--bundle", str(bundle)]) == 2
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [bool(line) for line in lines] == [True, False, False, True]
    for part in ("[E410] utterance 2", "[E412] utterance 3", "[E408] 2 utterance(s)"):
        assert part in told.err


def test_errors_go_to_stderr_with_status_2(tmp_path: Path, bundle: Path, checkpoint: Path, corpus: Path, capsys):
    for words, code in (
        (["parse", "--checkpoint", str(checkpoint), "--device", "meta", "x"], "E476"),
        (["parse", "--bundle", str(bundle), "--device", "cuda", "x"], "E439"),
        (["evaluate", "--bundle", str(bundle), "--data-root", str(corpus), "--decoding", "length_beam=1"], "E447"),
        (["evaluate", "--checkpoint", str(checkpoint), "--data-root", str(corpus), "--decoding", "beams=1"], "E434"),
        (["parse", "--bundle", str(tmp_path / "none"), "x"], "E320"),
        (["parse", "--bundle", str(bundle), "  "], "E410"),
        (["export", "--checkpoint", "x", "--out", str(tmp_path), "--metrics", str(tmp_path / "none.json")], "E409"),
        (["data", "verify", "--data-root", str(tmp_path)], "E223"),
        (["parse", "--bundle", str(bundle), "--n-best", "0", "x"], "E402"),
        (["evaluate", "--bundle", str(bundle), "--data-root", str(corpus), "--split", "dev"], "E203"),
        (["export", "--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "o")], "E301"),
        (
            [
                "data",
                "sample",
                "--data-root",
                str(corpus),
                "--domain",
                "timer",
                "--spis",
                "0",
                "--out",
                str(tmp_path / "s"),
            ],
            "E402",
        ),
    ):
        assert main(words) == 2
        assert code in capsys.readouterr().err


def test_a_model_without_a_rescorer_does_not_rescore(checkpoint: Path, corpus: Path, tmp_path: Path, capsys):
    for words in (
        ["export", "--out", str(tmp_path / "out")],
        ["evaluate", "--data-root", str(corpus), "--json", str(tmp_path / "out.json")],
    ):
        assert main([*words, "--checkpoint", str(checkpoint), "--decoding", "num_rescored=4"]) == 2
        assert re.search(r"E434.*rescoring_layers", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_data_commands(tmp_path: Path, corpus: Path, capsys):
    out = tmp_path / "sample.tsv"
    assert (
        main(["data", "sample", "--data-root", str(corpus), "--domain", "timer", "--spis", "3", "--out", str(out)]) == 0
    )
    assert out.exists()
    assert main(["data", "describe", "--data-root", str(corpus), "--out", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").exists()
    assert main(["data", "verify", "--data-root", str(corpus)]) == 2
    assert "changed  alarm_train.tsv" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--help"], ["evaluate", "--help"], ["parse", "--help"], ["export", "--help"], ["data", "--help"]]
)
def test_help_teaches(words: list[str], capsys):
    with pytest.raises(SystemExit):
        main(words)
    text = capsys.readouterr().out
    assert "usage" in text
    assert len(text) > 300


def test_scripts_are_the_command(repository: Path, bundle: Path):
    words = [sys.executable, "-m", "scripts.parse", "--bundle", str(bundle), "wake me at 6"]
    done = subprocess.run(words, cwd=repository, env=environment(repository), capture_output=True, text=True)
    assert done.stdout.startswith("[IN:"), done.stderr
