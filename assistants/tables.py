"""Tables on disk, read and written some rows at a time: Parquet (with pyarrow), CSV and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from frames.errors import CorpusError, MachineError, UsageError
from frames.files import parse_json

Row = dict[str, Any]


class Table(ABC):
    """A kind of file."""

    @abstractmethod
    def read(self, path: Path, rows: int) -> Iterator[list[Row]]:
        """The rows of a file, so many at a time; the last list may be shorter.

        Raises:
            CorpusError: the file is damaged.
        """

    @abstractmethod
    def count(self, path: Path) -> int | None:
        """Number of rows of a file, None where that takes reading it."""

    @abstractmethod
    def names(self, path: Path) -> list[str]:
        """Names of the columns of a file; of its first row where rows differ."""

    def check(self, rows: Sequence[Row], names: Sequence[str], like: Path) -> None:
        """Whether rows can be written, and into one file with those that were checked before.

        Args:
            rows: see :meth:`write`.
            names: see :meth:`write`.
            like: see :meth:`write`.

        Raises:
            CorpusError: see :meth:`write`.
        """
        return

    @abstractmethod
    def write(
        self, path: Path, rows: Sequence[Row], names: Sequence[str], types: Mapping[str, type], like: Path
    ) -> None:
        """Writes a part of a table.

        Args:
            path: the file.
            rows: values by the names of their columns; in texts that are no valid Unicode, what is wrong is escaped.
            names: of the columns that come from another table.
            types: of the columns after these.
            like: the other table.

        Raises:
            CorpusError: the rows have not these columns, or values that do not fit into one.
        """

    @abstractmethod
    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Writes one file from its parts, holding one part in memory at most.

        Raises:
            CorpusError: the parts have values that do not fit into one column.
        """


class JsonLines(Table):
    """An object a line."""

    def read(self, path: Path, rows: int) -> Iterator[list[Row]]:
        """See :meth:`Table.read`."""
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:
            lines = (self._row(path, number, line) for number, line in enumerate(stream, start=1) if line.strip())
            while unit := list(islice(lines, rows)):
                yield unit

    def _row(self, path: Path, number: int, line: str) -> Row:
        try:
            # Bytes that are not UTF-8 are told with their line.
            value = parse_json(line.encode("utf-8", "surrogateescape").decode("utf-8"))
        except ValueError as error:
            raise CorpusError(
                "E543",
                f"this is no JSON in UTF-8 ({error}).",
                where=f"{path}:{number}",
                remedy='Write an object like {"utterance": "wake me"} in each line.',
            ) from error
        if not isinstance(value, dict):
            raise CorpusError(
                "E544", "this is no JSON object.", where=f"{path}:{number}", remedy='Write {"utterance": …}.'
            )
        return value

    def count(self, path: Path) -> None:
        """See :meth:`Table.count`."""
        return None

    def names(self, path: Path) -> list[str]:
        """See :meth:`Table.names`."""
        return [name for unit in islice(self.read(path, 1), 1) for row in unit for name in row]

    def write(
        self, path: Path, rows: Sequence[Row], names: Sequence[str], types: Mapping[str, type], like: Path
    ) -> None:
        """See :meth:`Table.write`."""
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """See :meth:`Table.join`."""
        with open(path, "wb") as whole:
            for part in parts:
                with open(part, "rb") as stream:
                    shutil.copyfileobj(stream, whole)


