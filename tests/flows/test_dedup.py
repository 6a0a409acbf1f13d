"""Near-duplicates from labelled pairs to splits: with labels of a file, of a person, and synthetic ones."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import start
from conftest import picture
from PIL import Image

from flows.collecting import collect_images
from flows.encoding import encode_images
from flows.settings import Settings, load_settings
from storage.answers import add_answer
from storage.catalog import query
from storage.errors import PlaceprintError, StoreError
from storage.image_files import image_id
from storage.store import Store, TableVersion
from storage.vectors import Vectors, read_vectors
from tasks.dedup import synthetic
from tasks.dedup.pairs import nearest_neighbours
from tasks.encode.loader import Picture
from tasks.encode.settings import EncodeSettings

pytestmark = pytest.mark.usefixtures("prefect_server")

LABELS = ("Egypt", "France", "Japan")
SIZE = (160, 120)
N = 60
SYNTHETIC = ("dedup.synthetic.edits=[recompress, resize]", "dedup.n_resamples=100")


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write(folder: Path, name: str, data: bytes) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return image_id(data)


def small(seed: int) -> bytes:
    """A copy of picture `seed`, smaller and recompressed."""
    return jpeg(picture(seed, SIZE).resize((120, 90), Image.Resampling.BICUBIC), 80)


def write_collections(root: Path) -> dict[str, str]:
    """Sixty pictures in `mine`, copies of some of them here and in `theirs`; returns the ids by a name."""
    ids = {f"{n}": write(root / "mine", f"{LABELS[n % 3]}/{n:02d}.jpg", jpeg(picture(n, SIZE))) for n in range(N)}
    # Two copies of picture 0 with its label; one of picture 1 with another one, in another collection; one of 2 without a
    # label there; and picture 3 byte for byte with another label.
    ids["0 small"] = write(root / "mine", "Egypt/copy-0.jpg", small(0))
    ids["0 rough"] = write(root / "mine", "Egypt/rough-0.jpg", jpeg(picture(0, SIZE), 70))
    ids["1 elsewhere"] = write(root / "theirs", "Japan/one.jpg", small(1))
    ids["2 unlabelled"] = write(root / "theirs", "two.jpg", jpeg(picture(2, (320, 240)), 90))
    write(root / "theirs", "France/three.jpg", jpeg(picture(3, SIZE)))
    # The answers that a labelled file gives.
    return ids


def wanted(root: Path, store: Path, *overrides: str) -> Settings:
    sources = ", ".join(f"{{kind: folder, name: {name}, path: {root / name}}}" for name in ("mine", "theirs"))
    sets = [f"store={store}", "labels=from-data", f"collect.sources=[{sources}]", "dedup.n_resamples=100"]
    # Few labels are enough for the tests; they part copies from others at about the middle of these.
    sets += ["dedup.probabilities=[0.3, 0.7]"]
    return load_settings(None, [*sets, "fit.n_resamples=100", "dedup.max_removed_share=0.5", *overrides])


COPIES = [("0", "0 small"), ("0", "0 rough"), ("0 small", "0 rough"), ("1", "1 elsewhere"), ("2", "2 unlabelled")]


def write_labels(root: Path, ids: dict[str, str]) -> Path:
    """The copies as duplicates, and every other picture with the one most like it as none."""
    version = Store(root / "store").version("embeddings")
    image_ids = version.read(["image_id"])["image_id"].to_pylist()
    copied = {ids[name] for pair in COPIES for name in pair}
    nearest, _ = nearest_neighbours(read_vectors(version))
    others = {tuple(sorted((image_ids[row], image_ids[other]))) for row, other in enumerate(nearest)}
    rows = [(ids[a], ids[b], True) for a, b in COPIES] + [
        (*pair, False) for pair in sorted(others) if not copied & set(pair)
    ]
    pl.DataFrame(rows, schema=["image_id_a", "image_id_b", "is_duplicate"], orient="row").write_csv(root / "pairs.csv")
    return root / "pairs.csv"


class Encoded:
    """A store with images and embeddings, not deduplicated yet; and what is in it."""

    def __init__(self, root: Path) -> None:
        from flows.collect import collect
        from flows.encode import encode

        self.root = root
        self.ids = write_collections(root)
        settings = wanted(root, root / "store")
        encode(settings, collect(settings))
        self.labels = write_labels(root, self.ids)

    def copy(self, to: Path) -> Path:
        return Path(shutil.copytree(self.root / "store", to))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Encoded:  # noqa: ARG001
    return Encoded(tmp_path_factory.mktemp("encoded"))


@pytest.fixture
def fresh(encoded: Encoded, tmp_path: Path) -> Path:
    return encoded.copy(tmp_path / "store")


def deduplicated(encoded: Encoded, store: Path, *overrides: str) -> TableVersion:
    from flows.dedup import dedup

    return Store(store).version("duplicates", dedup(wanted(encoded.root, store, *overrides)))


def by_name(encoded: Encoded, duplicates: TableVersion) -> dict[str, dict[str, Any]]:
    name_of = {identity: name for name, identity in encoded.ids.items()}
    return {name_of[row["image_id"]]: row for row in duplicates.read().to_pylist()}


def test_labels_of_a_file(encoded: Encoded, fresh: Path) -> None:
    duplicates = deduplicated(encoded, fresh, f"dedup.labels={encoded.labels}")
    rows = by_name(encoded, duplicates)
    assert set(rows) == {"0", "0 small", "0 rough", "1", "1 elsewhere", "2", "2 unlabelled"}
    # Most pixels; of as many the most metadata (2 has a label, but its copy is larger); then the smaller id.
    assert {name for name, row in rows.items() if row["kept"]} == {
        min("0", "0 rough", key=lambda name: encoded.ids[name]),
        "1",
        "2 unlabelled",
    }
    assert rows["0"]["group_id"] == rows["0 small"]["group_id"] == rows["0 rough"]["group_id"]
    assert [rows[name]["across_sources"] for name in ("0", "1", "2")] == [False, True, True]
    assert [rows[name]["across_labels"] for name in ("0", "1", "2")] == [False, True, False]
    counts = duplicates.counts
    assert counts["images"] == counts["kept"] + counts["removed"] == N + 4
    assert (counts["removed"], counts["groups"], counts["across_sources"], counts["across_labels"]) == (4, 3, 2, 1)
    assert (counts["identical_across_sources"], counts["identical_across_labels"]) == (1, 1)
    model = duplicates.notes["model"]
    assert model["separable"]
    n_labelled = pl.read_csv(encoded.labels).height
    assert model["n"] == duplicates.notes["label_counts"]["used"] == n_labelled

    pairs = Store(fresh).version("pairs", duplicates.fingerprint).read().to_pylist()
    assert all(row["image_id_a"] < row["image_id_b"] for row in pairs)
    labelled = [row for row in pairs if row["is_duplicate"] is not None]
    assert len(labelled) == n_labelled
    assert {row["labelled_by"] for row in labelled} == {"pairs.csv"}
    assert all((row["probability"] > 0.3) == (row["cosine"] > model["suspected"]) for row in pairs)
    # As brute force on the table of embeddings finds them.
    version = Store(fresh).version("embeddings")
    vectors, image_ids = read_vectors(version), version.read(["image_id"])["image_id"].to_pylist()
    near = np.triu(vectors @ vectors.T >= duplicates.notes["threshold"], 1)
    brute = {tuple(sorted((image_ids[i], image_ids[j]))) for i, j in zip(*np.nonzero(near), strict=True)}
    assert {(row["image_id_a"], row["image_id_b"]) for row in pairs if row["cosine"] >= model["suspected"]} == brute


def test_labels_are_passed_and_conflicts_reported(encoded: Encoded, fresh: Path) -> None:
    duplicates = deduplicated(encoded, fresh, f"dedup.labels={encoded.labels}")
    rows = by_name(encoded, duplicates)
    assert rows["1"]["labels"] == ["France", "Japan"]
    assert rows["1"]["label_conflict"]
    assert not rows["2 unlabelled"]["label_conflict"]
    assert rows["2 unlabelled"]["labels"] == ["Japan"]
    assert {row["certainty"] for row in rows.values()} == {"certain"}
    assert duplicates.counts["label_conflicts"] == 1
    found = query(Store(fresh), "select image_id from duplicates where label_conflict")
    assert found is not None
    assert found.fetchall() == [(encoded.ids["1"],)]


def test_suspected_copies_pass_no_label(encoded: Encoded, fresh: Path) -> None:
    duplicates = deduplicated(encoded, fresh, f"dedup.labels={encoded.labels}", "dedup.probabilities=[0.3, 0.999]")
    rows = by_name(encoded, duplicates)
    assert {row["certainty"] for row in rows.values()} == {"suspected"}
    assert rows["2 unlabelled"]["labels"] == []
    assert rows["1"]["labels"] == ["France"]
    assert not rows["1"]["label_conflict"]


def test_later_stages_read_through_the_duplicates(encoded: Encoded, fresh: Path) -> None:
    from flows.dedup import dedup
    from flows.fit import fit
    from flows.publish import publish
    from flows.search import search
    from flows.split import split

    settings = wanted(encoded.root, fresh, f"dedup.labels={encoded.labels}", "split.sizes.test=0.3")
    store = Store(fresh)
    with pytest.raises(StoreError, match="run `placeprint dedup` first, or set dedup=off"):
        split(settings)
    dedup(settings)
    splits = store.version("splits", split(settings))
    assert splits.counts["near_duplicates"] == 4
    parts = {row["image_id"]: row for row in splits.read().to_pylist()}
    removed = {encoded.ids[name] for name in ("0 small", "1 elsewhere", "2")}
    assert not removed & parts.keys()
    assert parts[encoded.ids["2 unlabelled"]]["stratum"] == "Japan"  # that of its certain copy
    assert len(parts) == splits.rows == N

    metrics = store.version("metrics", fit(settings)).read().to_pylist()
    said = {row["metric"]: row["value"] for row in metrics if row["head"] == "near-duplicates"}
    duplicates = store.version("duplicates")
    assert said["removed"] == 4
    assert said["threshold_suspected"] == pytest.approx(duplicates.notes["model"]["suspected"])
    predicted = {row["image_id"] for row in store.version("predictions").read(["image_id"]).to_pylist()}
    assert predicted <= parts.keys()
    page = publish(settings).read_text()
    assert "Near-duplicates" in page
    assert "4 removed" in " ".join(page.split())

    path = str(fresh / "images" / encoded.ids["0"][:2] / f"{encoded.ids['0']}.jpg")
    shown = [hit.image_id for hit in search(store, path, k=5)]
    everything = [hit.image_id for hit in search(store, path, k=5, duplicates=True)]
    assert len(shown) == len(everything) == 5
    assert len({encoded.ids[name] for name in ("0", "0 small", "0 rough")} & set(shown)) == 1
    assert {encoded.ids[name] for name in ("0", "0 small", "0 rough")} <= set(everything)

    # Off, all of them are split again.
    assert Store(fresh).version("splits", split(wanted(encoded.root, fresh, "dedup=off"))).rows == N + 3


def tables(store: Path, names: Sequence[str] = ("pairs", "duplicates")) -> dict[str, bytes]:
    return {
        str(path.relative_to(store)): path.read_bytes()
        for name in names
        for path in sorted(store.glob(f"tables/{name}/*/*.parquet"))
    }


def test_synthetic_labels_find_the_copies_and_say_what_they_are(
    encoded: Encoded, fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    duplicates = deduplicated(encoded, fresh, *SYNTHETIC)
    assert {"0", "0 small", "0 rough", "1", "1 elsewhere", "2", "2 unlabelled"} <= by_name(encoded, duplicates).keys()
    assert duplicates.notes["labels"] == "synthetic"
    assert "edits made here (recompress, resize)" in duplicates.notes["warnings"][0]
    assert "warning: no person has labelled pairs" in capsys.readouterr().err
    pairs = Store(fresh).version("pairs").read().to_pylist()
    labelled = [row for row in pairs if row["is_duplicate"] is not None]
    assert {row["labelled_by"] for row in labelled} == {"synthetic"}
    edits = [row for row in labelled if row["is_duplicate"]]
    assert {row["edit"].split()[0] for row in edits} == {"recompress", "resize"}
    assert len(edits) == N + 4
    store = encoded.copy(tmp_path / "again")
    deduplicated(encoded, store, *SYNTHETIC)
    assert tables(store) == tables(fresh)
    assert deduplicated(encoded, store, *SYNTHETIC, "dedup.seed=1").fingerprint != duplicates.fingerprint


def test_a_new_image_redraws_no_synthetic_labels_and_embeds_no_copy_again(
    encoded: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_embedded: list[int] = []
    encode_copies = synthetic._encoded

    def counted(settings: EncodeSettings, pictures: Sequence[Picture]) -> Vectors:
        n_embedded.append(len(pictures))
        return encode_copies(settings, pictures)

    monkeypatch.setattr(synthetic, "_encoded", counted)
    # Of 64 images 40 are drawn: a new one takes the place of one at most.
    sets = (*SYNTHETIC, "dedup.synthetic.n_images=40")
    store = encoded.copy(tmp_path / "store")
    deduplicated(encoded, store, *sets)
    before = synthetic_rows(store)
    assert n_embedded == [len(before)]
    root = Path(shutil.copytree(encoded.root / "mine", tmp_path / "photos" / "mine")).parent
    shutil.copytree(encoded.root / "theirs", root / "theirs")
    for number in range(100, 104):
        write(root / "mine", f"Egypt/{number}.jpg", jpeg(picture(number, SIZE)))
    settings = wanted(root, store, *sets)
    encode_images(settings, collect_images(settings))
    deduplicated_with(settings)
    now = synthetic_rows(store)
    n_new = len(now.keys() - before.keys())
    assert n_new <= 4
    assert n_embedded[1:] == [n_new] if n_new else []
    assert {identity: before[identity] for identity in now.keys() & before.keys()} == {
        identity: now[identity] for identity in now.keys() & before.keys()
    }
    # As a run from scratch has it.
    scratch = tmp_path / "scratch"
    settings = wanted(root, scratch, *sets)
    encode_images(settings, collect_images(settings))
    deduplicated_with(settings)
    made = {name: data for name, data in tables(store).items() if Store(store).version("pairs").fingerprint in name}
    assert tables(scratch) == made


def deduplicated_with(settings: Settings) -> None:
    from flows.dedup import dedup

    dedup(settings)


def synthetic_rows(store: Path) -> dict[str, tuple[str, float]]:
    """Edit and cosine of each synthetic copy, by the two ids."""
    rows = Store(store).version("pairs").read().to_pylist()
    return {
        f"{row['image_id_a']} {row['image_id_b']}": (row["edit"], row["cosine"])
        for row in rows
        if row["edit"] is not None
    }


def test_new_images_are_compared_with_the_old_ones_only(
    encoded: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.collect import collect
    from flows.encode import encode
    from tasks.dedup import found

    asked: list[tuple[int, int]] = []
    whole = found.near_pairs

    def recorded(vectors: np.ndarray, **given: Any) -> Any:
        asked.append((given["n_known"], len(vectors)))
        return whole(vectors, **given)

    monkeypatch.setattr(found, "near_pairs", recorded)
    label_file = f"dedup.labels={encoded.labels}"
    store = encoded.copy(tmp_path / "grown")
    deduplicated(encoded, store, label_file)
    root = Path(shutil.copytree(encoded.root, tmp_path / "root", ignore=shutil.ignore_patterns("store")))
    for n in range(5, 25):
        write(root / "mine", f"{LABELS[n % 3]}/late-{n:02d}.jpg", small(n) if n % 2 else jpeg(picture(100 + n, SIZE)))
    settings = wanted(root, store, label_file, "encode.shard_size=32")

    def again(settings: Settings) -> TableVersion:
        from flows.dedup import dedup

        encode(settings, collect(settings))
        return Store(settings.store).version("duplicates", dedup(settings))

    grown = again(settings)
    assert asked[0] == (0, N + 4)
    n_known, n = asked[1]
    assert n == N + 24
    assert n_known >= N  # all whose vector is still the same, bit for bit
    whole_again = again(wanted(root, tmp_path / "whole", label_file, "encode.shard_size=32"))
    assert asked[2] == (0, N + 24)
    assert grown.fingerprint == whole_again.fingerprint
    assert grown.rows > 7
    for table in ("pairs", "duplicates"):
        one, other = (Store(each).version(table, grown.fingerprint).files for each in (store, tmp_path / "whole"))
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    # Another linkage: nothing is compared again.
    complete = deduplicated(encoded, store, label_file, "dedup.linkage=complete")
    assert complete.counts["images"] == N + 24
    assert asked[3] == (N + 24, N + 24)


def test_through_the_index(encoded: Encoded, fresh: Path) -> None:
    labels = f"dedup.labels={encoded.labels}"
    exact = deduplicated(encoded, fresh, labels)
    indexed = deduplicated(encoded, fresh, labels, "dedup.search=index")
    assert indexed.notes["search"] == "index"
    assert indexed.notes["recall"] == 1
    assert indexed.read().equals(exact.read())


def test_a_threshold_that_would_remove_too_much(encoded: Encoded, fresh: Path) -> None:
    labels = f"dedup.labels={encoded.labels}"
    share = deduplicated(encoded, fresh, labels).counts["removed"] / (N + 4)
    kept = deduplicated(encoded, fresh, labels, f"dedup.max_removed_share={share - 0.01}")
    assert kept.notes["removes"] == "certain"
    assert "6 % of the images would be removed" in kept.notes["warnings"][0]
    assert kept.notes["threshold"] == kept.notes["model"]["certain"]
    by_word = deduplicated(encoded, fresh, labels, "dedup.remove=certain")
    # Suspected pairs are listed all the same.
    pairs = Store(fresh).version("pairs", by_word.fingerprint)
    assert by_word.notes["searched_from"] < by_word.notes["model"]["suspected"] < by_word.notes["threshold"]
    assert pairs.notes == by_word.notes
    assert by_word.read().equals(kept.read())
    assert not by_word.notes["warnings"]


def test_without_labels_that_tell_anything(encoded: Encoded, fresh: Path) -> None:
    swapped = encoded.root / "swapped.csv"
    pl.read_csv(encoded.labels).with_columns(~pl.col("is_duplicate")).write_csv(swapped)
    with pytest.raises(
        PlaceprintError, match="no threshold can be fitted: pairs with a higher cosine are not more often"
    ):
        deduplicated(encoded, fresh, f"dedup.labels={swapped}")
    with pytest.raises(PlaceprintError, match="nobody has labelled pairs in this store"):
        deduplicated(encoded, fresh, "dedup.labels=person")
    with pytest.raises(PlaceprintError, match=r"nothing\.csv: No such file or directory: give auto, person, synthetic"):
        deduplicated(encoded, fresh, "dedup.labels=nothing.csv")
    assert not Store(fresh).versions("duplicates")


def test_images_without_labels_and_places(tmp_path: Path) -> None:
    """Nobody asked for these labels, so the stage ends well: it removes nothing, and says so."""
    from flows.collect import collect
    from flows.dedup import dedup
    from flows.encode import encode

    for n in range(25):
        write(tmp_path / "mine", f"{n}.jpg", jpeg(picture(n, SIZE)))
    settings = load_settings(
        None,
        [
            f"store={tmp_path / 'store'}",
            "labels=from-data",
            f"collect.sources=[{{kind: folder, path: {tmp_path / 'mine'}}}]",
        ],
    )
    encode(settings, collect(settings))
    version = Store(tmp_path / "store").version("duplicates", dedup(settings))
    assert version.rows == 0
    assert version.notes["model"] is None
    assert (
        "no image is removed: dedup.labels: synthetic pairs need images from different places"
        in version.notes["warnings"][1]
    )
    assert version.counts["images"] == version.counts["kept"] == 25


def test_a_persons_answers_take_the_place_of_synthetic_ones(encoded: Encoded, fresh: Path) -> None:
    store, ids = Store(fresh), encoded.ids
    for n in range(10, 20):
        add_answer(store, ids[str(n)], ids[str(n + 1)], "different", labelled_by="ann")
    assert deduplicated(encoded, fresh, *SYNTHETIC).notes["labels"] == "synthetic"
    for a, b in (("0", "0 small"), ("0", "0 rough"), ("1", "1 elsewhere")):
        add_answer(store, ids[a], ids[b], "duplicate", labelled_by="ann")
    add_answer(store, ids["5"], ids["6"], "skip", labelled_by="ann")
    version = deduplicated(encoded, fresh, *SYNTHETIC)
    assert version.notes["labels"] == "person"
    assert version.notes["label_counts"] == {
        "given": 14,
        "skipped": 1,
        "no_embedding": 0,
        "of_one_image": 0,
        "used": 13,
    }
    assert not any("made here" in each for each in version.notes["warnings"])
    people = {
        row["labelled_by"] for row in store.version("pairs").read().to_pylist() if row["is_duplicate"] is not None
    }
    assert people == {"ann"}
    # One answer more is another version; the same answers are not.
    assert deduplicated(encoded, fresh, *SYNTHETIC).fingerprint == version.fingerprint
    add_answer(store, ids["2"], ids["2 unlabelled"], "duplicate", labelled_by="bob")
    assert deduplicated(encoded, fresh, *SYNTHETIC).fingerprint != version.fingerprint


def test_from_the_command_line(encoded: Encoded, fresh: Path, tmp_path: Path) -> None:
    sets = ["-s", f"dedup.labels={encoded.labels}", "-s", "dedup.probabilities=[0.3, 0.7]", "--store", str(fresh)]
    process = start("dedup", *sets, home=tmp_path)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert f"dedup: {N + 4} images = {N} kept + 4 duplicates, in 3 groups" in output
    again = start("dedup", *sets, home=tmp_path)
    assert "dedup: nothing to do" in again.communicate(timeout=240)[0]
    sql = start(
        "sql",
        "--csv",
        "--store",
        str(fresh),
        "select sum(kept::int) as k, count(*) as n from duplicates",
        home=tmp_path,
    )
    assert sql.communicate(timeout=240)[0].split() == ["k,n", "3,7"]
    bad = encoded.root / "bad.csv"
    bad.write_text(encoded.labels.read_text().replace("true", "perhaps", 1))
    wrong = start("dedup", *sets, "-s", f"dedup.labels={bad}", home=tmp_path)
    output = wrong.communicate(timeout=240)[0]
    assert wrong.returncode == 1
    assert "row 1: is_duplicate is 'perhaps', not true or false" in output
    off = start("dedup", "--store", str(fresh), "-s", "dedup=off", home=tmp_path)
    assert "the setting dedup is off" in off.communicate(timeout=240)[0]
    assert off.returncode == 1
    runs = [json.loads(path.read_text()) for path in sorted(fresh.glob("runs/*.json"))]
    assert {run["status"] for run in runs if run["flow"] == "dedup"} == {"completed", "failed"}
