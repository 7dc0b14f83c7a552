"""Tables of utterances: kinds of file, the same output after a kill, engines of others."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from assistants.bulk import parse_table
from assistants.columns import COLUMNS
from assistants.tables import KINDS
from assistants.transforms import ParseBatch, spark_transform
from frames.errors import BundleError, CorpusError, MachineError, UsageError
from frames.locks import locked
from scripts.cli import main
from tests.training import environment

UTTERANCES = [
    "wake me at 6",
    'remind me to call "mum", at 6',
    "",
    "play some jazz",
    "é\nwhat is the weather",
    "wake me\rat 7",
]


@pytest.fixture(scope="module")
def small(repository: Path) -> Path:
    """The smallest bundle."""
    return repository / "models" / "conv-nar-topv2"


def rows_of(path: Path) -> list[dict]:
    return [row for unit in KINDS[path.suffix]().read(path, 100) for row in unit]


def written(folder: Path, suffix: str, utterances: list) -> Path:
    """A table of utterances with a number each."""
    path = folder / f"in{suffix}"
    rows = [{"number": number, "utterance": text} for number, text in enumerate(utterances)]
    KINDS[suffix]().write(path, rows, ["number", "utterance"], {}, path.with_suffix(".none"))
    return path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "utterance\nplay\n".encode("utf-16"), r"E545.*a\.csv:1.*UTF-8"),
        ("a.csv", b"utterance\nplay\ncaf\xe9\n", r"E545.*a\.csv:3.*UTF-8"),
        ("a.csv", b"n,utterance,n\n1,play,2\n", "E555.*'n'"),
        ("a.csv", b'utterance\n"play\n', "E545"),
        ("a.csv", b"utterance,n\nplay\n", r"E545.*a\.csv:2"),
        ("a.jsonl", b'{"utterance": "play"}\n{"utterance": "caf\xe9"}\n', r"E543.*a\.jsonl:2.*UTF-8"),
        ("a.jsonl", b"[" * 100_000, r"E543.*a\.jsonl:1.*nested"),
        ("a.jsonl", b'{"utterance": "play", "utterance": "stop"}\n', r"E543.*a\.jsonl:1.*'utterance' stands twice"),
        ("a.jsonl", '{"utterance": "play"}\n'.encode("utf-16"), r"E543.*a\.jsonl:1"),
    ],
)
def test_broken_tables_are_told_with_their_line(name: str, content: bytes, said: str, small: Path, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    out = tmp_path / f"out{Path(name).suffix}"
    with pytest.raises((CorpusError, UsageError), match=said):
        parse_table(tmp_path / name, out, small, processes=1)
    assert not out.exists()


@pytest.mark.parametrize("suffix", sorted(KINDS))
def test_text_that_is_no_unicode_is_an_error_of_its_row(suffix: str, small: Path, tmp_path: Path):
    lines = ['{"utterance": "snooze"}', '{"utterance": "\\ud83d"}', '{"utterance": "play jazz"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    parse_table(tmp_path / "in.jsonl", tmp_path / f"out{suffix}", small, processes=1)
    rows = rows_of(tmp_path / f"out{suffix}")
    assert [row["error"] or None for row in rows] == [None, "E412", None]
    assert rows[0]["frame"] and rows[2]["frame"]
    assert rows[1]["utterance"] == ("\ud83d" if suffix == ".jsonl" else "\\ud83d")


@pytest.mark.parametrize("given", sorted(KINDS))
@pytest.mark.parametrize("wanted", sorted(KINDS))
def test_every_kind_of_table_becomes_every_other(given: str, wanted: str, small: Path, tmp_path: Path):
    source, out = written(tmp_path, given, UTTERANCES), tmp_path / f"out{wanted}"
    seen: list[int] = []
    parse_table(source, out, small, processes=1, rows=4, progress=seen.append)
    rows = rows_of(out)
    assert seen == [4, 2] and list(rows[0]) == ["number", "utterance", *COLUMNS]
    assert [row["utterance"] for row in rows] == UTTERANCES
    assert [int(row["number"]) for row in rows] == list(range(6))
    assert rows[0]["frame"] == "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]" and float(rows[0]["score"]) < 0
    assert json.loads(rows[0]["tree"])["children"][0]["children"] == [{"start": 8, "end": 12, "text": "at 6"}]
    assert [row["error"] or None for row in rows] == [None, None, "E410", None, None, None]
    assert not rows[2]["frame"] and not rows[2]["score"]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == sorted(
        [source.name, out.name]
    )


def test_types_of_parquet_columns_stay(small: Path, tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = arrow.table(
        {
            "when": arrow.array([1, 2, None], arrow.timestamp("ns", "UTC")),
            "tags": arrow.array([["a"], None, []], arrow.list_(arrow.string())),
            "utterance": arrow.array(["wake me at 6", None, "x"], arrow.large_string()),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=1)
    parse_table(tmp_path / "in.parquet", tmp_path / "out.parquet", small, processes=1, rows=2)
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).equals(table)
    assert found["error"].to_pylist() == [None, "E454", None]


def test_a_blank_line_is_a_row_where_there_is_one_column(small: Path, tmp_path: Path):
    (tmp_path / "in.csv").write_text("utterance\nwake me at 6\n\nplay jazz\n")
    rows = rows_of(parse_table(tmp_path / "in.csv", tmp_path / "out.csv", small, processes=1))
    assert [row["utterance"] for row in rows] == ["wake me at 6", "", "play jazz"]
    assert rows[1]["error"] == "E410"
    (tmp_path / "in.csv").write_text("n,utterance\n1,wake me at 6\n\n2,play jazz\n")
    assert [row["n"] for row in rows_of(tmp_path / "in.csv")] == ["1", "2"]


@pytest.mark.parametrize("at", [4, 200, -60])
def test_damaged_parquet_is_told_with_its_file(at: int, small: Path, tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "in.parquet"
    table = arrow.table({"utterance": [f"play song {number}" for number in range(500)]})
    pyarrow.parquet.write_table(table, path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[at : at + 16] = b"\xff" * 16
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"E547.*in\.parquet"):
        parse_table(path, tmp_path / "out.csv", small, processes=1)
    with pytest.raises(FileNotFoundError):
        KINDS[".parquet"]().count(tmp_path / "none.parquet")


def test_values_of_parquet_that_python_does_not_have_are_told(small: Path, tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    year = 31_556_952
    for values in (
        arrow.array([0, 20_000 * year], arrow.timestamp("s")),
        arrow.array([10**9], arrow.date32()),
        arrow.array([b"\xff"], arrow.binary()).view(arrow.string()),
    ):
        path = tmp_path / "in.parquet"
        pyarrow.parquet.write_table(arrow.table({"when": values, "utterance": ["play"] * len(values)}), path)
        with pytest.raises(CorpusError, match=r"E228.*in\.parquet.*'when'"):
            parse_table(path, tmp_path / "out.csv", small, processes=1)


def test_processes_change_nothing(small: Path, tmp_path: Path):
    source = written(tmp_path, ".jsonl", UTTERANCES * 5)
    one = parse_table(source, tmp_path / "one.jsonl", small, processes=1, rows=7)
    two = parse_table(source, tmp_path / "two.jsonl", small, processes=2, rows=7)
    assert one.read_bytes() == two.read_bytes()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(small: Path, repository: Path, tmp_path: Path):
    suffix = ".parquet"
    source, out = (
        written(tmp_path, suffix, [f"wake me at {n} {'pm' * (n % 2)}" for n in range(240)]),
        tmp_path / f"out{suffix}",
    )
    whole = parse_table(source, tmp_path / f"whole{suffix}", small, processes=1, rows=4)
    code = (
        "import sys; from pathlib import Path; from assistants.bulk import parse_table\n"
        "if __name__ == '__main__': parse_table(*map(Path, sys.argv[1:4]), processes=2, rows=4)\n"
    )
    script = tmp_path / "job.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(source), str(out), str(small)]
    process = subprocess.Popen(command, env=environment(repository), start_new_session=True)
    parts = tmp_path / f".{out.name}.parts"
    deadline = time.monotonic() + 300
    while len(list(parts.glob("0*"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while alive(process.pid):
        assert time.monotonic() < deadline, "processes that parse outlive their parent"
        time.sleep(0.01)
    kept = {part.name: (part.stat().st_mtime_ns, digest(part)) for part in parts.glob("0*")}
    assert not out.exists() and 3 <= len(kept) < 60
    seen: list[int] = []

    def progress(rows: int) -> None:
        seen.append(rows)
        assert all((parts / name).stat().st_mtime_ns == changed for name, (changed, _) in kept.items())

    parse_table(source, out, small, processes=1, rows=4, progress=progress)
    assert sum(seen) == 240 and out.read_bytes() == whole.read_bytes()
    assert not parts.exists()


def alive(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def stop(*_):
    raise KeyboardInterrupt


def test_parts_of_another_job_are_not_used(small: Path, tmp_path: Path):
    source, out = written(tmp_path, ".jsonl", ["wake me at 6"] * 3), tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        parse_table(source, out, small, processes=1, rows=1, progress=stop)
    assert [part.name for part in (tmp_path / ".out.jsonl.parts").glob("0*")] == ["00000000.jsonl"]
    source.write_text('{"utterance": "play queen"}\n')
    parse_table(source, out, small, processes=1, rows=1)
    assert [row["utterance"] for row in rows_of(out)] == ["play queen"]


def test_parts_of_a_bundle_that_decides_otherwise_are_not_used(small: Path, tmp_path: Path):
    source, out = written(tmp_path, ".jsonl", ["wake me at 6"] * 3), tmp_path / "out.jsonl"
    bundle = shutil.copytree(small, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        parse_table(source, out, bundle, processes=1, rows=1, progress=stop)
    manifest["metrics"]["latency_ms"] = 1.0
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    part = tmp_path / ".out.jsonl.parts" / "00000000.jsonl"
    kept = part.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        parse_table(source, out, bundle, processes=1, rows=1, progress=stop)
    assert part.stat().st_mtime_ns == kept
    manifest["confidence"]["threshold"] = 1.0
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    parse_table(source, out, bundle, processes=1, rows=1)
    assert [row["abstained"] for row in rows_of(out)] == [True] * 3


def test_a_file_that_another_run_wrote_meanwhile_stays(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, out = written(tmp_path, ".jsonl", ["wake me at 6"]), tmp_path / "out.jsonl"

    @contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        with locked(folder):
            out.write_text("of another run")
            yield

    monkeypatch.setattr("assistants.bulk.locked", after_another)
    with pytest.raises(UsageError, match="E450"):
        parse_table(source, out, small, processes=1)
    assert out.read_text() == "of another run"
    assert parse_table(source, out, small, processes=1, overwrite=True) == out and len(rows_of(out)) == 1


def test_a_file_that_was_put_there_between_two_runs_stays(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, out = written(tmp_path, ".csv", ["wake me at 6"] * 2), tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        parse_table(source, out, small, processes=1, rows=1, progress=stop)
    out.write_text("somebody's own")
    with pytest.raises(UsageError, match="E450"):
        parse_table(source, out, small, processes=1, rows=1)
    assert out.read_text() == "somebody's own"
    out.unlink()
    # A run that is killed between writing the output and removing the parts is ended by the next one.
    with monkeypatch.context() as patch:
        patch.setattr("assistants.bulk.shutil.rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            parse_table(source, out, small, processes=1, rows=1)
    whole = out.read_bytes()
    out.write_bytes(whole + b"a line of somebody's own\n")
    with pytest.raises(UsageError, match="E450"):
        parse_table(source, out, small, processes=1, rows=1)
    out.write_bytes(whole)
    parse_table(source, out, small, processes=1, rows=1)
    assert out.read_bytes() == whole and not (tmp_path / ".out.csv.parts").exists()


def test_a_process_that_is_killed_is_told(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = written(tmp_path, ".jsonl", ["wake me at 6"] * 3)
    monkeypatch.setattr("assistants.bulk._start", kill_itself)
    with pytest.raises(MachineError, match="E553"):
        parse_table(source, tmp_path / "out.jsonl", small, processes=2)


def kill_itself(job: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_errors_of_processes_that_parse_are_told(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    source = tmp_path / "in.jsonl"
    source.write_text('{"utterance": "wake me at 6"}\n{"utterance": "wake me at 6", "b": 1}\n')
    monkeypatch.setattr("assistants.bulk._check_rows", lambda *_: None)
    with pytest.raises(CorpusError, match="E549.*'b'"):
        parse_table(source, tmp_path / "out.csv", small, processes=2)
    with pytest.raises(BundleError, match="E324"):
        parse_table(source, tmp_path / "out.csv", small, precision="int4", processes=2)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    "values",
    [
        ["1", '"c"'],
        ["1", "[1]"],
        ["true", "1"],
        ['{"c": [1]}', '{"c": ["d"]}'],
        ["1", str(2**63)],
        ["1", "{}"],
        ["1", "[{}]"],
    ],
)
@pytest.mark.parametrize("rows", [1, 2])
def test_values_that_parquet_cannot_hold_are_told_first(values: list[str], rows: int, small: Path, tmp_path: Path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    source.write_text("".join(f'{{"utterance": "snooze", "b": {value}}}\n' for value in values))
    with pytest.raises(CorpusError, match=r"E550.*in\.jsonl: .*'b'"):
        parse_table(source, out, small, processes=1, rows=rows, progress=pytest.fail)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".jsonl", ".lock")]


def test_parts_of_parquet_that_do_not_fit_together_are_told(tmp_path: Path):
    kind, parts = KINDS[".parquet"](), [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for second, said in (("c", "int64 vs string"), (0.5, "not in range")):
        for part, value in zip(parts, (2**60 + 1, second), strict=True):
            kind.write(part, [{"b": value}], ["b"], {}, tmp_path / "in.jsonl")
        with pytest.raises(CorpusError, match=f"E550.*'b'.*{said}"):
            kind.join(parts, tmp_path / "out.parquet")


def test_kinds_of_numbers_become_one_in_parquet(small: Path, tmp_path: Path):
    source = tmp_path / "in.jsonl"
    lines = [
        '"n": 1, "o": {"c": 1}',
        '"n": null, "o": null',
        '"n": 1.5, "o": {"d": ["\\ud83d"], "\\ud83d": 1}',
    ]
    source.write_text("".join(f'{{"utterance": "snooze", {line}}}\n' for line in lines))
    rows = rows_of(parse_table(source, tmp_path / "out.parquet", small, processes=1, rows=1))
    assert [row["n"] for row in rows] == [1.0, None, 1.5]
    assert rows[2]["o"] == {"c": None, "d": ["\\ud83d"], "\\ud83d": 1}


def test_tables_that_are_refused(small: Path, tmp_path: Path):
    def parse(content: str, name: str = "in.jsonl", out: str = "out.jsonl", **options):
        (tmp_path / name).write_text(content)
        parse_table(tmp_path / name, tmp_path / out, small, processes=1, **options)

    good = '{"utterance": "wake me at 6"}\n'
    for code, content, name, out, options in [
        ("E543", "{\n", "in.jsonl", "out.jsonl", {}),
        ("E544", "[]\n", "in.jsonl", "out.jsonl", {}),
        ("E545", 'utterance\n"a\n', "in.csv", "out.csv", {}),
        ("E545", "utterance,b\na\n", "in.csv", "out.csv", {}),
        ("E545", "utterance\na,b\n", "in.csv", "out.csv", {}),
        ("E547", "no parquet", "in.parquet", "out.csv", {}),
        ("E549", good + '{"utterance": "x", "b": 1}\n', "in.jsonl", "out.csv", {}),
        ("E550", '{"utterance": "x", "b": 1}\n{"utterance": "x", "b": "c"}\n', "in.jsonl", "out.parquet", {}),
        ("E551", good, "in.jsonl", "out.jsonl", {"column": "text"}),
        ("E552", '{"utterance": "x", "frame": 1}\n', "in.jsonl", "out.jsonl", {}),
        ("E552.*row 2", good + '{"utterance": "x", "frame": 1}\n', "in.jsonl", "out.jsonl", {}),
        ("E548", good, "in.tsv", "out.jsonl", {}),
        ("E548", good, "in.jsonl", "out", {}),
        ("E450", good, "in.jsonl", "in.jsonl", {}),
    ]:
        with pytest.raises((UsageError, CorpusError), match=code):
            parse(content, name, out, **options)
    with pytest.raises(BundleError, match="E320"):
        parse_table(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "none")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("suffix", sorted(KINDS))
def test_a_table_without_rows(suffix: str, small: Path, tmp_path: Path):
    source = written(tmp_path, suffix, [])
    out = parse_table(source, tmp_path / f"out{suffix}", small, processes=1)
    assert rows_of(out) == []
    if suffix != ".jsonl":
        assert KINDS[suffix]().names(out) == ["number", "utterance", *COLUMNS]


def test_the_command(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = written(tmp_path, ".csv", UTTERANCES), tmp_path / "out.csv"
    words = ["parse", "--in", str(source), "--out", str(out), "--bundle", str(small), "--processes", "1"]
    assert main(words) == 0
    assert len(list(csv.reader(out.open(newline="")))) == 7
    assert main(words) == 2 and "E450" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    others = [["--tree"], ["--threads", "2"], ["--threads", "0"], ["--device", "cuda"], ["play"]]
    alone = [["--column", "text"], ["--processes", "0"], ["--overwrite"], words[1:3]]
    for refused in [
        *([*words, *other] for other in others),
        *(["parse", *option, "play"] for option in alone),
        words[:3],
    ]:
        assert main(refused) == 2 and "E554" in capsys.readouterr().err, refused


def test_engines_of_others_get_the_same_columns(small: Path, tmp_path: Path):
    import pandas as pd

    source = written(tmp_path, ".jsonl", UTTERANCES)
    rows = rows_of(parse_table(source, tmp_path / "out.jsonl", small, processes=1))
    batch = {"number": np.arange(6), "utterance": np.array(UTTERANCES, dtype=object)}
    taken = {**batch, "frame": np.arange(6)}
    with pytest.raises(UsageError, match="E552"):
        ParseBatch(small)(taken)
    with pytest.raises(UsageError, match="E552"):
        list(spark_transform(small)(iter([pd.DataFrame(taken)])))
    by_ray = ParseBatch(small)(batch)
    frames = [pd.DataFrame(batch)[:4], pd.DataFrame(batch)[4:]]
    by_spark = pd.concat(spark_transform(small)(iter(frames)))
    for found in (by_ray, by_spark):
        assert list(found) == ["number", "utterance", *COLUMNS]
        for name in ("frame", "tree", "error"):
            # Newer versions of pandas have NaN in place of None.
            assert [None if pd.isna(value) else value for value in found[name]] == [row[name] for row in rows]
        assert found["score"].dtype == found["probability"].dtype == np.float64
        assert np.isnan(found["probability"]).tolist() == [row["error"] is not None for row in rows]
