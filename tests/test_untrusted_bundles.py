"""Bundles that a stranger made: refused by an error code of their own, before they cost anything."""

import gzip
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistants import banks, runtime, untrusted
from assistants.bundle import Bundle
from frames.errors import BundleError, FramefillError, UsageError
from frames.files import UNREADABLE_ZIP, read_member
from frames.outputs import check_output
from scripts.cli import main


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed; its large graphs are those of the committed one."""
    return shutil.copytree(repository / "models" / "conv-nar-topv2", tmp_path / "copy")


def edited(folder: Path, edit: Callable[[dict], object]) -> Path:
    """The bundle with another manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def replaced(folder: Path, name: str, content: bytes) -> Path:
    """The bundle with other content in a file, and its checksum."""
    (folder / name).write_bytes(content)
    return edited(folder, lambda manifest: manifest["files"].update({name: hashlib.sha256(content).hexdigest()}))


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", "", "a\x00b", "C:x", "..", "a\nb"]
)
def test_names_that_lead_out_of_a_bundle_are_refused(copy: Path, name: str):
    edited(copy, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="E390"):
        runtime.load(copy)


def test_a_bank_is_never_written_outside_of_its_folder(repository: Path, tmp_path: Path):
    outside = tmp_path / "outside.txt"
    outside.write_text("x")
    bundle = shutil.copytree(repository / "models" / "raf-topv2", tmp_path / "raf")
    checksum = hashlib.sha256(b"x").hexdigest()
    edited(bundle, lambda manifest: manifest["files"].update({"../outside.txt": checksum}))
    with pytest.raises(BundleError, match="E390"):
        banks.change(bundle, lambda table: table)
    assert outside.read_text() == "x"


@pytest.mark.parametrize("name", ["../manifest.json", "/manifest.json", "x/../../y"])
def test_zips_with_names_that_lead_out_of_them_are_refused(copy: Path, tmp_path: Path, name: str):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in copy.iterdir():
            archive.write(path, path.name)
        archive.writestr(name, "x")
    with pytest.raises(BundleError, match="E390"):
        runtime.load(tmp_path / "x.zip")


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_bomb_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="E391"):
        Bundle(zipped(tmp_path / "x.zip", {"manifest.json": b"{}", "encoder.onnx": bytes(64 << 20)}))
    with pytest.raises(BundleError, match="E391"):
        Bundle(zipped(tmp_path / "x.zip", {f"{number}": b"" for number in range(untrusted.MAX_FILES + 1)}))


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails if the block has had more than 20 MB at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def lying(path: Path, method: int, told: int = 1000) -> Path:
    """A zip whose manifest has 32 MiB and is told to have fewer bytes."""
    size = 32 << 20
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("manifest.json", b" " * size)
    content = path.read_bytes()
    assert content.count(struct.pack("<L", size)) == 2, "the header and the directory"
    path.write_bytes(content.replace(struct.pack("<L", size), struct.pack("<L", told)))
    return path


@pytest.mark.parametrize(
    ("method", "code"),
    [(zipfile.ZIP_BZIP2, "E391"), (zipfile.ZIP_LZMA, "E391"), (zipfile.ZIP_DEFLATED, "E326")],
)
def test_a_zip_that_lies_about_its_size_takes_no_memory(tmp_path: Path, method: int, code: str):
    path = lying(tmp_path / "x.zip", method)
    with little_memory(), pytest.raises(BundleError, match=code):
        Bundle(path)
    with little_memory(), pytest.raises(UsageError, match="E450"):
        check_output(path, overwrite=False)


