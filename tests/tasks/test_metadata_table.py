from __future__ import annotations

import csv
import gzip
import io
import json
import sqlite3
import unicodedata
import zipfile
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import PlaceprintError
from tasks.collect.metadata_table import MetadataTable, Row, check_matches, normal_path, read_metadata


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "meta.csv"


def read(file: Path, content: str | bytes, **options: bool) -> MetadataTable:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_metadata(file, **options)


def only(table: MetadataTable) -> Row:
    (row,) = table.rows.values()
    return row


def refusal(file: Path, content: str | bytes, **options: bool) -> str:
    with pytest.raises(PlaceprintError) as caught:
        read(file, content, **options)
    message = str(caught.value)
    assert message.isprintable()  # one line, and nothing that a terminal obeys
    assert len(message) < 2500
    assert message.startswith(f"collect: {file} ")
    return message.removeprefix(f"collect: {file} ")


def parquet(file: Path, columns: dict[str, object]) -> MetadataTable:
    pq.write_table(pa.table(columns), file)
    return read_metadata(file)


def test_all_fields_and_nothing_to_say(file: Path) -> None:
    table = read(
        file,
        "path,label,latitude,longitude,captured_at,licence,attribution,url,checksum\n"
        "Egypt/00.jpg,007,-22.5,17,2024-05-01T12:00:00+02:00,CC0,Ada,https://x.y/z,md5:0\n"
        "Egypt/01.jpg,NA,,,,,,,\n",
    )
    moment = datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert table.rows["Egypt/00.jpg"] == Row("007", "CC0", "Ada", "https://x.y/z", "md5:0", -22.5, 17.0, moment)
    assert table.rows["Egypt/01.jpg"] == Row("NA")
    assert table.remarks == ()


# Columns


@pytest.mark.parametrize(
    "header",
    [
        "path,latitude,longitude",
        "Path,LATITUDE,Longitude",
        "path, latitude, longitude",
        ' "path" , "latitude" , "longitude" ',
        "\ufeffpath,latitude,longitude",
        '\ufeff"path",latitude\xa0,longitude',
        "'path','latitude','longitude'",
        "path,latitude,longitude,",
    ],
)
def test_names_are_compared_without_case_blanks_marks_and_quotes(file: Path, header: str) -> None:
    table = read(file, f"{header}\na.jpg,1,2\n" if header[-1] != "," else f"{header}\na.jpg,1,2,\n")
    assert (only(table).latitude, only(table).longitude) == (1, 2)
    assert table.remarks == ()


@pytest.mark.parametrize("path", ["filename", "file_name", "File Name", "file", "image", "image_path", "SourceFile"])
@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [("lat", "lon"), ("Lat", "LNG"), ("lat", "long"), ("decimalLatitude", "decimalLongitude")],
)
def test_synonyms_are_read_and_said(file: Path, path: str, latitude: str, longitude: str) -> None:
    table = read(file, f"{path},{latitude},{longitude}\na.jpg,1,2\n")
    assert (only(table).latitude, only(table).longitude) == (1, 2)
    assert table.remarks == (
        f"columns read by another name: `{path}` as `path`, `{latitude}` as `latitude`, `{longitude}` as `longitude`",
    )


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("class", "label", "cat"),
        ("Category", "label", "cat"),
        ("license", "licence", "CC0"),
        *((name, "captured_at", "2024-05-01") for name in ("date", "datetime", "Taken At", "timestamp")),
        ("DateTimeOriginal", "captured_at", "2024:05:01 00:00:00"),
    ],
)
def test_synonyms_of_other_fields(file: Path, name: str, field: str, value: str) -> None:
    table = read(file, f"path,{name}\na.jpg,{value}\n")
    expected = datetime(2024, 5, 1, tzinfo=UTC) if field == "captured_at" else value
    assert getattr(only(table), field) == expected
    assert table.remarks == (f"columns read by another name: `{name}` as `{field}`",)


