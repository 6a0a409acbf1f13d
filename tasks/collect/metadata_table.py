"""A table of what is known of images, as people have it: CSV of any form, or Parquet.

Everything is read as text first: 007 is not 7, and the label ``NA`` is Namibia. Whatever was guessed, passed over or dropped is said,
once each, with a count and an example. A bad coordinate or date costs that field, never the photograph.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import PlaceprintError
from tasks.collect.listing import printable

# Names are compared without case, blanks, `_` and `-`. What a field is called itself comes first.
SYNONYMS = {
    "path": "path filename file image filepath imagepath sourcefile",
    "label": "label class category",
    "latitude": "latitude lat decimallatitude",
    "longitude": "longitude lon lng long decimallongitude",
    "captured_at": "capturedat date datetime takenat timestamp datetimeoriginal",
    "licence": "licence license",
    "attribution": "attribution",
    "url": "url",
    "checksum": "checksum",
}
_FIELDS = {name: field for field, names in SYNONYMS.items() for name in names.split()}
_X_Y = {"x": "longitude", "y": "latitude"}
# In columns of numbers and dates only; in others they are texts.
MISSING = frozenset({"", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none", "nil", "-", "--", "?"})
DELIMITERS = ",;\t|"

_NUMBER = re.compile(r"[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
# `fromisoformat` takes any character between date and time: it reads 1612120512345, milliseconds since 1970, as the year 1612.
_ISO = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}|[0-9]{4}-?W[0-9]{2}(-?[0-9])?)([T ].+)?", re.IGNORECASE)
_ZEROS = re.compile(r"[0:/\-+TZ.\s]*", re.IGNORECASE)
_BINARY = {
    b"\xd0\xcf\x11\xe0": "is a workbook of an old Excel: save the sheet as CSV",
    b"SQLite format 3": "is an SQLite database: export the table as CSV",
    b"ARROW1": "is an Arrow (Feather) file: save it as Parquet or CSV",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it",
    b"\xfd7zXZ": "is compressed with xz: unpack it",
    b"BZh": "is compressed with bzip2: unpack it",
}
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What the table knows of one image. Both coordinates or neither; a time is in UTC."""

    label: str | None = None
    licence: str | None = None
    attribution: str | None = None
    url: str | None = None
    checksum: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    captured_at: datetime | None = None


@dataclass(frozen=True)
class MetadataTable:
    """Rows by path, as `normal_path` writes it, and what there is to say of them: lines without the file's name."""

    path: Path
    rows: Mapping[str, Row]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Grid:
    """Cells as text, before anything is known of them. `unread` are columns without cells."""

    names: list[str]
    rows: Iterable[tuple[int, Sequence[str]]]
    unread: tuple[str, ...] = ()


def read_metadata(path: Path, *, zero_is_a_place: bool = False, x_y_are_degrees: bool = False) -> MetadataTable:
    """Read a table of metadata.

    Parameters
    ----------
    path
        CSV (commas, semicolons, tabs or ``|``; UTF-8, UTF-16 or Windows-1252; gzip) or Parquet, told by content.
    zero_is_a_place
        Keep (0, 0), which most exporters write for "no place".
    x_y_are_degrees
        Read columns `x` and `y` as longitude and latitude. They are often pixels or metres.

    Raises
    ------
    PlaceprintError
        When the file is no table, has no rows or no paths, or says two things of one image.
    """
    known = _FIELDS | (_X_Y if x_y_are_degrees else {})
    remarks: list[str] = []
    try:
        with path.open("rb") as file:
            parquet = file.read(4) in (b"PAR1", b"PARE")
        grid = _parquet(path, known) if parquet else _csv(path, _text(path, path.read_bytes(), remarks), known)
    except OSError as error:
        _refuse(path, f"cannot be read: {_shown(str(error))}")
    columns = _columns(path, grid, known)
    remarks += _remarks_on_columns(grid, columns)
    reader = _RowReader(path, columns, zero_is_a_place)
    for line, cells in grid.rows:
        reader.add(line, cells)
    if not reader.rows:
        _refuse(path, f"has no rows with a path, only the columns {_listed(grid.names)}")
    return MetadataTable(path, reader.rows, (*remarks, *reader.remarks()))


