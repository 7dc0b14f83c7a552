import http.server
import socketserver
import threading
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from data.synthetic import generate, write_corpus
from data.topv2 import download as downloading
from data.topv2 import verify as verifying
from data.topv2.contradictions import contradictory
from data.topv2.describe import describe
from data.topv2.reader import Example, corpus_checksum, data_root, read_file, read_split, write_file
from data.topv2.spis import labels, sample
from data.training.augment import swap_values, with_texts
from frames.errors import CorpusError, FrameError, FramefillWarning, MachineError
from frames.files import sha256, write_text
from frames.frame import Frame
from frames.linearization import Canonical, IndexForm, ScenarioForm, SpanForm
from frames.nodes import Span
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from retrieval.bank import ScenarioBank
from scripts.cli import main

HEADER = "domain\tutterance\tsemantic_parse\n"
ROW = "alarm\twake me\t[IN:CREATE_ALARM wake me ]\n"


def test_round_trip_keeps_quotes_and_odd_spaces(tmp_path: Path):
    row = 'alarm\tsay  "hi" at 8am\t[IN:CREATE_ALARM say "hi" [SL:DATE_TIME at 8 am ] ]\n'
    path = tmp_path / "alarm_train.tsv"
    path.write_text(HEADER + row)
    (example,) = read_file(path)
    assert example.utterance == 'say  "hi" at 8am'
    write_file(tmp_path / "again.tsv", [example])
    assert read_file(tmp_path / "again.tsv") == [example]


@pytest.mark.parametrize(
    ("content", "code", "place"),
    [
        (b"", "E207", "x.tsv"),
        (HEADER.encode(), "E213", "x.tsv"),
        (b"utterance\tparse\n", "E208", "x.tsv:1"),
        ((HEADER + "alarm\twake me\n").encode(), "E209", "x.tsv:2"),
        ((HEADER + ROW + "alarm\twa").encode(), "E209", "x.tsv:3"),
        (HEADER.encode() + b"alarm\t\xff\t[IN:A ]\n", "E206", "x.tsv:2"),
        ((HEADER + "alarm\twa\x00ke\t[IN:A wa\x00ke ]\n").encode(), "E210", "x.tsv:2"),
        ((HEADER + "alarm\t \t[IN:A ]\n").encode(), "E211", "x.tsv:2"),
    ],
)
def test_broken_files_are_told_with_file_and_line(tmp_path: Path, content: bytes, code: str, place: str):
    path = tmp_path / "x.tsv"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        read_file(path)
    assert caught.value.code == code
    assert place in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "parse", ["[IN:A wake me", "[IN:A [SL:B [SL:C wake ] ] me ]", "[IN:A wake you ]", "[in:A wake me ]"]
)
def test_malformed_frames_are_told_with_file_line_and_column(tmp_path: Path, parse: str):
    path = tmp_path / "x.tsv"
    path.write_text(HEADER + ROW + f"alarm\twake me\t{parse}\n")
    with pytest.raises(FrameError, match=r"x\.tsv:3, column 3"):
        read_file(path)


def test_missing_folders_splits_and_domains_say_what_is_there(tmp_path: Path, corpus: Path, monkeypatch):
    monkeypatch.delenv("TOPV2_DIR", raising=False)
    with pytest.raises(CorpusError, match="TOPV2_DIR"):
        data_root()
    monkeypatch.setenv("TOPV2_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match="E202"):
        data_root()
    with pytest.raises(CorpusError, match="Splits there: eval, test, train"):
        read_split(corpus, "dev")
    with pytest.raises(CorpusError, match="Domains there: alarm, event"):
        read_split(corpus, "eval", ["cooking"])
    with pytest.raises(CorpusError, match="E203"):
        read_split(corpus, "train_10spis")
    with pytest.raises(CorpusError, match="E212"):
        write_file(
            tmp_path / "x.tsv",
            [read_split(corpus, "eval")[0].__class__("a", "b\tc", read_split(corpus, "eval")[0].frame)],
        )


def test_a_folder_with_one_domain_works(tmp_path: Path, corpus: Path):
    (tmp_path / "timer_eval.tsv").write_bytes((corpus / "timer_eval.tsv").read_bytes())
    assert {example.domain for example in read_split(tmp_path, "eval")} == {"timer"}
    assert corpus_checksum(tmp_path, "eval") == corpus_checksum(corpus, "eval", ["timer"])
    assert corpus_checksum(tmp_path, "eval") != corpus_checksum(corpus, "eval")


def test_a_domain_named_twice_is_read_once(corpus: Path):
    twice, once = ["alarm", "timer", "alarm"], ["alarm", "timer"]
    assert read_split(corpus, "eval", twice) == read_split(corpus, "eval", once)
    assert corpus_checksum(corpus, "eval", twice) == corpus_checksum(corpus, "eval", once)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch):
    path = tmp_path / "kept.txt"
    write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.txt"]