def test_x_and_y_are_degrees_only_if_asked_for(file: Path) -> None:
    text = "path,x,y\na.jpg,2,1\n"
    table = read(file, text)
    assert only(table).latitude is None
    assert table.remarks == ("columns not used: `x`, `y`; `x` and `y` are degrees only if x_y_are_degrees is set",)
    table = read(file, text, x_y_are_degrees=True)
    assert (only(table).latitude, only(table).longitude) == (1, 2)
    # Boxes beside a place are not worth a hint.
    assert read(file, "path,latitude,longitude,x,y\na.jpg,1,2,3,4\n").remarks == ("columns not used: `x`, `y`",)


def test_columns_that_mean_the_same(file: Path) -> None:
    assert refusal(file, "path,lat,Latitude,LATITUDE\na,1,1,1\n").startswith(
        "has the columns `lat` and `Latitude` and `LATITUDE`, all of which mean latitude"
    )
    assert "`file` and `image`" in refusal(file, "file,image\na,b\n")
    assert "`label` and `label`" in refusal(file, "path,label,label\na,b,c\n")
    assert "`lat` and `y`" in refusal(file, "path,lat,y,x\na,1,1,1\n", x_y_are_degrees=True)
    table = read(file, "filename,path,Label,label,class\nwrong.jpg,a.jpg,B,b,c\n")
    assert table.rows == {"a.jpg": Row("b")}
    assert table.remarks == ("columns not used: `filename`, `Label`, `class`",)
    assert only(read(file, "path,Latitude,lat,lon\na.jpg,5,1,2\n")).latitude == 5


def test_columns_that_are_not_used_are_listed_once(file: Path) -> None:
    names = [f"extra {number}" for number in range(30)]
    (remark,) = read(file, f"path,{','.join(names)}\n" + f"a.jpg{',1' * 30}\n" + f"b.jpg{',2' * 30}\n").remarks
    assert remark.startswith("columns not used: `extra 0`, `extra 1`")
    assert remark.endswith("`extra 19` and 10 more")


@pytest.mark.parametrize(
    ("header", "end"),
    [
        ("pth,label", "it has `pth`, `label`; is `pth` meant?"),
        ("image_id,label", "it has `image_id`, `label`; is `image_id` meant?"),
        ("latitude,longitude", "it has `latitude`, `longitude`"),
        ("Egypt/00.jpg,30.1,31.2", "; is its first line, the names of the columns, missing?"),
        ('"a\nb\x1b[2J"', "it has `a b\\x1b[2J`"),
    ],
)
def test_no_path_column(file: Path, header: str, end: str) -> None:
    message = refusal(file, f"{header}\n" + ",".join("1" * (header.count(",") + 1)))
    assert message.startswith("has no column `path` that names the files")
    assert message.endswith(end)


@pytest.mark.parametrize("rest", ["", "\n", "\n\n\n", "\n,,\n,,\n", "\n,1,2\n"])
def test_no_rows(file: Path, rest: str) -> None:
    message = refusal(file, f"path,latitude,longitude{rest}")
    assert message == "has no rows with a path, only the columns `path`, `latitude`, `longitude`"


# Missing values


@pytest.mark.parametrize(
    "missing", ["", "  ", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "None", "-", "#N/A", "NaT"]
)
def test_missing_numbers_and_dates_are_missing(file: Path, missing: str) -> None:
    table = read(file, f"path,label,latitude,longitude,captured_at\na.jpg,x,{missing},{missing},{missing}\n")
    assert only(table) == Row("x")
    assert table.remarks == ()


@pytest.mark.parametrize("label", ["NA", "nan", "null", "None", "-", "007", "1.0", "True"])
def test_labels_are_texts(file: Path, label: str) -> None:
    table = read(file, f"path,label\na.jpg,{label}\nb.jpg,\nc.jpg,  \n")
    assert [row.label for row in table.rows.values()] == [label, None, None]


def test_labels_are_nfc(file: Path) -> None:
    assert only(read(file, f"path,label\na.jpg,{unicodedata.normalize('NFD', 'Curaçao')}\n")).label == "Curaçao"