def normal_path(path: str) -> str:
    r"""The form in which paths are compared: NFC, ``/`` for ``\``, nothing superfluous.

    Examples
    --------
    >>> normal_path(".\\Egypt\\00.jpg")
    'Egypt/00.jpg'
    """
    path = unicodedata.normalize("NFC", path).replace("\\", "/")
    if path[:1] != "." and "//" not in path and "/./" not in path:
        return path
    return re.sub(r"(?<=[^/:])/(\.?/)+", "/", re.sub(r"^(\./+)+", "", path))


def check_matches(table: MetadataTable, files: Collection[str], where: str) -> None:
    """Refuse a table that speaks of other files than those that are there.

    Raises
    ------
    PlaceprintError
        When no row names a file. The line shows a path of the table and a file that comes near to it.
    """
    known = {normal_path(file) for file in files}
    if not known or any(file in table.rows for file in known):
        return
    by_name = {file.rpartition("/")[2].casefold(): file for file in sorted(known, reverse=True)}
    row, file = next(
        ((row, by_name[name]) for row in table.rows if (name := row.rpartition("/")[2].casefold()) in by_name),
        (next(iter(table.rows)), min(known)),
    )
    _refuse(
        table.path,
        f"names no file of {where}: its paths are like '{_shown(row)}', the files like '{_shown(file)}'; "
        "paths are relative to the folder, with the file's ending, and case counts",
    )


def _text(path: Path, data: bytes, remarks: list[str]) -> str:
    """The file's text, or an error that says what else it is."""
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            _refuse(path, f"is compressed with gzip and damaged: {error}")
    if data.startswith(b"PK\x03\x04"):
        if b"xl/workbook" in data or b"opendocument.spreadsheet" in data[:200]:
            _refuse(path, "is a workbook (Excel, LibreOffice): save the sheet as CSV")
        _refuse(path, "is a ZIP archive: unpack it and give the table in it")
    for magic, what in _BINARY.items():
        if data.startswith(magic):
            _refuse(path, what)
    text = _decoded(path, data, remarks)
    start = text[:4000].lstrip().lower()
    if not text.strip():
        _refuse(path, "is empty")
    if "\0" in text:
        _refuse(path, "is not text (it holds NUL bytes): save it as CSV in UTF-8")
    if start.startswith("<"):
        _refuse(path, f"is {'an HTML page' if 'html' in start[:500] else 'XML'} and no table: save it as CSV")
    if re.match(r"[\[{]\s*[\[{\"\]}]", start):
        _refuse(path, "is GeoJSON or JSON and no table: save it as CSV")
    if start.startswith("version https://git-lfs"):
        _refuse(path, "is a pointer of Git LFS and not the table itself: git lfs pull")
    return text


