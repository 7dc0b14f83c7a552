"""Checks of a bundle that came from somewhere else, before memory is spent on it. Needs no torch and no onnx.

They refuse what would write or read outside of the bundle and what claims to be larger than it is. A graph can still compute
for long: who loads a bundle trusts its author with the processor's time.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath, PureWindowsPath

from frames.errors import BundleError
from frames.files import BOUNDED, UNREADABLE_ZIP, read_member

#: Bytes of one file, and of all files of a zip together, unpacked.
MAX_BYTES = 4 << 30
#: Bytes of a manifest, which is read before any checksum is known.
MAX_MANIFEST = 16 << 20
#: How many times smaller than its content a file of a zip may be; ONNX graphs reach 2, JSON 20.
MAX_RATIO = 200
#: Bytes of a file that is small however much it was packed.
_HARMLESS = 1 << 20
#: Files of a zip.
MAX_FILES = 1000


def check_names(names: Iterable[str], where: str) -> None:
    """Whether names of files lie in the folder of their bundle.

    Raises:
        BundleError: a name is absolute, leads upwards, or is no name of a file.
    """
    for name in names:
        path = PurePosixPath(name)
        plain = name.isprintable() and "\\" not in name and not PureWindowsPath(name).drive
        if not name or not plain or path.is_absolute() or ".." in path.parts:
            raise BundleError(
                "E390",
                f"{name[:100]!r} is no file inside of the bundle.",
                where=where,
                remedy="Do not use this bundle; it was not written by framefill.",
            )


def check_archive(archive: zipfile.ZipFile, size: int, where: str, methods: Collection[int] = BOUNDED) -> None:
    """Whether a zip has plain names and a size that its bytes account for.

    Args:
        archive: the zip; its files are read by :func:`frames.files.read_member`, for the sizes that it tells may be wrong.
        size: of its file in bytes.
        where: for the message of an error.
        methods: how its files may be packed.

    Raises:
        BundleError: it would unpack to far more than it is, is packed in another way, or has names that lead out of it.
    """
    entries = archive.infolist()
    check_names((entry.filename for entry in entries), where)
    bomb = any(
        entry.compress_type not in methods or entry.file_size > max(_HARMLESS, MAX_RATIO * entry.compress_size)
        for entry in entries
    )
    packed, unpacked = sum(entry.compress_size for entry in entries), sum(entry.file_size for entry in entries)
    # Files that together are larger than the archive share their bytes, or lie about them.
    if bomb or packed > size or unpacked > MAX_BYTES or len(entries) > MAX_FILES:
        raise BundleError(
            "E391",
            f"the zip of {size} bytes unpacks to {unpacked} bytes in {len(entries)} files, or is packed in another way "
            "than bundles are.",
            where=where,
            remedy="Do not use this bundle; it was not written by framefill.",
        )


def check_size(size: int, limit: int, where: str) -> None:
    """Whether a file may be read into memory.

    Raises:
        BundleError: it is larger than any of framefill's.
    """
    if size > limit:
        raise BundleError(
            "E392", f"a file of {size} bytes; {limit} are read at most.", where=where, remedy="Export the bundle again."
        )


def unpacked(content: bytes, where: str) -> bytes:
    """What a gzip file holds.

    Raises:
        BundleError: it is none, is cut short, or would unpack to far more than it is.
    """
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
    limit = min(MAX_BYTES, max(_HARMLESS, MAX_RATIO * len(content)))
    try:
        whole = reader.decompress(content, limit)
    except zlib.error as error:
        reason = str(error)
    else:
        if reader.eof:
            return whole
        reason = f"more than {limit} bytes" if len(whole) == limit else "cut short"
    raise BundleError(
        "E397", f"a gzip file that cannot be unpacked ({reason}).", where=where, remedy="Export the bundle again."
    )


def check_tensors(name: str, content: bytes, where: str) -> None:
    """Whether every tensor of a file has the data for its shape.

    Args:
        name: of the file, ``.onnx``, ``.safetensors`` or ``.npz``; others have no tensors.
        content: of the file.
        where: for the message of an error.

    Raises:
        BundleError: a shape needs more data than the file holds for it, its data are elsewhere or compressed, or the file's
            structure is broken.
    """
    reader = {".onnx": _onnx_tensors, ".safetensors": _safetensors, ".npz": _arrays}.get(PurePosixPath(name).suffix)
    if reader is None:
        return
    try:
        # The smallest elements have 4 bits; what reads the tensors checks sizes exactly.
        oversized = [
            str(shape) for shape, held in reader(content) if any(n < 0 for n in shape) or math.prod(shape) > 2 * held
        ]
    except BundleError as error:
        raise error.at(f"{where}/{name}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, *UNREADABLE_ZIP) as error:
        oversized = [f"unreadable: {error!r}"]
    if oversized:
        raise BundleError(
            "E393",
            f"a tensor of shape {oversized[0][:100]} whose data the file does not hold.",
            where=f"{where}/{name}",
            remedy="Do not use this bundle; it was not written by framefill.",
        )


def _safetensors(content: bytes) -> Iterator[tuple[list[int], int]]:
    """Shapes and the bytes of each: 8 bytes of length, a JSON header, data (safetensors' format, README)."""
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise ValueError("the header is longer than the file")
    for key, tensor in json.loads(content[8 : 8 + length]).items():
        if key != "__metadata__":
            begin, end = tensor["data_offsets"]
            yield tensor["shape"], min(end, len(content) - 8 - length) - begin


def _arrays(content: bytes) -> Iterator[tuple[list[int], int]]:
    """Shapes of NumPy's arrays, with the bytes of an element, and the bytes of each, stored as ``numpy.savez`` does."""
    from numpy.lib.format import read_array_header_1_0, read_magic  # not for ``--help``, which imports this file

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_archive(archive, len(content), "", (zipfile.ZIP_STORED,))
        for name in archive.namelist():
            array = io.BytesIO(read_member(archive, name))
            if read_magic(array) != (1, 0):
                raise ValueError(f"{name} is of another version")
            shape, _, kind = read_array_header_1_0(array)
            yield [*shape, max(1, kind.itemsize)], len(array.getbuffer()) - array.tell()


def _onnx_tensors(content: bytes) -> Iterator[tuple[list[int], int]]:
    """Shapes of a graph's initializers and constants, and the bytes that describe each, by field numbers of onnx.proto."""
    for number, value in _messages(memoryview(content)):
        if number == 7:  # ModelProto.graph
            yield from _graph_tensors(value)
        elif number == 25:  # ModelProto.functions
            for part, inner in _messages(value):
                if part == 7:  # FunctionProto.node
                    yield from _node_tensors(inner)
                elif part == 11:  # FunctionProto.attribute_proto
                    yield from _attribute_tensors(inner)


def _graph_tensors(graph: memoryview) -> Iterator[tuple[list[int], int]]:
    for number, value in _messages(graph):
        if number == 5:  # GraphProto.initializer
            yield _tensor(value)
        elif number == 15:  # GraphProto.sparse_initializer
            yield from _sparse_tensors(value)
        elif number == 1:  # GraphProto.node
            yield from _node_tensors(value)


def _node_tensors(node: memoryview) -> Iterator[tuple[list[int], int]]:
    for number, value in _messages(node):
        if number == 5:  # NodeProto.attribute
            yield from _attribute_tensors(value)


def _attribute_tensors(attribute: memoryview) -> Iterator[tuple[list[int], int]]:
    for number, value in _messages(attribute):
        if number in (5, 10):  # AttributeProto.t, .tensors
            yield _tensor(value)
        elif number in (22, 23):  # AttributeProto.sparse_tensor, .sparse_tensors
            yield from _sparse_tensors(value)
        elif number in (6, 11):  # AttributeProto.g, .graphs
            yield from _graph_tensors(value)


def _sparse_tensors(tensor: memoryview) -> Iterator[tuple[list[int], int]]:
    for number, value in _messages(tensor):
        if number in (1, 2):  # SparseTensorProto.values, .indices
            yield _tensor(value)


def _tensor(tensor: memoryview) -> tuple[list[int], int]:
    dims: list[int] = []
    for number, value in _fields(tensor):
        if number == 1:  # TensorProto.dims, packed or one by one
            dims += _varints(value) if isinstance(value, memoryview) else [value]
        elif number == 13 or number == 14 and value != 0:  # TensorProto.external_data, .data_location
            # onnxruntime would read them from any file that it is told, or from any place in memory.
            raise BundleError(
                "E396",
                "a tensor whose data are outside of its graph.",
                remedy="Do not use this bundle; framefill writes large graphs in parts.",
            )
    return [n - (1 << 64) if n >> 63 else n for n in dims], len(tensor)


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Fields of a protobuf message that hold bytes."""
    for number, value in _fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Fields of a protobuf message: number, and a number or the bytes (protobuf's encoding, wire types 0, 1, 2, 5)."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            number, place = _varint(message, place)
            yield key >> 3, number
            continue
        if kind == 2:
            size, place = _varint(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if size > len(message) - place:
            raise ValueError("a field is longer than its message")
        yield key >> 3, message[place : place + size]
        place += size


def _varints(packed: memoryview) -> list[int]:
    found, place = [], 0
    while place < len(packed):
        number, place = _varint(packed, place)
        found.append(number)
    return found


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    number = shift = 0
    while shift < 70:
        byte = message[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7
    raise ValueError("a number of more than 10 bytes")