class Csv(Table):
    """Comma-separated values, the first row being the names."""

    def read(self, path: Path, rows: int) -> Iterator[list[Row]]:
        """See :meth:`Table.read`."""
        with self._reader(path) as reader:
            names: list[str] = next(reader, [])
            # A blank line is an empty value where there is one column, and none where there are more.
            blank = [""] if len(names) == 1 else []
            lines = (self._row(names, row or blank) for row in reader if row or blank)
            while unit := list(islice(lines, rows)):
                yield unit

    @staticmethod
    def _row(names: list[str], row: list[str]) -> Row:
        if len(row) != len(names):
            raise csv.Error("a row has not as many values as there are names")
        return dict(zip(names, row, strict=True))

    @staticmethod
    def _decoded(row: list[str]) -> list[str]:
        """The row; bytes that are not UTF-8 are told here, where the line is known."""
        "\n".join(row).encode("utf-8", "surrogateescape").decode("utf-8")
        return row

    @contextmanager
    def _reader(self, path: Path) -> Iterator[Iterator[list[str]]]:
        """Rows as lists; an error of the file names the line."""
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            try:
                yield map(self._decoded, reader)
            except (csv.Error, UnicodeDecodeError) as error:
                raise CorpusError(
                    "E545",
                    f"this is no CSV in UTF-8 ({error}).",
                    where=f"{path}:{reader.line_num}",
                    remedy="Save the table as CSV in UTF-8, with a comma between values and one line of names.",
                ) from error

    def count(self, path: Path) -> None:
        """See :meth:`Table.count`."""
        return None

    def names(self, path: Path) -> list[str]:
        """See :meth:`Table.names`."""
        with self._reader(path) as reader:
            return next(reader, [])

    def check(self, rows: Sequence[Row], names: Sequence[str], like: Path) -> None:
        """See :meth:`Table.check`."""
        _same_columns(rows, names, {})

    def write(
        self, path: Path, rows: Sequence[Row], names: Sequence[str], types: Mapping[str, type], like: Path
    ) -> None:
        """See :meth:`Table.write`."""
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            stream.write(_line([*names, *types]))
            stream.writelines(
                _line([_cell(row.get(name)) for name in (*names, *types)]) for row in _same_columns(rows, names, types)
            )

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """See :meth:`Table.join`."""
        with open(path, "wb") as whole:
            for place, part in enumerate(parts):
                with open(part, "rb") as stream:
                    if place:
                        self._skip_names(stream)
                    shutil.copyfileobj(stream, whole)

    @staticmethod
    def _skip_names(stream: Any) -> None:
        """Passes over the first row, whose names may hold line breaks."""
        line = stream.readline()
        while line.count(b'"') % 2:
            line += stream.readline()


