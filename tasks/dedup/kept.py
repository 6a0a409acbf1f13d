"""What later stages read of the images: those that dedup keeps, with the labels that were passed to them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StoreError
from storage.store import Store, TableVersion
from tasks.collect.steps import unique_images


def duplicates_for(store: Store, images: str, fingerprint: str | None = None) -> str:
    """Fingerprint of the duplicates made last, or of those named, which must be of these images.

    Raises
    ------
    StoreError
        When there are none, or they are of other images.
    """
    try:
        found = store.version("duplicates", fingerprint)
    except StoreError:
        found = None
    if found is None or found.manifest["recipe"]["inputs"]["images"] != images:
        raise StoreError(
            f"split: the near-duplicates of the images {images} are not known: run `placeprint dedup` first, or set dedup=off"
        )
    return found.fingerprint


def removed_images(store: Store, images: str) -> set[str]:
    """Ids of the near-duplicates that were removed last of these images; none where dedup was not run on them."""
    try:
        duplicates = store.version("duplicates", duplicates_for(store, images)).read(["image_id", "kept"])
    except StoreError:
        return set()
    return set(duplicates.filter(pc.invert(duplicates["kept"]))["image_id"].to_pylist())


def kept_images(images: TableVersion, duplicates: TableVersion | None, columns: list[str]) -> pa.Table:
    """Rows of the images table, each image once, without the near-duplicates that were removed.

    A kept image without a label takes that of its certain copies, if they agree.

    Parameters
    ----------
    duplicates
        None where dedup is off: then all images are kept.
    columns
        Of the images table; `image_id` must be among them.
    """
    rows = unique_images(images, columns)
    if duplicates is None:
        return rows
    groups = duplicates.read(["image_id", "kept", "labels"])
    removed = groups.filter(pc.invert(groups["kept"]))["image_id"].combine_chunks()
    rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], removed)))
    if "label" not in columns:
        return rows
    passed = {
        row["image_id"]: row["labels"][0] for row in groups.to_pylist() if row["kept"] and len(row["labels"]) == 1
    }
    labels = [
        passed.get(identity) if label is None else label
        for identity, label in zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True)
    ]
    return rows.set_column(columns.index("label"), rows.schema.field("label"), pa.array(labels, pa.string()))
