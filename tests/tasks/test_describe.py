from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlcroissant
import polars as pl
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import PlaceprintError
from storage.schemas import IMAGES, REJECTS, RejectReason
from storage.store import Recipe, Store
from tasks.collect.countries import country_shapes
from tasks.describe.card import card_text, dataset_card, plain, prose
from tasks.describe.croissant import DataFile, croissant
from tasks.describe.figures import country_map, label_chart, not_on_map
from tasks.describe.front_matter import front_matter, size_category
from tasks.describe.notes import Notes, load_notes
from tasks.describe.profile import Profile, profile
from tasks.describe.steps import collection_folder, collections, describe_collection, safe_name
from tasks.report.figures import images_per_label

NASTY = "a|b\n<script>alert(1)</script>\n---\n# `c` [d](javascript:e) $x$"


def image(number: int, **values: Any) -> dict[str, Any]:
    identity = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
    needed = {"image_id": identity, "source": "photos", "path": f"{number}.jpg", "file": f"images/{identity}.jpg"}
    return {**needed, "width": 40, "height": 30, "bytes": 1000, **values}


def reject(number: int, reason: str, detail: str | None = None, source: str = "photos") -> dict[str, Any]:
    return {"source": source, "path": f"{number}.bad", "reason": reason, "detail": detail}


def images_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), IMAGES)


def rejects_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), REJECTS)


def small() -> Profile:
    """Four images, three refused inputs, two duplicates."""
    return profile(
        images_table(
            image(0, label="Egypt", latitude=30.0, longitude=31.0, licence="CC-BY-4.0", attribution="A"),
            image(1, label="Egypt", latitude=1.0, captured_at=datetime(2024, 5, 1, tzinfo=UTC), licence="CC-BY-4.0"),
            image(2, label="Atlantis", width=80, captured_at=datetime(2020, 1, 1, tzinfo=UTC), attribution="A"),
            image(3, bytes=3000, height=20, width=20, licence="CC0-1.0", attribution="B"),
        ),
        rejects_table(
            reject(0, "not_an_image"),
            reject(1, "not_an_image", "text"),
            reject(2, "truncated"),
            reject(3, "exact_duplicate", "same bytes as 0.jpg"),
            reject(4, "exact_duplicate", "same bytes as 0.jpg, where its label is 'Egypt' and not 'France'"),
        ),
    )


def empty() -> Profile:
    return profile(images_table(), rejects_table(reject(0, "empty")))


def front(card: str) -> dict[str, Any]:
    """The front matter, found the way that the Hub finds it."""
    found = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))", card)
    assert found is not None
    content = yaml.safe_load(found[2])
    assert isinstance(content, dict)
    return content


