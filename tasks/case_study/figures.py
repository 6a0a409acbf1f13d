"""Every figure of the case study's section 8, from the tables of the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from storage.catalog import query
from storage.store import Recipe, Store, TableVersion
from storage.vectors import Vectors
from tasks.case_study.settings import StudySettings
from tasks.case_study.steps import templates_of
from tasks.heads.data import LabelledImages, read_labelled
from tasks.heads.regional import with_cosines
from tasks.labels.label_set import LabelSet
from tasks.metrics.confusion import ConfusionView, confusion_views, cropped, within_group
from tasks.report.confusion_figure import confusion_figure
from tasks.report.study_figures import (
    embedding_map,
    figure_files,
    loss_curves,
    metric_bars,
    metric_boxes,
)
from tasks.report.tsne import tsne_points

_TOP = 25


@dataclass(frozen=True)
class StudyFigure:
    """A figure of the report; `draw` is called once, when its files are written."""

    name: str
    section: str
    caption: str
    draw: Callable[[], Figure] | None

    def files(self) -> dict[str, bytes]:
        """``svg`` and ``png``; nothing where it was drawn before."""
        return {} if self.draw is None else figure_files(self.draw())

    def without_drawing(self) -> StudyFigure:
        """What the page needs, without the data."""
        return replace(self, draw=None)


def study_figures(store: Store, settings: StudySettings, metrics: TableVersion) -> Iterator[StudyFigure]:
    """All figures, one after the other, so that few data are in memory at a time."""
    recipe = metrics.manifest["recipe"]
    frame = pl.DataFrame(metrics.read())
    images = read_labelled(store, _recipe_of(metrics))
    yield from _metric_figures(settings, frame)
    yield from _loss_figures(store, settings, metrics)
    yield from _confusions(store, settings, metrics, images)
    prompts = templates_of(store, _recipe_of(metrics))[recipe["settings"]["heads"]["template"]]
    yield from _maps(settings, images, prompts)


def _recipe_of(metrics: TableVersion) -> Recipe:
    return Recipe(**metrics.manifest["recipe"])


def _scores(frame: pl.DataFrame, outer: str, inner: str) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Values by two columns, in the order in which they come."""
    found: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for (first, second), rows in frame.group_by([outer, inner], maintain_order=True):
        found.setdefault(str(first), {})[str(second)] = rows["value"].to_numpy()
    return found


def _metric_figures(settings: StudySettings, frame: pl.DataFrame) -> Iterator[StudyFigure]:
    folds = frame.filter((pl.col("experiment") == "zero-shot") & (pl.col("part") == "fold"))
    f1 = pl.col("metric") == "mixed_f1"
    yield StudyFigure(
        "zero-shot-prompts",
        "zero-shot",
        "Mixed F1 over the folds of each collection, by prompt; diamonds are means.",
        lambda: metric_boxes(_scores(folds.filter(f1), "source", "configuration"), "mixed F1"),
    )
    regional = frame.filter((pl.col("experiment") == "regional") & (pl.col("source") == "all"))
    chosen = settings.figures.loss
    names = {"mixed_precision": "mixed P", "mixed_recall": "mixed R", "mixed_f1": "mixed F1"}
    for part, where in (("test", "the trained test set"), ("zero_shot", "the zero-shot test set")):
        rows = regional.filter(pl.col("part") == part)
        if not rows.height:
            continue
        yield StudyFigure(
            f"f1-by-loss-{part.replace('_', '-')}",
            "heads",
            f"Mixed F1 on {where}: means over the models, with standard deviations.",
            lambda rows=rows: metric_bars(_scores(rows.filter(f1), "split", "configuration"), "mixed F1"),  # type: ignore[misc]
        )
        under = rows.filter((pl.col("configuration") == chosen) & pl.col("metric").is_in(list(names)))
        if under.height:
            titled = under.with_columns(pl.col("metric").replace_strict(names))
            yield StudyFigure(
                f"metrics-by-set-{part.replace('_', '-')}",
                "heads",
                f"Mixed metrics under the loss {chosen} on {where}, by training set.",
                lambda titled=titled: metric_bars(_scores(titled, "metric", "split"), "value"),  # type: ignore[misc]
            )


