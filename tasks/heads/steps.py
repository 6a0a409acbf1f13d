"""Fit: from ``embeddings``, ``prompts``, ``splits`` and ``duplicates`` to the tables ``predictions`` and ``metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier

from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from storage.schemas import METRICS, PREDICTIONS, Part
from storage.store import Recipe, Store
from storage.vectors import Vectors, column_vectors, read_vectors
from tasks.dedup.kept import kept_images
from tasks.dedup.metric_rows import dedup_metrics
from tasks.heads.logistic import logistic_regression
from tasks.heads.settings import FitSettings
from tasks.heads.zero_shot import ZeroShotHead
from tasks.labels.label_set import LabelSet, load_label_set
from tasks.metrics.accuracy import region_hits, share_interval, top_k_hits
from tasks.metrics.mixed import mixed_scores
from tasks.split.steps import duplicates_of, place_groups

STEP_VERSION = 2
# Parts whose labels no head has seen.
JUDGED_PARTS = (Part.TEST.value, Part.ZERO_SHOT.value)


def fit_recipe(settings: FitSettings, inputs: dict[str, str], labels: str) -> Recipe:
    """What makes predictions and metrics; `inputs` names the versions of images, embeddings, prompts, splits."""
    return Recipe("fit", STEP_VERSION, {**settings.model_dump(mode="json"), "labels": labels}, inputs)


@dataclass(frozen=True)
class _Data:
    """Images that have a label and a part, with all that heads and metrics need of them, row by row."""

    image_id: list[str]
    source: npt.NDArray[np.str_]
    place: npt.NDArray[np.int64]
    part: npt.NDArray[np.str_]
    label: npt.NDArray[np.int64]
    vectors: Vectors
    classes: LabelSet
    split: str


@dataclass(frozen=True)
class _Scored:
    """One head's scores, (n, n_classes) float32, for the rows of `_Data` that are judged."""

    head: str
    configuration: str
    seed: int | None
    scores: Vectors


@task(name="fit-heads", cache_policy=NO_CACHE)
def fit_heads(root: StorePath, settings: FitSettings, recipe: Recipe) -> int:
    """Fit every head on the part train, judge it on the others, commit both tables; returns the number of metrics."""
    store = Store(root)
    predictions: list[pa.Table] = []
    metrics: list[dict[str, Any]] = []
    n_judged: dict[str, int] = {}
    for data in _read(store, recipe):
        judged = np.flatnonzero(np.isin(data.part, JUDGED_PARTS))
        n_judged[data.split] = len(judged)
        for head in _heads(store, settings, recipe, data, judged):
            predictions.append(_prediction_rows(settings, data, judged, head))
            metrics.extend(_metric_rows(settings, data, judged, head))
    if not n_judged:
        raise PlaceprintError(
            "fit: no split has images to learn from and others to be judged on: add one to split.splits"
        )
    duplicates = duplicates_of(store, recipe)
    if duplicates is not None:
        metrics.extend(dedup_metrics(duplicates, settings.experiment))
    notes = {"classes": list(data.classes.names), "splits": list(n_judged)}
    shards = [
        store.write_shard("predictions", recipe.fingerprint, index, rows) for index, rows in enumerate(predictions)
    ]
    store.commit("predictions", recipe, shards, counts=n_judged, notes=notes)
    rows = pa.Table.from_pylist(metrics, METRICS)
    store.commit("metrics", recipe, [store.write_shard("metrics", recipe.fingerprint, 0, rows)])
    return len(metrics)


def _read(store: Store, recipe: Recipe) -> Iterator[_Data]:
    """Join images, embeddings and each split by image_id; images that could not be embedded are left out.

    Splits without a part to learn from and one to be judged on are passed over.
    """
    source = store.version("images", recipe.inputs["images"])
    images = kept_images(
        source,
        duplicates_of(store, recipe),
        ["image_id", "source", "label", "latitude", "longitude"],
    )
    embeddings = store.version("embeddings", recipe.inputs["embeddings"])
    row_of_image = {identity: row for row, identity in enumerate(images["image_id"].to_pylist())}
    row_of_vector = {
        identity: row for row, identity in enumerate(embeddings.read(["image_id"])["image_id"].to_pylist())
    }
    splits = store.version("splits", recipe.inputs["splits"]).read()
    splits = splits.filter(pc.is_in(splits["image_id"], pa.array(row_of_vector, pa.string())))
    vectors = read_vectors(embeddings)
    # Of all images, as the prompts are: a class whose images were all removed keeps its prompt.
    classes = load_label_set(str(recipe.settings["labels"]), source.read(["label"])["label"].drop_null().to_pylist())
    for name in pc.unique(splits["split"]).to_pylist():
        rows = splits.filter(pc.equal(splits["split"], name))
        parts = set(rows["part"].to_pylist())
        if Part.TRAIN.value not in parts or not parts.intersection(JUDGED_PARTS):
            continue
        image_ids = rows["image_id"].to_pylist()
        known = images.take([row_of_image[identity] for identity in image_ids])
        yield _Data(
            image_id=image_ids,
            source=np.array(known["source"].to_pylist()),
            place=np.unique(place_groups(known), return_inverse=True)[1],
            part=np.array(rows["part"].to_pylist()),
            label=np.array([classes.index[label] for label in known["label"].to_pylist()]),
            vectors=vectors[[row_of_vector[identity] for identity in image_ids]],
            classes=classes,
            split=name,
        )