@pytest.mark.parametrize("command", [["bank", "list"], ["wheel", "--out", "dist", "--name", "alarm_parser"]])
def test_a_damaged_zip_is_told_in_a_line(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("manifest.json", bytes(1000))
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[47:57] = bytes(10)  # of the packed file, behind the header of 30 bytes and the name of 13
    (tmp_path / "x.zip").write_bytes(content)
    assert main([*command, "--bundle", str(tmp_path / "x.zip")]) == 2
    assert "E391" in capsys.readouterr().err


def test_any_damage_of_a_zip_is_foreseen(tmp_path: Path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("ä", bytes(40))
        whole = stream.getvalue()
        for place in range(len(whole)):
            for value in (0, 1, 8, 14, 127, 255):
                content = whole[:place] + bytes([value]) + whole[place + 1 :]
                with suppress(*UNREADABLE_ZIP, OSError), zipfile.ZipFile(io.BytesIO(content)) as archive:
                    for name in archive.namelist():
                        read_member(archive, name)


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_a_file_without_an_end_is_refused(tmp_path: Path, target: str):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "manifest.json").symlink_to(tmp_path / target)
    # In a process of its own, which can be ended.
    code = (
        "import sys; from assistants.bundle import Bundle; from frames.folders import check_replaceable\n"
        "from frames.errors import FramefillError\n"
        "for read in (Bundle, check_replaceable):\n"
        "    try: read(sys.argv[1])\n"
        "    except FramefillError as error: print(error.code)\n"
    )
    command = [
        sys.executable,
        "-c",
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n{code}",
    ]
    done = subprocess.run([*command, str(tmp_path / "x")], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["E326", "E407"], done.stderr


def npz(kind: str = "<f4", shape: tuple = (4,), method: int = zipfile.ZIP_STORED, data: bytes = bytes(16)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("means.npy", stream.getvalue() + data)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (npz(method=zipfile.ZIP_DEFLATED, shape=(8 << 20,), data=bytes(32 << 20)), "E391"),
        (npz(method=zipfile.ZIP_BZIP2, shape=(8 << 20,), data=bytes(32 << 20)), "E391"),
        (npz(shape=(1 << 40,)), "E393"), (npz("<U0", (1 << 40,)), "E393"), (npz("<U10000000", (1,)), "E393"),
        (npz()[:-9], "E393"), (b"", "E393"), (npz(shape=(-1, -4)), "E393"),
    ],
)  # fmt: skip
def test_oversized_arrays_are_refused(copy: Path, content: bytes, code: str):
    replaced(copy, "confidence.npz", content)
    with little_memory(), pytest.raises(BundleError, match=f"{code}.*confidence.npz"):
        Bundle(copy).read("confidence.npz")


def test_files_that_share_the_bytes_of_a_zip_are_refused(tmp_path: Path):
    """As in Fifield's zip bomb (2019): many entries of the directory tell of the same bytes."""
    path = zipped(tmp_path / "x.zip", {"a": bytes(range(256)) * 40, "b": b"x"})
    with zipfile.ZipFile(path) as archive:
        archive.filelist *= 60
        with pytest.raises(BundleError, match="E391"):
            untrusted.check_archive(archive, path.stat().st_size, "x.zip")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(bytes(64 << 20)), "more than"),
        (gzip.compress(b"graph")[:-4], "cut short"),
        (b"no gzip file", "header"),
    ],
)
def test_a_packed_graph_that_is_none_is_refused(copy: Path, content: bytes, reason: str):
    (copy / "encoder.int8.onnx").unlink()
    edited(copy, lambda manifest: manifest["files"].pop("encoder.int8.onnx"))
    with pytest.raises(
        BundleError, match=rf"encoder\.int8\.onnx\.gz.*E397.*{reason}|E397.*encoder\.int8\.onnx\.gz.*{reason}"
    ):
        runtime.load(replaced(copy, "encoder.int8.onnx.gz", content))


def test_a_good_zip_is_read(copy: Path, tmp_path: Path):
    path = zipped(tmp_path / "x.zip", {f"copy/{file.name}": file.read_bytes() for file in copy.iterdir()})
    assert str(runtime.load(path).parse(["wake me at 6"])[0][0].frame) == "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]"