def _loss_figures(store: Store, settings: StudySettings, metrics: TableVersion) -> Iterator[StudyFigure]:
    training = pl.DataFrame(store.version("training", metrics.fingerprint).read())
    columns = {
        "class, training": "class_training",
        "class, validation": "class_validation",
        "region, training": "region_training",
        "region, validation": "region_validation",
    }
    for (split, loss), rows in training.group_by(["split", "configuration"], maintain_order=True):
        if settings.figures.sets is not None and split not in settings.figures.sets:
            continue
        ordered = rows.sort("seed", "epoch", "segment")
        n_seeds = ordered["seed"].n_unique()
        yield StudyFigure(
            f"losses-{split}-{loss}",
            "heads",
            f"Losses of the heads on {split} under {loss}: mean over the models, and their range.",
            lambda ordered=ordered, n_seeds=n_seeds: loss_curves(  # type: ignore[misc]
                {name: ordered[column].to_numpy().reshape(n_seeds, -1) for name, column in columns.items()},
                settings.heads.n_folds,
            ),
        )


def _confusions(
    store: Store, settings: StudySettings, metrics: TableVersion, images: LabelledImages
) -> Iterator[StudyFigure]:
    wanted = settings.figures
    for source in sorted(set(images.source.tolist())):
        if wanted.collections is None or source in wanted.collections:
            counts = _counts(
                store,
                metrics,
                images.classes,
                {"experiment": "zero-shot", "configuration": settings.heads.template},
                source=source,
            )
            yield from _confusion_figures(
                settings, images.classes, counts, f"zero-shot-{source}", f"zero-shot, {source}"
            )
    for unit in metrics.notes["units"][1:]:
        if wanted.sets is None or unit in wanted.sets:
            key = {"experiment": "regional", "split": unit, "configuration": wanted.loss}
            counts = _counts(store, metrics, images.classes, key, part="test")
            title = f"heads on {unit}, {wanted.loss}, {len(settings.seeds)} models added up"
            yield from _confusion_figures(settings, images.classes, counts, unit, title)


def _counts(
    store: Store,
    metrics: TableVersion,
    classes: LabelSet,
    key: Mapping[str, str],
    *,
    source: str | None = None,
    part: str | None = None,
) -> npt.NDArray[np.int64]:
    """Truth by prediction, added up over seeds, of one collection or of one part of the split."""
    inputs = metrics.manifest["recipe"]["inputs"]
    where = " and ".join(f"p.{column} = '{_quoted(value)}'" for column, value in key.items())
    joins = ""
    if source is not None:
        joins = f"join (select image_id, min(source) as source from images_at('{inputs['images']}') group by image_id) i using (image_id)"
        where += f" and i.source = '{_quoted(source)}'"
    if part is not None:
        joins = f"join splits_at('{inputs['splits']}') s on s.image_id = p.image_id and s.split = p.split"
        where += f" and s.part = '{_quoted(part)}'"
    relation = query(
        store,
        f"select label_true, label_pred, count(*) from predictions_at('{metrics.fingerprint}') p {joins} where {where} group by all",
    )
    counts = np.zeros((len(classes.names), len(classes.names)), dtype=np.int64)
    for truth, predicted, n in relation.fetchall() if relation is not None else []:
        counts[classes.index[truth], classes.index[predicted]] = n
    return counts


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _confusion_figures(
    settings: StudySettings, classes: LabelSet, counts: npt.NDArray[np.int64], name: str, title: str
) -> Iterator[StudyFigure]:
    if not counts.any():
        return
    views: dict[str, ConfusionView] = dict(confusion_views(counts, classes.names, classes.regions, classes.continents))
    views[f"top-{_TOP}"] = cropped(views["countries-by-diagonal"], _TOP)
    for region in settings.figures.regions if classes.regions is not None else ():
        if region in (views["countries-by-region"].groups or ()):
            views[region.lower().replace(" ", "-")] = within_group(views["countries-by-region"], region)
    for kind, view in views.items():
        for normalised in (False, True):
            what = "shares of the truth" if normalised else "counts"
            yield StudyFigure(
                f"confusion-{name}-{kind}-{'shares' if normalised else 'counts'}",
                "confusions",
                f"{title}: {kind.replace('-', ' ')}, {what}. Truth down, prediction across.",
                lambda view=view, normalised=normalised, kind=kind: confusion_figure(  # type: ignore[misc]
                    view, normalised=normalised, title=f"{title}: {kind.replace('-', ' ')}"
                ),
            )