def test_synthetic_corpus_is_large_distinct_and_the_same_everywhere():
    rows = generate()
    every = [example for split in rows.values() for example in split]
    assert {split: len(examples) for split, examples in rows.items()} == {"train": 16_000, "eval": 2_000, "test": 2_000}
    assert len({example.utterance.casefold() for example in every}) == len(every) == 20_000
    intents = {node.label for example in every for node in example.frame.intents()}
    slots = {node.label for example in every for node in example.frame.slots()}
    assert len(intents) >= 40
    assert len(slots) >= 40
    assert max(example.frame.depth for example in every) >= 3
    trained = Counter(label for example in rows["train"] for label in labels(example.frame))
    assert all(
        trained[label] for split in ("eval", "test") for example in rows[split] for label in labels(example.frame)
    )
    known = {example.frame.scenario() for example in rows["train"]}
    unseen = sum(example.frame.scenario() not in known for example in rows["eval"])
    assert 0.02 < unseen / 2_000 < 0.08
    assert rows == generate()
    assert rows["train"][:50] != generate(seed=1, train=50, evaluation=1, test=1)["train"]


def test_synthetic_corpus_defeats_parsers_that_do_not_parse():
    rows = generate(train=6_000, evaluation=1_000, test=1)
    scenarios: dict[str, Counter] = {}
    frames = {example.utterance: example.frame.scenario() for example in rows["train"]}
    for example in rows["train"]:
        scenarios.setdefault(example.domain, Counter())[example.frame.scenario()] += 1
    majority = {domain: counts.most_common(1)[0][0] for domain, counts in scenarios.items()}
    looked_up = sum(frames.get(example.utterance) == example.frame.scenario() for example in rows["eval"])
    guessed = sum(majority[example.domain] == example.frame.scenario() for example in rows["eval"])
    assert looked_up == 0
    assert guessed / 1_000 < 0.2


def test_synthetic_files_are_read_back(tmp_path: Path):
    root = write_corpus(tmp_path / "c", train=60, evaluation=20, test=5)
    expected = generate(train=60, evaluation=20, test=5)["eval"]
    assert sorted(read_split(root, "eval"), key=repr) == sorted(expected, key=repr)


def test_spis_rule():
    rows = generate(train=1_500, evaluation=1, test=1)["train"]
    taken = sample(rows, 5)
    counts, every = (sum((labels(r.frame) for r in part), Counter()) for part in (taken, rows))
    assert all(counts[label] >= min(5, every[label]) for label in every)
    running: Counter = Counter()
    for row in taken:
        assert any(running[label] < 5 for label in labels(row.frame))
        running.update(labels(row.frame))
    assert taken == sample(rows, 5)
    assert taken != sample(rows, 5, seed=1)
    with pytest.raises(ValueError, match="at least 1"):
        sample(rows, 0)


@pytest.mark.parametrize("spis", [10, 25, 100])
def test_official_samples_obey_the_rule(topv2_root: Path, spis: int):
    for domain in ("weather", "reminder"):
        official = read_split(topv2_root, f"train_{spis}spis", [domain])
        running: Counter = Counter()
        for row in official:
            assert any(running[label] < spis for label in labels(row.frame))
            running.update(labels(row.frame))
        drawn = sample(read_split(topv2_root, "train", [domain]), spis)
        assert len(drawn) == pytest.approx(len(official), rel=0.1)


def test_official_files_are_the_official_files(topv2_root: Path):
    checks = verifying.verify(topv2_root)
    assert {check.status for check in checks if "test" not in check.name} == {"ok"}


def test_verify_sees_missing_and_changed_files(tmp_path: Path):
    (tmp_path / "alarm_eval.tsv").write_text(HEADER + ROW)
    found = {check.name: check.status for check in verifying.verify(tmp_path)}
    assert found["alarm_eval.tsv"] == "changed"
    assert found["alarm_train.tsv"] == "missing"