def headings(card: str) -> list[str]:
    return re.findall(r"^#+ .*$", re.sub(r"^```.*?^```", "", card, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def write_store(root: Path, images: list[dict[str, Any]], rejects: list[dict[str, Any]]) -> str:
    store, recipe = Store(root), Recipe("collect", 1, {}, {"photos": "x"})
    for table, rows in (("rejects", rejects_table(*rejects)), ("images", images_table(*images))):
        store.commit(table, recipe, [store.write_shard(table, recipe.fingerprint, 0, rows)])
    return recipe.fingerprint


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Profile


def test_profile_against_a_count_by_hand() -> None:
    found = small()
    assert (found.n_inputs, found.n_kept, found.n_rejected, found.n_exact_duplicates) == (9, 4, 3, 2)
    assert found.n_conflicting_duplicates == 1
    assert list(found.rejects.items()) == [("not_an_image", 2), ("truncated", 1)]
    assert list(found.labels.items()) == [("Egypt", 2), ("Atlantis", 1)]
    assert found.n_unlabelled == 1
    width = found.spreads["width"]
    assert (width.minimum, width.median, width.maximum) == (20, 40, 80)
    assert width.percent_5 == pytest.approx(23)  # 0.15 of the way from 20 to 40
    assert width.percent_95 == pytest.approx(74)  # 0.85 of the way from 40 to 80
    assert found.spreads["aspect ratio"].minimum == 1
    assert found.spreads["aspect ratio"].maximum == pytest.approx(8 / 3)
    assert found.spreads["bytes"].maximum == 3000
    assert found.total_bytes == 6000
    assert found.frequent_sizes == ((40, 30, 2), (20, 20, 1), (80, 30, 1))
    assert (found.first_captured_at, found.last_captured_at) == (
        "2020-01-01T00:00:00+00:00",
        "2024-05-01T00:00:00+00:00",
    )
    assert (found.n_undated, found.n_located) == (2, 1)
    assert found.missing["latitude"] == 2
    assert found.missing["longitude"] == 3
    assert found.missing["url"] == 4
    assert set(found.missing) == {field.name for field in IMAGES if field.nullable}
    assert list(found.licences.items()) == [("CC-BY-4.0", 2), ("CC0-1.0", 1)]
    assert found.n_unlicensed == 1
    assert list(found.attributions.items()) == [("A", 2), ("B", 1)]
    assert (found.n_attributions, found.n_unattributed) == (2, 1)


names = st.one_of(st.none(), st.sampled_from(["Egypt", "France", "x|y", ""]))


@given(
    rows=st.lists(st.fixed_dictionaries({"label": names, "licence": names, "attribution": names})),
    reasons=st.lists(st.sampled_from([reason.value for reason in RejectReason])),
)
def test_counts_reconcile(rows: list[dict[str, Any]], reasons: list[str]) -> None:
    found = profile(
        images_table(*(image(number, **row) for number, row in enumerate(rows))),
        rejects_table(*(reject(number, reason) for number, reason in enumerate(reasons))),
    )
    assert found.n_inputs == len(rows) + len(reasons)
    assert found.n_inputs == found.n_kept + found.n_rejected + found.n_exact_duplicates
    assert sum(found.rejects.values()) == found.n_rejected
    assert sum(found.labels.values()) + found.n_unlabelled == found.n_kept
    assert sum(found.licences.values()) + found.n_unlicensed == found.n_kept
    assert sum(found.attributions.values()) + found.n_unattributed == found.n_kept
    assert sum(n for *_, n in found.frequent_sizes) == found.n_kept
    assert found.missing["label"] == found.n_unlabelled


def test_one_image_and_none() -> None:
    one = profile(images_table(image(0)), rejects_table())
    assert one.spreads["width"].percent_5 == one.spreads["width"].maximum == 40
    assert one.missing["captured_at"] == one.n_undated == 1
    none = empty()
    assert (none.n_inputs, none.n_kept, none.n_rejected) == (1, 0, 1)
    assert none.spreads == {}
    assert none.frequent_sizes == ()
    for found in (one, none):
        card = dataset_card("photos", found, Notes(), images="f", figures=())
        assert not re.search(r"\b(None|nan)\b", card)


def test_a_column_of_a_later_version_is_profiled_too() -> None:
    extra = pa.array([None, "x"], pa.string())
    table = images_table(image(0), image(1)).append_column(pa.field("weather", pa.string()), extra)
    assert profile(table, rejects_table()).missing["weather"] == 1


# Figures


def test_labels_without_a_polygon_are_listed() -> None:
    assert not_on_map(["Egypt", "Gibraltar", "Atlantis", "Egypt"]) == ["Atlantis", "Gibraltar"]
    assert not_on_map(country.label for country in country_shapes()) == []
    card = dataset_card("photos", small(), Notes(), images="f", not_on_map=["Atlantis"])
    assert "Not on the map, for want of a country polygon of that name (1): Atlantis." in card
    many = [f"Land {number}" for number in range(1000)]
    card = dataset_card("photos", small(), Notes(), images="f", not_on_map=many)
    assert "Land 249 and 750 more." in card


def test_figures_are_drawn_only_where_there_is_something_to_draw() -> None:
    assert label_chart({}) is None
    assert country_map({}, [], []) is None
    assert country_map({"Atlantis": 3}, [], []) is None
    assert country_map({"Atlantis": 3}, [1.0], [2.0]) is not None
    drawn = country_map({"Egypt": 3, "Gibraltar": 1}, [30.0], [31.0])
    assert drawn is not None
    assert drawn.startswith(b"\x89PNG")
    assert drawn == country_map({"Egypt": 3, "Gibraltar": 1}, [30.0], [31.0])


def test_label_chart_is_xml_whatever_the_labels_are() -> None:
    labels = {NASTY: 3, "$\\frac$": 2, "\x01\x00": 1, "x" * 500: 1, "<b>&": 1}
    chart = label_chart(labels)
    assert chart is not None
    text = "".join(ET.fromstring(chart).itertext())  # noqa: S314  (our own)
    assert "$\\frac$" in text
    assert "<b>&" in text
    assert "x" * 39 + "…" in text
    assert chart == label_chart(labels)
    assert images_per_label({"a": {"Egypt": 1}}).startswith("<svg")  # as the report wants it


# Card


def test_card_says_what_the_tables_say() -> None:
    card = dataset_card("photos", small(), Notes(), images="0123456789abcdef", not_on_map=["Atlantis"])
    for line in (
        "9 inputs = 4 kept + 3 rejected + 2 exact duplicates.",
        "2 labels; 1 of 4 images have none.",
        "![Images of each label, on a log axis](labels.svg)",
        "![World map of images a country, in log colours](map.png)",
        "| width | 20 | 23 | 40 | 74 | 80 |",
        "| 40 × 30 | 2 | 50.0 % |",
        "1 of 4 images have coordinates.",
        "| `captured_at` | 2 | 50.0 % |",
        "| not_an_image | 2 | 22.2 % |",
        "| none given | 1 | 25.0 % |",
        "1 of them had another label than the one kept.",
        "| Made from images version | `0123456789abcdef` |",
    ):
        assert line in card, line
    assert card.count("Not stated.") == 18
    assert "---\n" not in card_text(card)
    assert "![" not in card_text(card)
    assert card_text(card).strip().startswith("# photos")


def test_card_carries_the_notes() -> None:
    notes = Notes(
        title="Street scenes",
        summary="Two lines\nof *text*.",
        known_issues=["The score is printed\nin every image.", "Arrows."],
        bias_notes="A quarter is from one country.",
        authors=["A. One", "B | Two"],
        citation="@misc{x,\n  title = {```}\n}",
        published=date(2024, 5, 1),
    )
    card = dataset_card("photos", small(), notes, images="f")
    assert "# Street scenes\n" in card
    assert "- The score is printed\n  in every image.\n- Arrows.\n" in card
    assert "### Bias\n\nA quarter is from one country.\n" in card
    assert "| Authors | A. One; B \\| Two |" in card
    assert "    @misc{x,\n      title = {```}\n    }\n" in card
    assert "| Published | 2024-05-01 |" in card


def test_no_text_breaks_the_card() -> None:
    rows = [image(0, label=NASTY, licence=NASTY, attribution=NASTY)]
    found = profile(images_table(*rows), rejects_table(reject(0, NASTY)))
    points = {"known_issues": [NASTY, "b"], "bias_notes": "text\n===\n## Known issues\n```\n<!-- \n***"}
    notes = Notes(title=NASTY, summary=NASTY, tags=[NASTY], citation=NASTY, authors=[NASTY], licence=NASTY, **points)
    card = dataset_card(NASTY, found, notes, images="f", not_on_map=[NASTY])
    quiet = dataset_card("photos", small(), Notes(), images="f")
    assert headings(card)[1:] == headings(quiet)[1:]
    assert front(card)["pretty_name"] == " ".join(NASTY.split())
    body = card_text(card)
    code = r"^( {4}.*|```.*?^```)$"
    assert re.findall(r"(?<!\\)<", re.sub(code, "", body, flags=re.MULTILINE | re.DOTALL)) == []
    tables = [line for line in body.splitlines() if line.startswith("|")]
    for line, next_line in pairwise(tables):
        if set(next_line) <= set("|-: "):
            columns = len(re.findall(r"(?<!\\)\|", next_line))
        if set(line) <= set("|-: "):
            assert len(re.findall(r"(?<!\\)\|", next_line)) == columns, next_line


@given(st.text())
def test_plain_text_stays_on_its_line_and_in_its_cell(text: str) -> None:
    line = plain(text)
    assert line.isprintable()
    unescaped = re.sub(r"\\[\\`*\[\]<>|~_&]", "", line)
    assert not set(unescaped) & set("\\`*[]<>|~")


@given(st.text(st.sampled_from("#`~-=* \t\r\n<a")))
def test_prose_starts_no_block(text: str) -> None:
    for line in prose(text).splitlines():
        assert not re.match(r"\s*(#|```|~~~|---)|\s*[-=*_]+\s*$", line), repr(line)


# Front matter


@pytest.mark.parametrize(
    ("n", "name"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (49_905, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (10**7, "10M<n<100M"),
        (10**11, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_size_categories_are_the_hubs(n: int, name: str) -> None:
    assert size_category(n) == name


def test_front_matter_names_only_what_is_known() -> None:
    content = front(dataset_card("photos", small(), Notes(), images="f"))
    assert content == {
        "pretty_name": "photos",
        "license": ["cc-by-4.0", "cc0-1.0", "unknown"],
        "size_categories": ["n<1K"],
        "task_categories": ["image-classification"],
        "tags": ["placeprint"],
        "configs": [{"config_name": "default", "data_files": "images.parquet"}],
    }
    notes = Notes(licence="My licence, 2", language="no", annotations_creators="found", source_datasets="original")
    content = front(dataset_card("photos", small(), notes, images="f"))
    assert (content["license"], content["license_name"]) == ("other", "my-licence-2")
    assert content["language"] == ["no"]  # Norwegian, not a truth value
    assert content["annotations_creators"] == ["found"]
    assert content["source_datasets"] == ["original"]
    assert front_matter("photos", empty(), Notes())["license"] == "unknown"
    assert front_matter("photos", empty(), Notes())["annotations_creators"] == ["no-annotation"]
    assert "task_categories" not in front_matter("photos", empty(), Notes())
    assert front_matter("photos", small(), Notes(licence="ODbL-1.0"))["license"] == "odbl"


# Notes


def test_notes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "about.yaml"
    path.write_text(
        "title: Ähren\nversion: 1.0\nknown_issues: one\nsensitive_content:\npublished: 2024-05-01\n", "utf-8"
    )
    notes = load_notes(path)
    assert (notes.title, notes.version, notes.known_issues) == ("Ähren", "1.0", ("one",))
    assert (notes.sensitive_content, notes.published) == ((), date(2024, 5, 1))
    path.write_text("")
    assert load_notes(path) == Notes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"licens: x", "unknown key 'licens'; is 'licence' meant?"),
        (b"a: 1\nb: 2", "(1 more)"),
        (b"title: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- a", "not a list"),
        (b"url: nowhere", "url: String should match pattern"),
        (b"language: [no]", "language.0: "),
        (b"known_issues: [1]", "known_issues.0: Input should be a valid string (it was 1)"),
        (b"1: 2", "1"),
        (None, "No such file or directory: give a YAML file"),
    ],
)
def test_errors_of_notes_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "about.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlaceprintError) as error:
        load_notes(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# Names of folders


WEIRD = [
    "../x",
    "a/b",
    "a-b",
    "a_b",
    "A-B",
    "x" * 300,
    "x" * 299,
    "日本",
    "中国",
    "",
    ".",
    "..",
    "a\n",
    "a.b",
    "~",
    "con",
]


@pytest.mark.parametrize("source", WEIRD)
def test_folder_stays_in_the_store(tmp_path: Path, source: str) -> None:
    folder = collection_folder(tmp_path, source, "0" * 16)
    assert folder.resolve().parent.parent == (tmp_path / "collections").resolve()
    assert len(folder.parent.name) < 100


def test_no_two_names_share_a_folder() -> None:
    found = [safe_name(source).lower() for source in WEIRD]
    assert len(set(found)) == len(WEIRD)
    assert safe_name("satellite") == "satellite"


@given(st.text(), st.text())
def test_names_of_folders_differ(one: str, other: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", safe_name(one))
    assert (safe_name(one) == safe_name(other)) == (one == other)
    assert safe_name(safe_name(one)) == safe_name(one) or "." in safe_name(one)


# Croissant and the whole folder


FULL = """
title: Street scenes
summary: "Photographs of streets: *nondescript* ones."
url: https://example.org/streets
authors: [A. One, B. Two]
maintainers: C. Three
licence: CC-BY-4.0
version: 1.2.0
published: 2024-05-01
citation: "@misc{x}"
language: [en, fr]
tags: [streets]
intended_use: Research.
known_issues: [Overlays., "Gaps | and\\nlines"]
collection_method: By car.
labelling: By folder.
processing: None.
bias_notes: One country is a quarter.
sensitive_content: [Faces., Plates.]
maintenance: Never.
"""


@pytest.mark.parametrize("notes", [None, FULL])
def test_folder_is_complete_and_its_croissant_is_valid(tmp_path: Path, notes: str | None) -> None:
    path = None
    if notes is not None:
        path = tmp_path / "about.yaml"
        path.write_text(notes)
    rows = [
        image(0, label="Egypt", latitude=30.0, longitude=31.0, captured_at=datetime(2024, 5, 1, tzinfo=UTC)),
        image(1, label="Gibraltar"),
        image(2, label="Egypt", source="others"),
    ]
    fingerprint = write_store(tmp_path / "store", rows, [reject(0, "empty"), reject(0, "empty", source="others")])
    folder = describe_collection.fn(tmp_path / "store", fingerprint[:6], "photos", path)
    assert folder == tmp_path / "store" / "collections" / "photos" / fingerprint
    made = contents(folder)
    assert set(made) == {"README.md", "croissant.json", "images.parquet", "labels.svg", "map.png", "profile.json"}
    assert "(1): Gibraltar." in made["README.md"].decode()
    front(made["README.md"].decode())
    assert json.loads(made["profile.json"])["n_inputs"] == 3
    assert pl.read_parquet(folder / "images.parquet")["path"].to_list() == ["0.jpg", "1.jpg"]

    dataset = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    if notes is not None:
        assert not dataset.metadata.ctx.issues.warnings
        assert dataset.metadata.data_biases == ["One country is a quarter."]
        assert dataset.metadata.personal_sensitive_information == ["Faces.", "Plates."]
        assert [each.name for each in dataset.metadata.creators] == ["A. One", "B. Two"]
    records = list(dataset.records("images"))
    assert [record["images/path"] for record in records] == [b"0.jpg", b"1.jpg"]
    assert [record["images/label"] for record in records] == [b"Egypt", b"Gibraltar"]
    assert [record["images/latitude"] for record in records] == [30.0, None]
    assert (records[0]["images/width"], records[0]["images/captured_at"].year) == (40, 2024)
    assert {key.removeprefix("images/") for key in records[0]} == set(IMAGES.names)

    assert describe_collection.fn(tmp_path / "store", fingerprint, "photos", path) == folder
    assert contents(folder) == made


def test_croissant_of_any_name_and_text_is_valid(tmp_path: Path) -> None:
    notes = Notes(summary=NASTY, known_issues=NASTY, bias_notes=[NASTY, "@id"], licence=NASTY, authors="@type")
    file = DataFile("images.parquet", 3, "0" * 64, IMAGES)
    for name in ("../x", "日本", "x" * 300, "@id", "http://a b", NASTY):
        path = tmp_path / "croissant.json"
        path.write_text(json.dumps(croissant(name, small(), notes, file)))
        dataset = mlcroissant.Dataset(jsonld=path)
        assert not dataset.metadata.ctx.issues.errors
        assert dataset.metadata.name == name


def test_a_collection_of_rejects_only_has_a_card(tmp_path: Path) -> None:
    source = "../no 日本"
    fingerprint = write_store(tmp_path, [image(0)], [reject(0, "empty", source=source)])
    assert collections(Store(tmp_path)) == [source, "photos"]
    folder = describe_collection.fn(tmp_path, fingerprint, source, None)
    assert set(contents(folder)) == {"README.md", "croissant.json", "images.parquet", "profile.json"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "1 inputs = 0 kept + 1 rejected + 0 exact duplicates." in card
    assert "| empty | 1 | 100.0 % |" in card
    assert list(mlcroissant.Dataset(jsonld=folder / "croissant.json").records("images")) == []


def test_unknown_collection_is_one_line(tmp_path: Path) -> None:
    fingerprint = write_store(tmp_path, [image(0)], [])
    with pytest.raises(PlaceprintError, match=f"images {fingerprint} have no collection 'phots', they have 'photos'"):
        describe_collection.fn(tmp_path, fingerprint, "phots", None)
    assert not (tmp_path / "collections").exists()


def test_flow_describes_every_collection_with_its_notes(tmp_path: Path, prefect_server: None) -> None:  # noqa: ARG001
    from flows.describe import describe
    from flows.settings import load_settings

    about = tmp_path / "about.yaml"
    about.write_text("title: My streets")
    write_store(tmp_path / "store", [image(0, label="Egypt"), image(1, source="[/b] Ä_1")], [])
    settings = load_settings(
        None,
        [
            f"store={tmp_path / 'store'}",
            f"collect.sources=[{{kind: folder, path: {tmp_path / 'photos'}, about: {about}}}]",
        ],
    )
    first, second = describe(settings)
    assert second.parent.name == "photos"
    assert "# My streets\n" in (second / "README.md").read_text(encoding="utf-8")
    assert "# \\[/b\\] Ä_1\n" in (first / "README.md").read_text(encoding="utf-8")
    about.write_text("titel: x")
    with pytest.raises(PlaceprintError, match="unknown key 'titel'; is 'title' meant"):
        describe(settings)