def test_files_that_are_too_large_are_not_read(copy: Path):
    with open(copy / "manifest.json", "r+b") as stream:
        stream.truncate(untrusted.MAX_MANIFEST + 1)  # sparse: it takes no place on the disk
    with pytest.raises(BundleError, match="E392"):
        Bundle(copy)


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message."""
    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )


def graph(*dims: int, constant: bool = False) -> bytes:
    """An ONNX model with one tensor of such a shape and 4 bytes of data."""
    tensor = message(*((1, n) for n in dims), (2, 1), (8, b"w"), (9, bytes(4)))
    inside = (1, message((5, message((1, b"value"), (5, tensor))))) if constant else (5, tensor)
    return message((1, 8), (7, message(inside)))


@pytest.mark.parametrize(
    "content",
    [
        graph(1 << 40), graph(1 << 40, 1 << 40), graph(1 << 20, constant=True), graph((1 << 64) - 1),
        message((7, message((5, message((1, varint(1 << 40))))))), b"\x3a\xff\x01", b"\x0b", b"\xff" * 12,
    ],
)  # fmt: skip
def test_oversized_tensors_of_graphs_are_refused(copy: Path, content: bytes):
    with pytest.raises(BundleError, match="E393"):
        runtime.load(replaced(copy, "encoder.int8.onnx", content))


LOCATION = (13, message((1, b"location"), (2, b"/etc/passwd")))


@pytest.mark.parametrize("fields", [[(14, 1), LOCATION], [LOCATION], [(14, 1)], [(9, bytes(4)), (14, 1), LOCATION]])
@pytest.mark.parametrize("place", ["initializer", "constant", "sparse", "function"])
def test_tensors_with_data_in_other_files_are_refused(copy: Path, fields: list, place: str):
    tensor = message((1, 1), (2, 1), (8, b"w"), *fields)
    node = message((5, message((1, b"value"), (5, tensor))))
    content = {
        "initializer": message((8, 0), (7, message((5, tensor)))),
        "constant": message((7, message((1, node)))),
        "sparse": message((7, message((15, message((1, tensor)))))),
        "function": message((25, message((7, node)))),
    }[place]
    with pytest.raises(BundleError, match=r"E396.*encoder\.int8\.onnx"):
        runtime.load(replaced(copy, "encoder.int8.onnx", content))


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 67) + b'{"leaves":{"dtype":"I8","shape":[1099511627776],"data_offsets":[0,4]}}'[:67],
        *(
            struct.pack("<Q", len(header)) + header + bytes(4)
            for header in (
                b'{"leaves":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
                b'{"leaves":{"dtype":"I8","shape":[40],"data_offsets":[0,4]}}',
                b'{"leaves":{"dtype":"I8","shape":[-1,-40],"data_offsets":[0,4]}}',
                b'{"leaves":4}',
                b"[1]",
            )
        ),
    ],
)
def test_oversized_tensors_of_tables_are_refused(content: bytes):
    with pytest.raises(BundleError, match="E393"):
        untrusted.check_tensors("leaves.safetensors", content, "x")


def test_tensors_of_committed_bundles_are_found_and_fit(repository: Path):
    import onnx

    for path in (repository / "models").rglob("decoder.int8.onnx"):
        content = path.read_bytes()
        shapes = [shape for shape, _ in untrusted._onnx_tensors(content)]
        expected = [list(tensor.dims) for tensor in onnx.load_from_string(content).graph.initializer]
        assert expected and all(shape in shapes for shape in expected)
        untrusted.check_tensors(path.name, content, "x")


def test_a_graph_that_is_none_is_refused(copy: Path):
    with pytest.raises(BundleError, match="E394"):
        runtime.load(replaced(copy, "decoder.int8.onnx", message((1, 8), (7, message((2, b"g"))))))


def test_a_wrong_checksum_and_a_newer_format_are_refused(copy: Path):
    (copy / "ontology.json").write_bytes((copy / "ontology.json").read_bytes() + b" ")
    with pytest.raises(BundleError, match="E325"):
        runtime.load(copy)
    with pytest.raises(BundleError, match="E323"):
        runtime.load(edited(copy, lambda manifest: manifest.update(format=2)))


def test_a_bank_whose_files_do_not_fit_is_refused(repository: Path, tmp_path: Path):
    from safetensors.numpy import load, save

    bundle = shutil.copytree(repository / "models" / "raf-topv2", tmp_path / "raf")
    states = load((bundle / "leaves.safetensors").read_bytes())
    replaced(bundle, "leaves.safetensors", save({name: array[:-1].copy() for name, array in states.items()}))
    with pytest.raises(BundleError, match="E395"):
        runtime.load(bundle)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(key=st.sampled_from(["format", "files", "decoding", "form", "parser", "scenarios", "metrics"]), value=JSON)
def test_any_manifest_is_read_or_refused(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, key: str, value: object
):
    committed = repository / "models" / "conv-nar-topv2"
    folder = tmp_path_factory.mktemp("manifest")
    manifest = json.loads((committed / "manifest.json").read_text())
    for name in manifest["files"]:
        (folder / name).symlink_to(committed / name)
    (folder / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    try:
        runtime.load(folder)
    except FramefillError as error:
        assert error.code