def test_report_is_one_page_without_rows(tmp_path: Path, corpus: Path):
    text = describe(corpus, tmp_path / "report.html").read_text()
    assert text.count("<img") == 5
    assert "scenarios in train cover" in text
    assert not any(example.utterance in text for example in read_split(corpus, "eval") if len(example.utterance) > 12)


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves ``content``; the first request is cut in the middle when ``cut`` is set."""

    content, cut, ranges = b"", False, True

    def do_GET(self):
        asked = self.headers.get("Range")
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.ranges else 0
        body = self.content[start:]
        self.send_response(206 if asked and self.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if type(self).cut else body)
        type(self).cut = False

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch):
    """A server with an archive whose checksums count as the official ones."""
    source = write_corpus(tmp_path / "source", train=60, evaluation=20, test=5)
    sums = {path.name: sha256(path) for path in source.glob("*.tsv") if "test" not in path.name}
    for module in (verifying, downloading):
        monkeypatch.setattr(module, "official_sums", lambda: sums)
    archive = tmp_path / "topv2.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in source.glob("*.tsv"):
            stream.write(path, f"TOPv2_Dataset/{path.name}")
        stream.writestr("../escaped.txt", "x")
    handler = type("Handler", (_Server,), {"content": archive.read_bytes()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", handler
        running.shutdown()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_is_continued_verified_and_unpacked(tmp_path: Path, server, ranges: bool):
    url, handler = server
    handler.cut, handler.ranges = True, ranges
    with pytest.raises(MachineError, match="Run the command again to continue"):
        downloading.download(tmp_path / "out", url)
    assert (tmp_path / "out.zip.part").exists()
    assert not (tmp_path / "out").exists()
    seen = []
    root = downloading.download(tmp_path / "out", url, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(handler.content)
    assert len(read_split(root, "train")) == 60
    assert not (tmp_path / "escaped.txt").exists()
    assert not (tmp_path / "out.zip.part").exists()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\ncut", b"no status\r\n\r\n"],
    ids=["cut", "status"],
)
def test_an_answer_that_is_no_http_is_told_as_a_failed_download(answer: bytes, tmp_path: Path):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.handle_request, daemon=True).start()
        with pytest.raises(MachineError, match="E510.*Run the command again to continue"):
            downloading.download(tmp_path / "out", f"http://127.0.0.1:{running.server_address[1]}/")


def test_damaged_and_foreign_archives(tmp_path: Path, server):
    url, handler = server
    good, handler.content = handler.content, b"not a zip"
    with pytest.raises(CorpusError, match="E222"):
        downloading.download(tmp_path / "out", url)
    handler.content = good
    (tmp_path / "source" / "timer_train.tsv").write_text(HEADER + ROW)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as stream:
        stream.write(tmp_path / "source" / "timer_train.tsv", "timer_train.tsv")
    handler.content = (tmp_path / "other.zip").read_bytes()
    with pytest.raises(CorpusError, match=r"E221.*timer_train\.tsv"):
        downloading.download(tmp_path / "out", url)
    assert not (tmp_path / "out").exists()
    handler.content = good
    assert downloading.download(tmp_path / "out", url).is_dir(), "the wrong archive is not read again"


def test_no_network_gives_the_manual_steps(tmp_path: Path):
    with pytest.raises(MachineError, match="set TOPV2_DIR"):
        downloading.download(tmp_path / "out", "http://127.0.0.1:9/")


def test_swapped_values_keep_the_rest():
    rows = generate(seed=3, train=400, evaluation=1, test=1)["train"]
    made = swap_values(rows, 2, seed=0)
    assert len(made) == len(rows)
    assert sum(map(len, made)) > len(rows)
    assert made == swap_values(rows, 2, seed=0) != swap_values(rows, 2, seed=1)
    values = {value for row in rows for value in _slot_texts(row)}
    for row, variants in zip(rows, made, strict=True):
        for variant in variants:
            assert variant.domain == row.domain
            assert variant.utterance != row.utterance
            assert variant.frame.scenario() == row.frame.scenario()
            assert _slot_texts(variant) <= values
            assert Frame.parse(str(variant.frame), variant.utterance) == variant.frame


def _slot_texts(row: Example) -> set[tuple[str, str, str]]:
    return {
        (row.domain, slot.label, row.utterance[child.start : child.end])
        for slot in row.frame.slots()
        for child in slot.children
        if isinstance(child, Span)
    }


def test_a_leaf_reads_otherwise_and_the_others_move():
    frame = Frame.parse("[IN:A play [SL:B one song ] by [SL:C [IN:D [SL:E x ] ] ] now ]")
    first = next(slot for slot in frame.slots() if slot.label == "B").children[0]
    assert isinstance(first, Span)
    changed = with_texts(frame, {first: "two long songs"})
    assert str(changed) == "[IN:A play [SL:B two long songs ] by [SL:C [IN:D [SL:E x ] ] ] now ]"
    assert changed.utterance == "play two long songs by x now"
    assert with_texts(frame, {}) == frame


@pytest.mark.parametrize(
    "content",
    [
        ("\ufeff" + HEADER + ROW).encode(),
        ("\ufeff" + HEADER + ROW).replace("\n", "\r\n").encode(),
        (HEADER + ROW + "\n \n\t\t\n").encode(),
        (HEADER + ROW + "\r\n\r\n").encode(),
        (HEADER + ROW.rstrip("\n")).encode(),
    ],
)
def test_files_of_other_tools_are_read(tmp_path: Path, content: bytes):
    (tmp_path / "alarm_train.tsv").write_bytes(content)
    (tmp_path / "._alarm_train.tsv").write_bytes(b"\x00\x05\x16")
    (example,) = read_split(tmp_path, "train")
    assert str(example.frame) == "[IN:CREATE_ALARM wake me ]"


def test_a_blank_line_between_rows_is_told(tmp_path: Path):
    (tmp_path / "x.tsv").write_text(HEADER + "\n" + ROW)
    with pytest.raises(CorpusError, match=r"E209.*x\.tsv:2"):
        read_file(tmp_path / "x.tsv")


def test_decoupled_rows_and_own_labels_are_read_and_written_again(tmp_path: Path):
    rows = "tea\tbrew two cups now\t[IN:brew-tea [SL:amount.v2 two cups ] ]\n"
    (tmp_path / "tea_train.tsv").write_text(HEADER + rows)
    (example,) = read_split(tmp_path, "train")
    assert [example.frame.text(span) for span in example.frame.spans()] == ["two cups"]
    write_file(tmp_path / "again.tsv", [example])
    assert read_file(tmp_path / "again.tsv") == [example]
    ontology = Ontology.from_frames([example.frame])
    assert Ontology.from_dict(ontology.to_dict()).tokens == ("]", "IN:brew-tea", "SL:amount.v2")
    source = PieceTokenizer.train_sentencepiece([example.utterance], 30)(example.utterance)
    for form in (IndexForm(), SpanForm(), ScenarioForm(), Canonical()):
        assert form.decode(form.encode(example.frame, source), source) == example.frame
    bank = ScenarioBank.from_frames([example.frame])
    assert list(ScenarioBank.from_dict(bank.to_dict())) == list(bank)


def test_rows_that_contradict_one_another_are_counted(tmp_path: Path):
    rows = [
        "a\tWake me\t[IN:A wake me ]".replace("wake me ]", "Wake me ]"),
        "a\twake  me\t[IN:B wake me ]",
        "b\twake me\t[IN:C wake me ]",
        "a\tstop\t[IN:A stop ]",
        "a\tstop\t[IN:A stop ]",
    ]
    (tmp_path / "a_train.tsv").write_text(HEADER + "\n".join(rows) + "\n")
    (group,) = contradictory(read_split(tmp_path, "train"))
    assert [row.frame.root.label for row in group] == ["A", "B"]
    assert "1 utterance (2 rows) in train" in describe(tmp_path, tmp_path / "r.html").read_text()


def test_ambiguous_decoupled_rows_are_read_and_named(tmp_path: Path, capsys):
    rows = [
        "a\tplay jazz\t[IN:PLAY [SL:GENRE jazz ] ]",
        "a\tplay me songs that cheer me up\t[IN:PLAY [SL:FOR me ] ]",
        "a\tfrom 5 to 15 or 5\t[IN:COUNT [SL:FROM 5 ] [SL:TO 15 ] [SL:OR 5 ] ]",
        "a\tset 6 alarms at 6\t[IN:SET [SL:TIME 6 ] ]",
        "a\tset 6 alarms at 6\t[IN:SET set 6 alarms at [SL:TIME 6 ] ]",
    ]
    (tmp_path / "a_eval.tsv").write_text(HEADER + "\n".join(rows) + "\n")
    with pytest.warns(FramefillWarning, match=r"a_eval\.tsv: 2 decoupled row.*lines 3, 5\)"):
        examples = read_split(tmp_path, "eval")
    assert [[(span.start, span.end) for span in example.frame.decoupled().spans()] for example in examples] == [
        [(5, 9)], [(5, 7)], [(5, 6), (10, 12), (16, 17)], [(4, 5)], [(16, 17)],
    ]  # fmt: skip
    with pytest.raises(FrameError, match="E114"):
        Frame.parse("[IN:SET [SL:TIME 6 ] ]", "set 6 alarms at 6")


def test_own_warnings_are_told_in_a_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    main(["data", "verify", "--data-root", "nowhere"])
    assert warnings.formatwarning("x.tsv: odd", FramefillWarning, "reader.py", 1) == "framefill: x.tsv: odd\n"
    assert "reader.py:1: UserWarning: odd" in warnings.formatwarning("odd", UserWarning, "reader.py", 1, "")