# Dates


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2023-07-14", datetime(2023, 7, 14, tzinfo=UTC)),
        ("20230714", datetime(2023, 7, 14, tzinfo=UTC)),
        ("2023/07/14", datetime(2023, 7, 14, tzinfo=UTC)),
        ("2023-07-14 12:00", datetime(2023, 7, 14, 12, tzinfo=UTC)),
        ("2023-07-14T12:00:00", datetime(2023, 7, 14, 12, tzinfo=UTC)),
        ("2023-07-14T12:00:00Z", datetime(2023, 7, 14, 12, tzinfo=UTC)),
        ("2023-07-14t12:00:00z", datetime(2023, 7, 14, 12, tzinfo=UTC)),
        ("2023-07-14T12:00:00+02:00", datetime(2023, 7, 14, 10, tzinfo=UTC)),
        ("2023-07-14 12:00:00 +0200", datetime(2023, 7, 14, 10, tzinfo=UTC)),
        ("2023-07-14 12:00:00+02", datetime(2023, 7, 14, 10, tzinfo=UTC)),
        ("2023-07-14 12:00:00 UTC", datetime(2023, 7, 14, 12, tzinfo=UTC)),
        ("2023-07-14 12:00:00.123456789", datetime(2023, 7, 14, 12, 0, 0, 123456, UTC)),
        ("2023:07:14 12:00:00", datetime(2023, 7, 14, 12, tzinfo=UTC)),
        ("2023:07:14 12:00:00.25", datetime(2023, 7, 14, 12, 0, 0, 250000, UTC)),
        ("2023:07:14 12:00:00-05:00", datetime(2023, 7, 14, 17, tzinfo=UTC)),
        ("2023:07:14", datetime(2023, 7, 14, tzinfo=UTC)),
        ("2023-W28-5", datetime(2023, 7, 14, tzinfo=UTC)),
        ("1066-10-14", datetime(1066, 10, 14, tzinfo=UTC)),
    ],
)
def test_forms_of_dates(file: Path, text: str, moment: datetime) -> None:
    table = read(file, f"path,captured_at\na.jpg,{text}\n")
    assert only(table).captured_at == moment
    assert only(table).captured_at.utcoffset() == timedelta(0)
    assert table.remarks == ()


@pytest.mark.parametrize(
    "text", ["0000:00:00 00:00:00", "0000-00-00", "0000-00-00T00:00:00Z", "    :  :     :  :  ", "0", "0000:00:00"]
)
def test_zeros_and_blanks_are_no_date(file: Path, text: str) -> None:
    table = read(file, f'path,captured_at\na.jpg,"{text}"\n')
    assert only(table).captured_at is None
    assert table.remarks == ()


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00+05:00",
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00-05:00",
        "9999-12-31T23:59:59-05:00",
        "9999-12-31",
        "2020-01",
        "2020",
        "14.07.2023",
        "07/14/2023",
        "2023-02-30",
        "2023:13:14 12:00:00",
        "1689336000",
        "1612120512345",
        "yesterday",
        "2023-07-14x12:00",
        "2023-07-14T12:00:00+99:00",
        "٢٠٢٣-٠٧-١٤",
    ],
)
def test_a_bad_date_costs_the_date_and_is_counted(file: Path, text: str) -> None:
    table = read(
        file, f"path,latitude,longitude,captured_at\na.jpg,1,2,{text}\nb.jpg,1,2,{text}\nc.jpg,1,2,2020-01-01\n"
    )
    assert table.rows["a.jpg"] == Row(latitude=1, longitude=2)
    assert table.rows["c.jpg"].captured_at is not None
    assert table.remarks == (f"2 rows: captured_at that is no date, dropped (a.jpg: '{text}')",)


# Coordinates


@pytest.mark.parametrize(
    ("text", "degrees"),
    [
        ("48.85", 48.85),
        ("48,85", 48.85),
        ("+48.85", 48.85),
        ("-48,85", -48.85),
        ("\N{MINUS SIGN}48.85", -48.85),
        ("1,234", 1.234),
        (".5", 0.5),
        ("48.", 48),
        ("4.885e1", 48.85),
        (" 48.85\xa0", 48.85),
        ("90", 90),
        ("-90", -90),
    ],
)
def test_forms_of_degrees(file: Path, text: str, degrees: float) -> None:
    table = read(file, f"path;latitude;longitude\na.jpg;{text};{text}\n")
    assert (only(table).latitude, only(table).longitude) == (degrees, degrees)
    assert table.remarks == ()