def _heads(
    store: Store, settings: FitSettings, recipe: Recipe, data: _Data, judged: npt.NDArray[np.int64]
) -> Iterator[_Scored]:
    """Fit the heads that the settings name, one after the other, and score the judged rows."""
    train = data.part == Part.TRAIN.value
    majority = DummyClassifier(strategy="prior").fit(data.vectors[train], data.label[train])
    yield _Scored("majority-class", "", None, _scores_of(majority, data, judged))
    if settings.zero_shot:
        prompts = store.version("prompts", recipe.inputs["prompts"]).read()
        templates = prompts["template"].to_pylist()
        for template in dict.fromkeys(templates):
            rows = prompts.filter(pa.array([each == template for each in templates]))
            vectors = column_vectors(rows["embedding"])
            head = ZeroShotHead(prompt_embeddings=vectors).fit(data.vectors[train])
            # Cosines, not probabilities: a softmax at scale 100 rounds most of them to zero.
            yield _Scored("zero-shot", template, None, head.decision_function(data.vectors[judged]))
    if settings.logistic is not None:
        options = settings.logistic
        model = logistic_regression(C=options.C, max_iter=options.max_iter, random_state=settings.seed)
        model.fit(data.vectors[train], data.label[train])
        yield _Scored("logistic-regression", f"C={options.C:g}", settings.seed, _scores_of(model, data, judged))


def _scores_of(model: ClassifierMixin, data: _Data, judged: npt.NDArray[np.int64]) -> Vectors:
    """Probabilities over the whole label set; classes that the model has not seen get 0."""
    scores = np.zeros((len(judged), len(data.classes.names)), dtype=np.float32)
    scores[:, model.classes_] = model.predict_proba(data.vectors[judged])
    return scores


def _prediction_rows(settings: FitSettings, data: _Data, judged: npt.NDArray[np.int64], head: _Scored) -> pa.Table:
    names = np.array(data.classes.names)
    n = len(judged)
    return pa.table(
        [
            [settings.experiment] * n,
            [data.split] * n,
            [head.head] * n,
            [head.configuration] * n,
            pa.array([head.seed] * n, pa.int64()),
            [data.image_id[row] for row in judged],
            names[data.label[judged]].tolist(),
            names[head.scores.argmax(axis=1)].tolist(),
            pa.ListArray.from_arrays(
                np.arange(n + 1, dtype=np.int32) * head.scores.shape[1], pa.array(head.scores.reshape(-1))
            ),
        ],
        schema=PREDICTIONS,
    )


def _metric_rows(
    settings: FitSettings, data: _Data, judged: npt.NDArray[np.int64], head: _Scored
) -> Iterator[dict[str, Any]]:
    """All metrics of one head: for every part, on all collections and on each alone."""
    sources = ["all", *sorted(set(data.source[judged].tolist()))]
    for part in JUDGED_PARTS:
        for source in sources if len(sources) > 2 else ["all"]:
            chosen = (data.part[judged] == part) & ((data.source[judged] == source) | (source == "all"))
            if not chosen.any():
                continue
            key = {
                "experiment": settings.experiment,
                "head": head.head,
                "configuration": head.configuration,
                "seed": head.seed,
                "split": data.split,
                "part": part,
                "source": source,
                "n": int(chosen.sum()),
            }
            rows = judged[chosen]
            for metric, (value, lower, upper) in _scores(settings, data, rows, head.scores[chosen]).items():
                yield {**key, "metric": metric, "value": value, "lower": lower, "upper": upper}


def _scores(
    settings: FitSettings, data: _Data, rows: npt.NDArray[np.int64], scores: Vectors
) -> dict[str, tuple[float, float | None, float | None]]:
    """Value and 95 % interval of every metric on some rows."""
    truth, predicted = data.label[rows], scores.argmax(axis=1)
    shares = {"accuracy": truth == predicted, "top5_accuracy": top_k_hits(truth, scores, 5)}
    if data.classes.regions is not None:
        shares["region_accuracy"] = region_hits(truth, predicted, data.classes.region_index)
    found: dict[str, tuple[float, float | None, float | None]] = {}
    for name, hits in shares.items():
        interval = share_interval(hits, data.place[rows], n_resamples=settings.n_resamples, seed=settings.seed)
        found[name] = (float(hits.mean()), *interval)
    for name, value in asdict(mixed_scores(truth, predicted, data.classes.region_index)).items():
        found[f"mixed_{name}"] = (float(value), None, None)
    return found
