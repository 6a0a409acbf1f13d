"""Each kind of split, from its settings and the images to parts. To add one: its settings, a function here, a line in `_MAKE`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import PlaceprintError
from storage.schemas import Part
from tasks.labels.label_set import load_label_set
from tasks.split.balance import nested_subsets, single_positives
from tasks.split.case_study import CaseStudyRule, case_study_sets, set_table
from tasks.split.hierarchy import Hierarchy, read_hierarchy
from tasks.split.multilabel import multilabel_split
from tasks.split.reference import reference_set
from tasks.split.settings import (
    CaseStudySettings,
    MultilabelSettings,
    ReferenceSettings,
    SpatialSettings,
    SplitSettings,
    StratifiedSettings,
    SubsetSettings,
    SurrogateSettings,
    TimeSettings,
)
from tasks.split.spatial import buffer_zone, equal_area_cells, h3_cells
from tasks.split.stratified import stratified_split
from tasks.split.surrogate import surrogate_strata, surrogate_values
from tasks.split.temporal import Interval, time_split

Texts = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float64]

NOWHERE = ""
_N_NAMED = 3  # images that an error names


@dataclass(frozen=True)
class SplitImages:
    """The images that are split, (n,) each, sorted by id; coordinates NaN and times NaT where they are not known.

    `vectors` gives their embeddings, (n, d) float32, which few kinds need.
    """

    image_id: list[str]
    label: Texts
    source: Texts
    place: Texts
    latitude: Floats
    longitude: Floats
    captured_at: npt.NDArray[np.datetime64]
    vectors: Callable[[], npt.NDArray[np.float32]]
    path: list[str]
    label_set: str


@dataclass(frozen=True)
class NamedSplit:
    """A split: the part of each image (``""``: none), what was kept in proportion, and what must not be divided.

    `observed` names, of a training image with several labels, the one that is seen; `labels` (n, c) and `classes` are all of
    them. `table` says of what it is made.
    """

    name: str
    part: Texts
    stratum: Texts
    sizes: Mapping[str, float] | None = None
    groups: Texts | None = None
    cells: npt.NDArray[Any] | None = None
    observed: list[str | None] | None = None
    labels: npt.NDArray[np.bool_] | None = None
    classes: list[str] | None = None
    table: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class MadeSplits:
    """The splits by name, in the order of the settings, and why optional ones could not be made."""

    splits: dict[str, NamedSplit]
    left_out: dict[str, str]


def make_splits(settings: SplitSettings, images: SplitImages, check: Callable[[NamedSplit], NamedSplit]) -> MadeSplits:
    """All splits that the settings name.

    Parameters
    ----------
    check
        Gives a split without leaks. It is asked of each as soon as it is made, since subsets are cut from earlier ones.

    Raises
    ------
    PlaceprintError
        When one that is not optional cannot be made of these images; the line names it.
    """
    made = MadeSplits({}, {})
    for kind in settings.splits:
        name = getattr(kind, "name", kind.kind)
        try:
            for split in _MAKE[type(kind)](kind, settings, images, made.splits):
                _check_parts(split)
                if split.name in made.splits:
                    raise ValueError(f"there is another split named {split.name}")
                made.splits[split.name] = check(split)
        except (ValueError, ImportError) as error:
            if not getattr(kind, "optional", False):
                raise PlaceprintError(f"split: {name}: {error}") from None
            made.left_out[name] = str(error)
    return made


def _check_parts(split: NamedSplit) -> None:
    """Refuse a split that cannot be learned from or judged."""
    found = set(split.part.tolist())
    if Part.REFERENCE.value in found:
        return
    empty = [part for part in split.sizes or (Part.TRAIN.value, Part.TEST.value) if part not in found]
    if empty:
        raise ValueError(f"no image is in the part {empty[0]}: too few images, places or cells for these sizes")


def _groups(settings: SplitSettings, images: SplitImages) -> Texts | None:
    return images.place if settings.keep_together == "place" else None


def _stratified(
    kind: StratifiedSettings, settings: SplitSettings, images: SplitImages, _: Mapping[str, NamedSplit]
) -> list[NamedSplit]:
    groups = _groups(settings, images)
    part = stratified_split(
        images.label,
        sizes=settings.sizes,
        seed=settings.seed,
        groups=groups,
        every_class_in_each_part=kind.every_class_in_each_part,
        min_class_size=1 if kind.stable else settings.min_class_size,
        small_class_part=settings.small_classes,
        ids=images.image_id,
        stable=kind.stable,
    )
    return [NamedSplit(kind.name, part, images.label, settings.sizes, groups)]


def _multilabel(
    kind: MultilabelSettings, settings: SplitSettings, images: SplitImages, _: Mapping[str, NamedSplit]
) -> list[NamedSplit]:
    several = [sorted({each.strip() for each in label.split(kind.separator)} - {""}) for label in images.label.tolist()]
    names = sorted({each for labels in several for each in labels})
    column = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(several), len(names)), dtype=np.bool_)
    for row, labels in enumerate(several):
        matrix[row, [column[each] for each in labels]] = True
    groups = _groups(settings, images)
    part = multilabel_split(
        matrix, sizes=settings.sizes, seed=settings.seed, groups=groups, order=kind.order, ids=images.image_id
    )
    observed: list[str | None] | None = None
    if kind.single_positive:
        train = np.flatnonzero(part == Part.TRAIN.value)
        ids = [images.image_id[row] for row in train.tolist()]
        seen = single_positives(matrix[train], ids, seed=settings.seed).argmax(axis=1)
        observed = [None] * len(several)
        for row, label in zip(train.tolist(), seen.tolist(), strict=True):
            observed[row] = names[label]
    return [
        NamedSplit(
            kind.name, part, images.label, settings.sizes, groups, observed=observed, labels=matrix, classes=names
        )
    ]


def _surrogate(
    kind: SurrogateSettings, settings: SplitSettings, images: SplitImages, _: Mapping[str, NamedSplit]
) -> list[NamedSplit]:
    values = surrogate_values(images.vectors(), temperature=kind.temperature)
    stratum = np.array([f"bin {number}" for number in surrogate_strata(values, n_bins=kind.n_bins)])
    groups = _groups(settings, images)
    part = stratified_split(stratum, sizes=settings.sizes, seed=settings.seed, groups=groups, ids=images.image_id)
    return [NamedSplit(kind.name, part, stratum, settings.sizes, groups)]


def _spatial(
    kind: SpatialSettings, settings: SplitSettings, images: SplitImages, _: Mapping[str, NamedSplit]
) -> list[NamedSplit]:
    located = _located(kind, images)
    latitude, longitude = images.latitude[located], images.longitude[located]
    found: npt.NDArray[Any]
    if kind.cells == "h3":
        found = h3_cells(latitude, longitude, resolution=kind.resolution)
    else:
        found = equal_area_cells(latitude, longitude, side_km=kind.side_km)
    ids = [identity for identity, here in zip(images.image_id, located.tolist(), strict=True) if here]
    assigned = stratified_split(
        images.label[located], sizes=settings.sizes, seed=settings.seed, groups=found, ids=ids
    ).astype(object)
    if kind.buffer_km:
        kept = [name for name in settings.sizes if name != Part.TRAIN.value]
        near = buffer_zone(latitude, longitude, assigned.astype(str), buffer_km=kind.buffer_km, keep=kept)
        assigned[near] = Part.BUFFER.value
    part = np.full(len(located), Part.UNUSED.value, dtype=object)
    part[located] = assigned
    # Of images that are in no part nobody asks for the cell.
    cells = np.zeros(len(located), dtype=found.dtype)
    cells[located] = found
    return [NamedSplit(kind.name, part.astype(str), images.label, settings.sizes, images.place, cells)]


def _located(kind: SpatialSettings, images: SplitImages) -> npt.NDArray[np.bool_]:
    located = ~(np.isnan(images.latitude) | np.isnan(images.longitude))
    n_without = int((~located).sum())
    if n_without and (kind.unlocated == "fail" or not located.any()):
        names = [images.path[row] for row in np.flatnonzero(~located)[:_N_NAMED].tolist()]
        more = ", …" if n_without > _N_NAMED else ""
        hint = "; `unlocated: unused` goes on with the others" if located.any() else ""
        raise ValueError(f"{n_without} of {len(located)} images have no coordinates: {', '.join(names)}{more}{hint}")
    return np.asarray(located, dtype=np.bool_)


def _time(
    kind: TimeSettings, _settings: SplitSettings, images: SplitImages, _: Mapping[str, NamedSplit]
) -> list[NamedSplit]:
    until, start = kind.train_until, kind.test_from or kind.train_until
    boundaries: dict[str, Interval] = {"train": (None, until), "test": (start, None)}
    if start > until:
        boundaries["validation"] = (until, start)
    undated = None if kind.undated == "fail" else Part.UNUSED.value
    return [
        NamedSplit(kind.name, time_split(images.captured_at, boundaries=boundaries, undated_part=undated), images.label)
    ]


def _case_study(
    kind: CaseStudySettings, settings: SplitSettings, images: SplitImages, _: Mapping[str, NamedSplit]
) -> list[NamedSplit]:
    rule = CaseStudyRule(**kind.model_dump(exclude={"kind"}), seed=settings.seed)
    sets = case_study_sets(images.label, images.source, images.image_id, rule)
    table = set_table(sets, images.label, images.source)
    made: list[NamedSplit] = []
    for name, chosen in sets.training.items():
        part = np.full(len(images.image_id), NOWHERE, dtype=object)
        part[chosen] = Part.TRAIN.value
        part[sets.trained_test] = Part.TEST.value
        part[sets.zero_shot] = Part.ZERO_SHOT.value
        made.append(NamedSplit(name, part.astype(str), images.label, table=None if made else table))
    return made


def _subsets(
    kind: SubsetSettings, settings: SplitSettings, images: SplitImages, made: Mapping[str, NamedSplit]
) -> list[NamedSplit]:
    if kind.of not in made:
        raise ValueError(f"there is no split {kind.of!r} before it: there are {', '.join(made) or 'none'}")
    whole = made[kind.of]
    labels = np.array(_hierarchy(settings, images).coarsen(images.label.tolist(), kind.level))
    train = np.flatnonzero(whole.part == Part.TRAIN.value)
    ids = [images.image_id[row] for row in train.tolist()]
    subsets = nested_subsets(labels[train], ids, sizes=kind.sizes, seed=settings.seed)
    splits = []
    for size, chosen in subsets.items():
        part = whole.part.astype(object)
        part[train[~chosen]] = NOWHERE
        splits.append(NamedSplit(f"{kind.of}-{size}", part.astype(str), whole.stratum))
    return splits


def _hierarchy(settings: SplitSettings, images: SplitImages) -> Hierarchy:
    if settings.hierarchy is not None:
        return read_hierarchy(Path(settings.hierarchy).expanduser())
    known = load_label_set(images.label_set, images.label.tolist())
    levels = {"region": known.regions, "continent": known.continents}
    return Hierarchy.from_levels(known.names, {level: names for level, names in levels.items() if names is not None})


def _reference(
    kind: ReferenceSettings, settings: SplitSettings, images: SplitImages, _: Mapping[str, NamedSplit]
) -> list[NamedSplit]:
    cells = equal_area_cells(images.latitude, images.longitude, side_km=kind.side_km)
    chosen = reference_set(
        images.vectors(),
        cells,
        [getattr(images, name) for name in kind.features],
        n=kind.n,
        seed=settings.seed,
        ids=images.image_id,
        max_group=kind.max_group,
    )
    part = np.full(len(images.image_id), NOWHERE, dtype=object)
    part[chosen.rows] = Part.REFERENCE.value
    return [NamedSplit(kind.name, part.astype(str), np.array([f"group {number}" for number in chosen.group]))]


_MAKE: dict[type[Any], Callable[[Any, SplitSettings, SplitImages, Mapping[str, NamedSplit]], list[NamedSplit]]] = {
    StratifiedSettings: _stratified,
    MultilabelSettings: _multilabel,
    SurrogateSettings: _surrogate,
    SpatialSettings: _spatial,
    TimeSettings: _time,
    CaseStudySettings: _case_study,
    SubsetSettings: _subsets,
    ReferenceSettings: _reference,
}