@pytest.mark.parametrize(
    "text",
    ["95", "-90.0001", "inf", "1e400", "3_0", "48°51'N", "48.85 N", "1.234,5", "1,234,5", "north", "0x10", "٤٨", "1 2"],
)
def test_a_bad_coordinate_costs_both_and_is_counted(file: Path, text: str) -> None:
    table = read(file, f'path,label,latitude,longitude\na.jpg,x,"{text}",2\nb.jpg,y,"{text}",3\nc.jpg,z,1,2\n')
    assert table.rows == {"a.jpg": Row("x"), "b.jpg": Row("y"), "c.jpg": Row("z", latitude=1, longitude=2)}
    assert table.remarks == (f"2 rows: coordinates that are no degrees, dropped (a.jpg: '{text}', '2')",)


def test_longitudes(file: Path) -> None:
    table = read(file, "path,lat,lon\na.jpg,1,180\nb.jpg,1,-180\nc.jpg,1,190\n")
    assert [row.longitude for row in table.rows.values()] == [180, -180, None]


@pytest.mark.parametrize("zero", ["0,0", "0.0,0.0", "-0.0,0", "0e5,+0"])
def test_zero_zero_is_no_place(file: Path, zero: str) -> None:
    text = f"path,latitude,longitude\na.jpg,{zero}\nb.jpg,0,1\nc.jpg,1,0\n"
    table = read(file, text)
    assert [row.latitude for row in table.rows.values()] == [None, 0, 1]
    assert table.remarks == ("1 row: (0, 0), which stands for no place, dropped; zero_is_a_place keeps it (a.jpg)",)
    table = read(file, text, zero_is_a_place=True)
    assert [row.latitude for row in table.rows.values()] == [0, 0, 1]
    assert table.remarks == ()


def test_half_a_place_is_none(file: Path) -> None:
    table = read(file, "path,latitude,longitude\na.jpg,1,\nb.jpg,0,nan\nc.jpg,NA,2\nd.jpg,1,2\n")
    assert [row.latitude for row in table.rows.values()] == [None, None, None, 1]
    assert table.remarks == (
        "2 rows: only a latitude, dropped (a.jpg)",
        "1 row: only a longitude, dropped (c.jpg)",
    )
    table = read(file, "path,lat,altitude\na.jpg,1,5\n")
    assert only(table) == Row()
    assert table.remarks[1:] == ("columns not used: `altitude`", "1 row: only a latitude, dropped (a.jpg)")


# Forms of tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom", "utf-32", "gzip", "cp1252"]
)
def test_separators_line_ends_and_encodings(file: Path, delimiter: str, end: str, encoding: str) -> None:
    lines = [
        ["path", "label", "latitude", "longitude"],
        ["Curaçao/00.jpg", '"two\nlines; or, so | as	it is"', '"12,1"', "-68.9"],
        ["b.jpg", '"6"" wide"', "1", "2"],
    ]
    text = end.join(delimiter.join(line) for line in lines) + end
    data = {
        "utf-16-le-bom": lambda: "\ufeff".encode("utf-16-le") + text.encode("utf-16-le"),
        "utf-16-be-bom": lambda: "\ufeff".encode("utf-16-be") + text.encode("utf-16-be"),
        "gzip": lambda: gzip.compress(text.encode()),
    }.get(encoding, lambda: text.encode(encoding))()
    table = read(file, data)
    assert table.rows == {
        "Curaçao/00.jpg": Row("two\nlines; or, so | as	it is", latitude=12.1, longitude=-68.9),
        "b.jpg": Row('6" wide', latitude=1, longitude=2),
    }
    assert table.remarks == (("is not UTF-8, read as Windows-1252: 'Curaçao'",) if encoding == "cp1252" else ())


def test_bytes_that_mean_nothing_in_windows_1252(file: Path) -> None:
    assert only(read(file, b"path,label\na.jpg,\x81\xe9\n")).label == "\x81é"


def test_semicolons_and_decimal_commas(file: Path) -> None:
    table = read(file, "Datei;file;Lat;Lon\n1,5;a.jpg;48,85;2,29\n")
    assert (only(table).latitude, only(table).longitude) == (48.85, 2.29)