@dataclass(frozen=True)
class _Run:
    """One t-SNE: of which collection, of what, and its map."""

    source: str
    kind: str
    number: int
    seed: int
    labels: list[str]
    points: npt.NDArray[np.float32]


def _maps(settings: StudySettings, images: LabelledImages, prompts: Vectors) -> Iterator[StudyFigure]:
    if not settings.figures.tsne_points:
        return
    for run in _tsne_runs(settings, images, prompts):
        what = f"{len(run.points):,} {run.kind.replace('-', ' ')} of {run.source}"
        caption = f"t-SNE of {what}, run {run.number} (seed {run.seed})"
        for colours, groups in _colourings(settings, images.classes, run.labels, all_of_them=run.number == 1):
            yield StudyFigure(
                f"tsne-{run.source}-{run.kind}-{run.number}-{colours}",
                "maps",
                f"{caption}, coloured by {colours.replace('-', ' ')}.",
                lambda run=run, groups=groups, colours=colours, caption=caption: embedding_map(  # type: ignore[misc]
                    run.points, groups, title=caption, legend_title=colours.replace("-", " ")
                ),
            )


def _tsne_runs(settings: StudySettings, images: LabelledImages, prompts: Vectors) -> Iterator[_Run]:
    """Every collection, with and without cosines, once a seed; as many at once as there are cores, each in one thread."""
    wanted, names = settings.figures, images.classes.names

    def run(job: tuple[str, str, int, int]) -> _Run:
        source, kind, number, seed = job
        rows = np.flatnonzero(images.source == source)
        vectors = images.vectors[rows]
        given = vectors if kind == "embeddings" else with_cosines(vectors, prompts)
        found = tsne_points(given, max_points=wanted.tsne_points, seed=seed, max_iter=wanted.tsne_iterations)
        labels = [names[each] for each in images.label[rows[found.rows]].tolist()]
        return _Run(source, kind, number, seed, labels, found.points)

    jobs = [
        (source, kind, number, seed)
        for source in sorted(set(images.source.tolist()))
        for kind in ("embeddings", "embeddings-and-cosines")
        for number, seed in enumerate(wanted.tsne_seeds, start=1)
    ]
    # The limit of the first run to end would be lifted for the others too: so it is set around them all.
    with threadpool_limits(limits=1), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(run, jobs)


def _colourings(
    settings: StudySettings, classes: LabelSet, labels: list[str], *, all_of_them: bool
) -> Iterator[tuple[str, list[str | None]]]:
    """What a map is coloured by, and the group of each point; a second run is for comparing shapes, so it has one."""
    continent = dict(zip(classes.names, classes.continents or classes.regions or classes.names, strict=True))
    yield ("continent" if classes.continents else "label"), [continent[label] for label in labels]
    if not all_of_them or classes.regions is None:
        return
    region = dict(zip(classes.names, classes.regions, strict=True))
    yield "region", [region[label] for label in labels]
    for name in settings.figures.regions:
        groups = [label if region[label] == name else None for label in labels]
        if any(groups):
            yield f"countries-of-{name.lower().replace(' ', '-')}", groups
