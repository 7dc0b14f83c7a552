"""Bundles that a stranger made: refused by an error code of their own, before they cost anything."""

import gzip
import hashlib
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistants import banks, runtime, untrusted
from assistants.bundle import Bundle
from frames.errors import BundleError, FramefillError


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