def test_excels_own_first_line(file: Path) -> None:
    assert read(file, "sep=;\r\npath;label\r\na,b.jpg;x\r\n").rows == {"a,b.jpg": Row("x")}
    assert read(file, '"sep=\t"\r\npath\tlabel\r\na.jpg\tx\r\n').rows == {"a.jpg": Row("x")}
    assert "line 3 has 1 field, the header 2" in refusal(file, "sep=;\r\npath;label\r\na.jpg\r\n")


def test_a_line_separator_of_unicode_ends_no_line(file: Path) -> None:
    assert (
        only(read(file, "path,label\na.jpg,one\u2028two\x0bthree\x85four\n")).label == "one\u2028two\x0bthree\x85four"
    )


def test_a_long_field(file: Path) -> None:
    assert list(read(file, f"path,geometry\na.jpg,{'x' * 300_000}\n").rows) == ["a.jpg"]


def test_what_pandas_and_polars_write_is_read(file: Path) -> None:
    frame = pl.DataFrame(
        {
            "path": ["a, b.jpg", 'c"d.jpg'],
            "latitude": [1.5, None],
            "longitude": [2.5, float("nan")],
            "date": [date(2024, 5, 1), None],
        }
    )
    frame.write_csv(file)
    rows = read_metadata(file).rows
    assert rows["a, b.jpg"] == Row(latitude=1.5, longitude=2.5, captured_at=datetime(2024, 5, 1, tzinfo=UTC))
    assert rows['c"d.jpg'] == Row()
    # pandas writes its index as a first column without a name.
    assert read(file, ",path,label\n0,a.jpg,x\n1,b.jpg,y\n").remarks == ()


def test_blank_and_repeated_rows_are_passed_over(file: Path) -> None:
    table = read(
        file,
        "\n\npath,latitude,longitude,note\na.jpg,1,2,x\n\n,,,\n  , ,,\n./a.jpg,1.0,2,y\na.jpg,1,2,x\n,5,6,x\nb.jpg,95,1,\nb.jpg,95,1,\n\n",
    )
    assert table.rows == {"a.jpg": Row(latitude=1, longitude=2), "b.jpg": Row()}
    assert table.remarks == (
        "columns not used: `note`",
        "4 rows: blank, passed over (row 5)",
        "3 rows: the same as an earlier one, passed over (a.jpg)",
        "1 row: without a path, passed over (row 10)",
        "1 row: coordinates that are no degrees, dropped (b.jpg: '95', '1')",
    )


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("a.jpg,x,1,2\na.jpg,y,1,2\n", "names 'a.jpg' more than once, with different label: 'x' and 'y' (row 3)"),
        ("a.jpg,,1,2\n.\\a.jpg,y,1,2\n", "names 'a.jpg' more than once, with different label: nothing and 'y' (row 3)"),
        (
            "a.jpg,x,1,2\nb.jpg,x,1,2\na.jpg,x,1,3\n",
            "more than once, with different longitude: '2.0' and '3.0' (row 4)",
        ),
    ],
)
def test_repeated_rows_that_differ(file: Path, rows: str, what: str) -> None:
    assert what in refusal(file, f"path,label,latitude,longitude\n{rows}")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            "path,lat,lon\na.jpg,48,85,2,29\n",
            "is uneven: line 2 has 5 fields, the header 3: fields that hold `,` need quotes",
        ),
        ("path,lat,lon\na.jpg,1,2\nb.jpg,1\n", "is uneven: line 3 has 2 fields, the header 3"),
        ('path,label\n"a\nb.jpg",x\n\nc.jpg\n', "is uneven: line 5 has 1 field, the header 2"),
        ("path\tlabel\na.jpg\tx\ty\n", "is uneven: line 2 has 3 fields, the header 2"),
        (
            'path,label\na.jpg,x\nb.jpg,"open\nc.jpg,y\n',
            "has a quote in line 3 that is not closed, or has text behind it",
        ),
        ('path,label\na.jpg,"6" wide"\n', "has a quote in line 2 that is not closed, or has text behind it"),
    ],
)
def test_uneven_rows_and_open_quotes_name_their_line(file: Path, content: str, what: str) -> None:
    assert refusal(file, content) == what