class Parquet(Table):
    """Apache Parquet, with pyarrow (extra ``bulk``)."""

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise MachineError(
                "E546", "pyarrow, which reads Parquet, is not installed.", remedy="pip install 'framefill[bulk]'"
            ) from error
        self._arrow, self._parquet = pyarrow, pyarrow.parquet
        #: Types of the columns of all rows that were checked.
        self._types: dict[str, Any] = {}

    @contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        """The file; whatever is damaged in it is told, when it is opened and when it is read."""
        try:
            with self._parquet.ParquetFile(path) as file:
                yield file
        except (self._arrow.ArrowException, OSError) as error:
            # Errors of the system have a number; pyarrow raises others of the same class for what it cannot decode.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise CorpusError(
                "E547",
                f"this is no Parquet file, or a damaged one ({' '.join(str(error).split())}).",
                where=str(path),
                remedy="It may be truncated; write it again.",
            ) from error

    def read(self, path: Path, rows: int) -> Iterator[list[Row]]:
        """See :meth:`Table.read`."""
        with self._open(path) as file:
            # Batches end with row groups, units do not: they are the same however the file was written.
            waiting: list[Row] = []
            for batch in file.iter_batches(rows):
                waiting += self._rows(path, batch)
                while len(waiting) >= rows:
                    yield waiting[:rows]
                    del waiting[:rows]
            if waiting:
                yield waiting

    def _rows(self, path: Path, batch: Any) -> list[Row]:
        """The rows of a batch as Python has them, which knows no year after 9999 and no text that is not UTF-8."""
        values = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                values.append(column.to_pylist())
            except (self._arrow.ArrowException, OverflowError, ValueError) as error:
                raise CorpusError(
                    "E228",
                    f"a value of the column {name!r} cannot be read ({error}).",
                    where=str(path),
                    remedy="Correct it, or leave that column out.",
                ) from error
        return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*values, strict=True)]

    def count(self, path: Path) -> int:
        """See :meth:`Table.count`."""
        with self._open(path) as file:
            return int(file.metadata.num_rows)

    def names(self, path: Path) -> list[str]:
        """See :meth:`Table.names`."""
        with self._open(path) as file:
            return list(file.schema_arrow.names)

    def check(self, rows: Sequence[Row], names: Sequence[str], like: Path) -> None:
        """See :meth:`Table.check`."""
        for name, array in self._arrays(_same_columns(rows, names, {}), names, like).items():
            with self._fitting(name, str(like)):
                self._types[name] = self._common([self._types.get(name, self._arrow.null()), array.type])

    def write(
        self, path: Path, rows: Sequence[Row], names: Sequence[str], types: Mapping[str, type], like: Path
    ) -> None:
        """See :meth:`Table.write`. Columns of another Parquet file keep their types."""
        arrow = self._arrow
        kinds = {str: arrow.string(), float: arrow.float64(), bool: arrow.bool_()}
        columns = self._arrays(_same_columns(rows, names, types), names, like)
        for name, kind in types.items():
            columns[name] = arrow.array([row.get(name) for row in rows], kinds[kind])
        self._parquet.write_table(arrow.table(columns), path)

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """See :meth:`Table.join`."""
        arrow = self._arrow
        schemas = [self._parquet.read_schema(part) for part in parts]
        types = {}
        for name in schemas[0].names:
            with self._fitting(name):
                types[name] = self._common([schema.field(name).type for schema in schemas])
        with self._parquet.ParquetWriter(path, arrow.schema([*types.items()])) as writer:
            for part in parts:
                found = self._parquet.read_table(part)
                columns = {}
                for name, kind in types.items():
                    with self._fitting(name):
                        columns[name] = found[name].cast(kind)
                writer.write_table(arrow.table(columns))

    def _arrays(self, rows: Sequence[Row], names: Sequence[str], like: Path) -> dict[str, Any]:
        """Columns that come from another table, and are known to fit into a file."""
        arrow = self._arrow
        types: dict[str, Any] = {}
        if like.suffix == ".parquet":
            with self._open(like) as file:
                types = {field.name: field.type for field in file.schema_arrow}
        arrays = {}
        for name in names:
            with self._fitting(name, str(like)):
                array = arrow.array([_encodable(row.get(name)) for row in rows], types.get(name))
                # Arrow has types that Parquet has not, such as of an object without keys.
                self._parquet.ParquetWriter(io.BytesIO(), arrow.schema([("", array.type)])).close()
            arrays[_encodable(name)] = array
        return arrays

    def _common(self, types: Sequence[Any]) -> Any:
        """The type of a column whose parts have these types."""
        schemas = [self._arrow.schema([("", kind)]) for kind in types]
        return self._arrow.unify_schemas(schemas, promote_options="permissive").field(0).type

    @contextmanager
    def _fitting(self, name: str, where: str = "") -> Iterator[None]:
        """Tells of values that do not fit into a column.

        Raises:
            CorpusError: the block finds such.
        """
        try:
            yield
        except (self._arrow.ArrowException, OverflowError, RecursionError) as error:
            raise CorpusError(
                "E550",
                f"the values of {name!r} do not fit into one column of Parquet ({error}).",
                where=where,
                remedy="Write JSON lines.",
            ) from error


#: Kinds of file by their suffix.
KINDS: dict[str, type[Table]] = {".parquet": Parquet, ".csv": Csv, ".jsonl": JsonLines}


def table(path: Path) -> Table:
    """The kind of a file by its name.

    Raises:
        UsageError: another suffix.
        MachineError: pyarrow is wanted and not installed.
    """
    if path.suffix not in KINDS:
        raise UsageError(
            "E548",
            f"the kind of table is not known by {path.suffix!r}.",
            where=str(path),
            remedy=f"Name it *{', *'.join(KINDS)}.",
        )
    return KINDS[path.suffix]()


def _same_columns(rows: Sequence[Row], names: Sequence[str], types: Mapping[str, type]) -> Sequence[Row]:
    """The rows, none of which has another column: JSON lines might."""
    for row in rows:
        if unknown := row.keys() - {*names, *types}:
            raise CorpusError(
                "E549",
                f"a row has the column {min(unknown)!r}, which the first row has not.",
                remedy="Write JSON lines.",
            )
    return rows


def _encodable(value: Any) -> Any:
    """A value that UTF-8 can hold, which JSON's lone surrogates cannot."""
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


def _line(cells: Sequence[Any]) -> str:
    """A row of CSV. Python 3.11 quotes a lone carriage return only where rows end with one, which is then cut off."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any) -> Any:
    """A value of a CSV cell; what CSV cannot hold is JSON."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