def _decoded(path: Path, data: bytes, remarks: list[str]) -> str:
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    if encoding:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            _refuse(path, f"begins as {encoding.upper()} and is cut off or damaged: save it as CSV in UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:  # five bytes mean nothing in Windows-1252
            text = data.decode("latin-1")
    example = re.search(r"\w*[^\0-\x7f]\w*", text)
    remarks.append(f"is not UTF-8, read as Windows-1252: '{_shown(example[0] if example else '')}'")
    return text


def _csv(path: Path, text: str, known: Mapping[str, str]) -> _Grid:
    named = re.match(r'"?sep=(.)"?[ ,;\t]*(?=[\r\n])', text, re.IGNORECASE)  # Excel's own first line
    if named:
        text = text[named.end() :]

    def fits(delimiter: str) -> tuple[int, int]:
        names = _header(_csv_rows(path, text, delimiter, strict=False))
        return sum(_plain(name) in known for name in names), len(names)

    delimiter = named[1] if named else max(DELIMITERS, key=fits)
    # Some put blanks before a separator as well, which csv takes for text behind a quote.
    rows = _csv_rows(path, re.sub(rf'" +(?=[{re.escape(delimiter)}\r\n]|$)', '"', text), delimiter)
    names = _header(rows)
    return _Grid(names, _even(path, rows, len(names), delimiter))


def _header(rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    return next((row for _, row in rows if any(map(str.strip, row))), [])


def _csv_rows(path: Path, text: str, delimiter: str, *, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    # Geometries and captions are longer than csv's 131,072 characters: a limit of the whole process, here only in the way.
    csv.field_size_limit(2**31 - 1)
    # With newline="" the lines of a StringIO end at LF, CRLF and CR alike, and at nothing else.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=strict)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            _refuse(path, f"has a quote in line {line} that is not closed, or has text behind it")
        yield line, row


def _even(path: Path, rows: Iterable[tuple[int, list[str]]], width: int, by: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of the header's width. Empty fields at the end are no matter; a blank line is a row of empty ones."""
    for line, row in rows:
        blank = not any(map(str.strip, row))
        if not blank and (len(row) < width or any(map(str.strip, row[width:]))):
            fields = f"{len(row)} field{'s' * (len(row) != 1)}"
            hint = f": fields that hold `{by}` need quotes" if len(row) > width and by != "\t" else ""
            _refuse(path, f"is uneven: line {line} has {fields}, the header {width}{hint}")
        yield line, [""] * width if blank else row[:width]


def _parquet(path: Path, known: Mapping[str, str]) -> _Grid:
    try:
        file = pq.ParquetFile(path)
        # Only what may be used: beside it may lie the images themselves.
        wanted = [name for name in file.schema_arrow.names if _plain(name) in known]
        table = file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        _refuse(path, f"cannot be read as Parquet: {_shown(str(error))}")
    names, columns = [], []
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            columns.append(_as_text(column))
            names.append(name)
        except pa.ArrowNotImplementedError:
            continue  # a list, a struct, …
        except pa.ArrowInvalid:
            _refuse(path, f"has a column `{_shown(name)}` of bytes that are not UTF-8")
    unread = tuple(name for name in file.schema_arrow.names if name not in names)
    return _Grid(names, enumerate(zip(*columns, strict=True), start=1), unread)


def _as_text(column: pa.ChunkedArray) -> list[str]:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):  # a UUID, a geometry: bytes that happen to be text are none
        raise pa.ArrowNotImplementedError
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp(kind.unit))  # in UTC
    elif pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
    return [value or "" for value in column.cast(pa.string()).to_pylist()]


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-\ufeff\u200b\"'`]", "", name).casefold()


def _columns(path: Path, grid: _Grid, known: Mapping[str, str]) -> dict[str, int]:
    """Where each field lies. The same field twice is an error, unless one column has exactly its name."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(grid.names):
        if field := known.get(_plain(name)):
            places.setdefault(field, []).append(index)
    columns = {}
    for field, found in places.items():
        exact = [index for index in found if grid.names[index] == field]
        close = [index for index in found if _same(grid.names[index], field)]
        chosen = next((some for some in (found, exact, close) if len(some) == 1), None)
        if chosen is None:
            names = " and ".join(f"`{_shown(grid.names[index])}`" for index in found)
            _refuse(path, f"has the columns {names}, all of which mean {field}: name the right one `{field}`")
        columns[field] = chosen[0]
    if "path" not in columns:
        _refuse(path, _without_paths([*grid.names, *grid.unread]))
    return columns


def _same(name: str, field: str) -> bool:
    return _plain(name) == _plain(field)


def _remarks_on_columns(grid: _Grid, columns: Mapping[str, int]) -> Iterator[str]:
    read_as = {grid.names[index]: field for field, index in columns.items() if not _same(grid.names[index], field)}
    if read_as:
        names = (f"`{_shown(name)}` as `{field}`" for name, field in read_as.items())
        yield f"columns read by another name: {', '.join(names)}"
    unused = [*(name for index, name in enumerate(grid.names) if index not in columns.values()), *grid.unread]
    # A separator at the end of every row makes a column without a name.
    if unused := [name for name in unused if name.strip()]:
        asked = _X_Y.keys() <= {_plain(name) for name in unused} and "latitude" not in columns
        hint = "; `x` and `y` are degrees only if x_y_are_degrees is set" if asked else ""
        yield f"columns not used: {_listed(unused)}{hint}"


def _without_paths(names: list[str]) -> str:
    plain = {_plain(name): name for name in names}
    near = [match for known in SYNONYMS["path"].split() for match in get_close_matches(known, plain, n=1, cutoff=0.7)]
    hint = f"; is `{_shown(plain[near[0]])}` meant?" if near else ""
    if any(_NUMBER.fullmatch(name.strip()) for name in names):
        hint = "; is its first line, the names of the columns, missing?"
    return f"has no column `path` that names the files, it has {_listed(names)}{hint}"


class _RowReader:
    """Makes rows of cells, and counts what it passes over and drops."""

    def __init__(self, path: Path, columns: Mapping[str, int], zero_is_a_place: bool) -> None:
        self.path = path
        self.columns = columns
        self.zero_is_a_place = zero_is_a_place
        self.rows: dict[str, Row] = {}
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, line: int, cells: Sequence[str]) -> None:
        texts = {field: cells[index].strip() for field, index in self.columns.items()}
        path = normal_path(texts.pop("path"))
        if not path:
            blank = not any(cell.strip() for cell in cells)
            self._count({"blank, passed over" if blank else "without a path, passed over": f"row {line}"})
            return
        dropped: dict[str, str] = {}
        row = self._row(texts, dropped)
        before = self.rows.setdefault(path, row)
        if before is row:
            self._count({what: f"{_shown(path)}{detail}" for what, detail in dropped.items()})
        elif before == row:
            self._count({"the same as an earlier one, passed over": _shown(path)})
        else:
            field = next(field.name for field in fields(Row) if getattr(row, field.name) != getattr(before, field.name))
            values = f"{_value(getattr(before, field))} and {_value(getattr(row, field))}"
            _refuse(self.path, f"names '{_shown(path)}' more than once, with different {field}: {values} (row {line})")

    def remarks(self) -> list[str]:
        return [f"{n} row{'s' * (n != 1)}: {what} ({self.examples[what]})" for what, n in self.counts.items()]

    def _count(self, what: Mapping[str, str]) -> None:
        self.counts.update(what.keys())
        for key, example in what.items():
            self.examples.setdefault(key, example)

    def _row(self, texts: Mapping[str, str], dropped: dict[str, str]) -> Row:
        latitude, longitude = self._place(texts.get("latitude", ""), texts.get("longitude", ""), dropped)
        moment = None
        try:
            moment = _time(texts.get("captured_at", ""))
        except (ValueError, OverflowError):
            dropped["captured_at that is no date, dropped"] = f": '{_shown(texts['captured_at'])}'"
        label = unicodedata.normalize("NFC", texts.get("label", ""))
        others = {name: texts.get(name) or None for name in ("licence", "attribution", "url", "checksum")}
        return Row(label=label or None, latitude=latitude, longitude=longitude, captured_at=moment, **others)

    def _place(self, north: str, east: str, dropped: dict[str, str]) -> tuple[float, float] | tuple[None, None]:
        try:
            latitude, longitude = _degrees(north, 90), _degrees(east, 180)
        except ValueError:
            dropped["coordinates that are no degrees, dropped"] = f": '{_shown(north)}', '{_shown(east)}'"
            return None, None
        if latitude is None or longitude is None:
            if latitude is not None or longitude is not None:
                dropped[f"only a {'latitude' if longitude is None else 'longitude'}, dropped"] = ""
            return None, None
        if latitude == longitude == 0 and not self.zero_is_a_place:
            dropped["(0, 0), which stands for no place, dropped; zero_is_a_place keeps it"] = ""
            return None, None
        return latitude, longitude


def _degrees(text: str, limit: float) -> float | None:
    if text.lower() in MISSING:
        return None
    # No degrees have thousands: one comma is a decimal comma. Some languages' Excel writes a true minus sign.
    text = text.replace("\N{MINUS SIGN}", "-")
    # Python's own `float` would take 3_0 for 30.
    degrees = float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.nan
    if not abs(degrees) <= limit:
        raise ValueError("no degrees")
    return degrees


def _time(text: str) -> datetime | None:
    """A moment in UTC, which is also the zone of a time that names none. EXIF's form and zeros for "unknown" are known."""
    if text.lower() in MISSING or _ZEROS.fullmatch(text):
        return None
    text = re.sub(r"^([0-9]{4})[:/]([0-9]{2})[:/]([0-9]{2})(?![0-9])", r"\1-\2-\3", text)
    text = re.sub(r" ?(UTC|GMT)$", "+00:00", text)
    if not _ISO.fullmatch(text):
        raise ValueError("no date")
    moment = datetime.fromisoformat(text.upper())
    # The first and the last moment, in any zone, stand for "unknown"; with a zone they may lie outside of the calendar.
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if moment.year in (1, 9999):
        raise ValueError("not a date of a photograph")
    return moment


def _value(value: object) -> str:
    return "nothing" if value is None else f"'{_shown(str(value))}'"


def _shown(text: str) -> str:
    """Of any text, something short to show in a line."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= 100 else f"{line[:99]}…"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(f"`{_shown(name)}`" for name in names[:20]) + more


def _refuse(path: Path, what: str) -> NoReturn:
    raise PlaceprintError(f"collect: {printable(str(path))} {what}")