def test_empty_fields_beyond_the_header_are_no_matter(file: Path) -> None:
    assert read(file, "path,label\na.jpg,x,,\nb.jpg,y\n").rows == {"a.jpg": Row("x"), "b.jpg": Row("y")}


def zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/"), text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b" \r\n\t\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\xff\xfe", "is empty"),
        (zipped(xl__workbook="", path="x"), "is a workbook"),
        (
            zipped(mimetype="application/vnd.oasis.opendocument.spreadsheet" * 9).replace(b"\x08\x00", b"\x00\x00"),
            "is a ",
        ),
        (zipped(meta="path\na.jpg\n"), "is a ZIP archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "is a workbook of an old Excel"),
        (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "is an HTML page"),
        (b"\xef\xbb\xbf\n  <HTML lang=en>", "is an HTML page"),
        (b'<?xml version="1.0"?><gpx></gpx>', "is XML"),
        (json.dumps({"type": "FeatureCollection", "features": []}).encode(), "is GeoJSON or JSON"),
        (json.dumps([{"path": "a.jpg"}], indent=2).encode(), "is GeoJSON or JSON"),
        (b'{"file_name": "a.jpg"}\n{"file_name": "b.jpg"}\n', "is GeoJSON or JSON"),
        (b"[]", "is GeoJSON or JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a pointer of Git LFS"),
        (b"\x1f\x8b\x08\x00rubbish", "is compressed with gzip and damaged"),
        (gzip.compress(b"path\na.jpg\n" * 100)[:-9], "is compressed with gzip and damaged"),
        (gzip.compress(gzip.compress(b"path\na.jpg\n")), "is not text"),
        (b"\x28\xb5\x2f\xfd...", "is compressed with zstd"),
        (b"ARROW1\0\0", "is an Arrow (Feather) file"),
        ("path\na.jpg\n".encode("utf-16-le"), "is not text (it holds NUL bytes)"),
        ("\ufeffpath\na.jpg".encode("utf-16-le") + b"\n", "begins as UTF-16 and is cut off or damaged"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "is not text"),
        (b"PAR1", "cannot be read as Parquet"),
        (b"PAR1" + bytes(100) + b"PAR1", "cannot be read as Parquet"),
        (b"PARE" + bytes(100) + b"PARE", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_table_is_named(file: Path, content: bytes, what: str) -> None:
    assert refusal(file, content).startswith(what)


def test_ods(file: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # its first member is stored, not compressed
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    assert refusal(file, buffer.getvalue()).startswith("is a workbook (Excel, LibreOffice)")


def test_sqlite(tmp_path: Path) -> None:
    file = tmp_path / "meta.db"
    connection = sqlite3.connect(file)
    connection.execute("create table a (path text)")
    connection.commit()
    connection.close()
    assert "is an SQLite database" in refusal(file, file.read_bytes())


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.csv"):
        with pytest.raises(PlaceprintError, match="cannot be read: ") as caught:
            read_metadata(path)
        assert str(caught.value).isprintable()


# Parquet


@pytest.mark.parametrize("name", ["meta.parquet", "META.PARQUET", "meta.csv", "meta"])
def test_parquet_is_told_by_its_bytes(tmp_path: Path, name: str) -> None:
    assert parquet(tmp_path / name, {"path": ["a.jpg"], "label": ["NA"]}).rows == {"a.jpg": Row("NA")}


def test_csv_called_parquet(tmp_path: Path) -> None:
    assert read(tmp_path / "meta.parquet", "path\na.jpg\n").rows == {"a.jpg": Row()}


MOMENT = datetime(2024, 5, 1, 12, 0, 0, 123000, UTC)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ms")), MOMENT),
        (pa.array([MOMENT], pa.timestamp("ns", "Europe/Paris")), MOMENT),
        (pa.array([MOMENT], pa.timestamp("us", "+05:30")), MOMENT),
        (pa.array([MOMENT.astimezone(timezone(timedelta(hours=-3))).isoformat()]), MOMENT),
        (pa.array([date(2024, 5, 1)]), datetime(2024, 5, 1, tzinfo=UTC)),
        (pa.array([date(2024, 5, 1)], pa.date64()), datetime(2024, 5, 1, tzinfo=UTC)),
        (pa.array([20240501], pa.int32()), datetime(2024, 5, 1, tzinfo=UTC)),
        (pa.array([None], pa.timestamp("us")), None),
        (pa.array([None], pa.null()), None),
    ],
)
def test_dates_in_parquet(file: Path, array: pa.Array, expected: datetime | None) -> None:
    table = parquet(file, {"path": ["a.jpg"], "captured_at": array})
    assert only(table).captured_at == expected
    assert table.remarks == ()


def test_dates_in_parquet_that_python_does_not_know(file: Path) -> None:
    for value in (10**15, -(10**14), 2**62):
        table = parquet(file, {"path": ["a.jpg"], "captured_at": pa.array([value], pa.timestamp("ms"))})
        assert only(table).captured_at is None
        assert "captured_at that is no date, dropped" in table.remarks[0]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([48.5, None, float("nan")]),
        pa.array([48.5, None, float("nan")], pa.float32()),
        pa.array([48.5, None, None], pa.float16()),
        pa.array([Decimal("48.50"), None, None]),
        pa.array(["48,5", None, "NaN"]),
        pa.array([b"48.5", b"", None]),
    ],
)
def test_degrees_in_parquet(file: Path, array: pa.Array) -> None:
    table = parquet(file, {"path": ["a", "b", "c"], "latitude": array, "longitude": array})
    assert [row.latitude for row in table.rows.values()] == [48.5, None, None]
    assert table.remarks == ()


