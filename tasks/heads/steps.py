"""Fit: from ``embeddings``, ``prompts``, ``splits`` and ``duplicates`` to the tables ``predictions`` and ``metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier

from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from storage.schemas import METRICS, PREDICTIONS, Part
from storage.store import Recipe, Store
from storage.vectors import Vectors, column_vectors
from tasks.dedup.metric_rows import dedup_metrics
from tasks.heads.data import JUDGED_PARTS, SplitData, read_splits
from tasks.heads.logistic import logistic_regression
from tasks.heads.settings import FitSettings
from tasks.heads.zero_shot import ZeroShotHead
from tasks.metrics.accuracy import region_hits, share_interval, top_k_hits
from tasks.metrics.mixed import mixed_scores
from tasks.split.steps import duplicates_of


@dataclass(frozen=True)
class _Scored:
    """One head's scores, (n, n_classes) float32, for the rows of `SplitData` that are judged."""

    head: str
    configuration: str
    seed: int | None
    scores: Vectors


@task(name="fit-heads", task_run_name="fit heads", cache_policy=NO_CACHE)
def fit_heads(root: StorePath, settings: FitSettings, recipe: Recipe) -> int:
    """Fit every head on the part train, judge it on the others, commit both tables; returns the number of metrics."""
    store = Store(root)
    predictions: list[pa.Table] = []
    metrics: list[dict[str, Any]] = []
    n_judged: dict[str, int] = {}
    for data in read_splits(store, recipe):
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


def _heads(
    store: Store, settings: FitSettings, recipe: Recipe, data: SplitData, judged: npt.NDArray[np.int64]
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


def _scores_of(model: ClassifierMixin, data: SplitData, judged: npt.NDArray[np.int64]) -> Vectors:
    """Probabilities over the whole label set; classes that the model has not seen get 0."""
    scores = np.zeros((len(judged), len(data.classes.names)), dtype=np.float32)
    scores[:, model.classes_] = model.predict_proba(data.vectors[judged])
    return scores


def _prediction_rows(settings: FitSettings, data: SplitData, judged: npt.NDArray[np.int64], head: _Scored) -> pa.Table:
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
    settings: FitSettings, data: SplitData, judged: npt.NDArray[np.int64], head: _Scored
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
    settings: FitSettings, data: SplitData, rows: npt.NDArray[np.int64], scores: Vectors
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