@pytest.mark.parametrize(
    ("array", "labels"),
    [
        (pa.array(["NA", None, ""]), ["NA", None, None]),
        (pa.array(["NA", None, ""]).dictionary_encode(), ["NA", None, None]),
        (pa.array(["NA", None, ""], pa.large_string()), ["NA", None, None]),
        (pa.array(["NA", None, ""], pa.string_view()), ["NA", None, None]),
        (pa.array([b"NA", None, b""]), ["NA", None, None]),
        (pa.array([7, None, 8]), ["7", None, "8"]),
        (pa.array([7.0, float("nan"), 8.5]), ["7", None, "8.5"]),
        (pa.array([True, None, False]), ["true", None, "false"]),
    ],
)
def test_labels_in_parquet(file: Path, array: pa.Array, labels: list[str | None]) -> None:
    table = parquet(file, {"path": pa.array(["a", "b", "c"]).dictionary_encode(), "label": array})
    assert [row.label for row in table.rows.values()] == labels


def test_columns_of_parquet_that_are_not_read(file: Path) -> None:
    table = parquet(
        file,
        {
            "label": pa.array([["a"]]),
            "file_name": ["a.jpg"],
            "image": pa.array([{"bytes": b"\xff", "path": "x"}]),
            "pixels": pa.array([b"\xff\xfe"]),
            "path.extra": ["x"],
            "checksum": pa.array([b"sixteen bytes :)"], pa.uuid()),
        },
    )
    assert table.rows == {"a.jpg": Row()}
    assert table.remarks == (
        "columns read by another name: `file_name` as `path`",
        "columns not used: `label`, `image`, `pixels`, `path.extra`, `checksum`",
    )


def test_refused_parquet(file: Path) -> None:
    for columns, what in [
        ({"path": pa.array([b"\xff.jpg"])}, "has a column `path` of bytes that are not UTF-8"),
        ({"path": pa.array([], pa.string())}, "has no rows with a path, only the columns `path`"),
        (
            {"name": ["a"], "path": pa.array([["a"]])},
            "has no column `path` that names the files, it has `name`, `path`",
        ),
    ]:
        with pytest.raises(PlaceprintError) as caught:
            parquet(file, columns)
        assert what in str(caught.value)
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["path", "path"]), file)
    with pytest.raises(PlaceprintError) as caught:
        read_metadata(file)
    assert str(caught.value).isprintable()


# Paths


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("Egypt\\deep\\00.jpg", "Egypt/deep/00.jpg"),
        ("./Egypt/00.jpg", "Egypt/00.jpg"),
        (".\\.\\Egypt\\00.jpg", "Egypt/00.jpg"),
        ("Egypt//./00.jpg", "Egypt/00.jpg"),
        (unicodedata.normalize("NFD", "Curaçao/é.jpg"), "Curaçao/é.jpg"),
        ("../Egypt/00.jpg", "../Egypt/00.jpg"),
        (".hidden/00.jpg", ".hidden/00.jpg"),
        ("/photos/Egypt/00.jpg", "/photos/Egypt/00.jpg"),
        ("C:\\photos\\00.jpg", "C:/photos/00.jpg"),
        ("https://x.y/00.jpg", "https://x.y/00.jpg"),
    ],
)
def test_paths(file: Path, path: str, normal: str) -> None:
    assert normal_path(path) == normal
    assert list(read(file, f"path,label\n  {path} ,x\n").rows) == [normal]


@pytest.mark.parametrize(
    ("row", "files", "shown"),
    [
        (
            "photos/Egypt/00.jpg",
            ["Egypt/00.jpg", "Aa/01.jpg"],
            "like 'photos/Egypt/00.jpg', the files like 'Egypt/00.jpg'",
        ),
        ("/abs/Egypt/00.jpg", ["Egypt/00.jpg"], "like '/abs/Egypt/00.jpg', the files like 'Egypt/00.jpg'"),
        ("00.jpg", ["Egypt/00.JPG"], "like '00.jpg', the files like 'Egypt/00.JPG'"),
        ("00", ["b.jpg", "a\x1b.jpg"], "like '00', the files like 'a\\x1b.jpg'"),
    ],
)
def test_a_table_of_other_files_is_one_line(file: Path, row: str, files: list[str], shown: str) -> None:
    table = read(file, f"path\nnowhere.png\n{row}\n" if row != "00" else f"path\n{row}\n")
    with pytest.raises(PlaceprintError) as caught:
        check_matches(table, files, "/data/photos")
    message = str(caught.value)
    assert message.startswith(f"collect: {file} names no file of /data/photos: its paths are {shown}; ")
    assert message.isprintable()


def test_one_match_is_enough(file: Path) -> None:
    table = read(file, "path\nnowhere.png\nCuraçao/00.jpg\n")
    check_matches(table, ["a.jpg", unicodedata.normalize("NFD", "Curaçao/00.jpg")], "photos")
    check_matches(table, [], "photos")


# Whatever comes


CELLS = st.sampled_from(
    [
        "path",
        "lat",
        "lon",
        "label",
        "date",
        "a.jpg",
        "1",
        "0",
        "95",
        "nan",
        '"',
        ",",
        ";",
        "\t",
        "|",
        "\n",
        "\r",
        " ",
        "é",
        "\0",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.lists(CELLS, max_size=40).map(lambda cells: "".join(cells).encode())))
def test_any_bytes_are_a_table_or_one_line(file: Path, content: bytes) -> None:
    try:
        table = read(file, content)
    except PlaceprintError as error:
        said = [str(error)]
    else:
        assert table.rows
        said = list(table.remarks)
    assert all(line.isprintable() for line in said)


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            TEXTS,
            TEXTS,
            st.floats(-90, 90),
            st.floats(-180, 180),
            st.datetimes(datetime(2, 1, 2), datetime(9998, 1, 1)),
        ),
        min_size=1,
        unique_by=lambda row: normal_path(row[0]),
    ),
    st.sampled_from(",;\t|"),
)
def test_what_csv_writes_is_read(
    file: Path, rows: list[tuple[str, str, float, float, datetime]], delimiter: str
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerows([("path", "label", "latitude", "longitude", "captured_at"), *rows])
    table = read(file, buffer.getvalue(), zero_is_a_place=True)
    assert table.remarks == ()
    for path, label, latitude, longitude, moment in rows:
        assert table.rows[normal_path(path)] == Row(
            label=unicodedata.normalize("NFC", label),
            latitude=latitude,
            longitude=longitude,
            captured_at=moment.replace(tzinfo=UTC),
        )
