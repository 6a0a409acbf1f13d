"""Case study: from embeddings, prompts and splits to predictions, metrics, tests and verdicts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.atomic import remove_folder, write_bytes
from storage.errors import PlaceprintError, StoreError
from storage.leases import Leases
from storage.s3_path import StorePath
from storage.schemas import CLASS_METRICS, METRICS, PREDICTIONS, TESTS, TRAINING, VERDICTS, Part
from storage.store import Recipe, Shard, Store
from storage.vectors import Vectors, column_vectors
from tasks.case_study.hypotheses import Plan, decide, pairwise_losses, rows_of_tests
from tasks.case_study.judge import Bootstraps, cells_of, class_rows, metric_rows
from tasks.case_study.recipes import FIT_TABLES
from tasks.case_study.settings import StudySettings
from tasks.case_study.zero_shot import folds, prompt_sets
from tasks.heads.checkpoint import Checkpoint
from tasks.heads.data import LabelledImages, SplitData, read_labelled, read_splits
from tasks.heads.regional import RegionalMLP, fit_together
from tasks.heads.stacked import Losses
from tasks.heads.zero_shot import ZeroShotHead
from tasks.labels.label_set import LabelSet
from tasks.metrics.accuracy import top_k_hits

ZERO_SHOT, REGIONAL = "zero-shot", "regional"
TABLE_5_METRICS = ("mixed_precision", "mixed_recall", "mixed_f1")
SCHEMAS = {"predictions": PREDICTIONS, "class_metrics": CLASS_METRICS, "training": TRAINING, "metrics": METRICS}
# How often to look whether another run has finished a unit.
_LOOK_AGAIN_S = 1.0

Rows = dict[str, list[pa.Table]]


@task(name="zero-shot-experiment", task_run_name="zero shot experiment", cache_policy=NO_CACHE)
def zero_shot_experiment(root: StorePath, settings: StudySettings, recipe: Recipe) -> bool:
    """See that the shard of the zero-shot experiment is there; returns whether it had to be made."""
    store = Store(root)
    return _see_to(store, recipe, 0, lambda: _zero_shot_rows(store, settings, recipe))


@task(name="fit-regional-heads", task_run_name="heads on {training_set}", cache_policy=NO_CACHE)
def fit_regional_heads(
    root: StorePath,
    settings: StudySettings,
    recipe: Recipe,
    index: int,
    training_set: str,
    on_epoch: Callable[[int], None],
) -> bool:
    """See that the shard of a training set is there: heads of all losses and seeds, fitted at once and judged.

    `on_epoch` hears how many epochs are done, after each.
    """
    store = Store(root)
    return _see_to(store, recipe, index, lambda: _regional_rows(store, settings, recipe, training_set, on_epoch))


def _see_to(store: Store, recipe: Recipe, index: int, make: Callable[[], Rows]) -> bool:
    leases = Leases(store.folder("metrics", recipe.fingerprint) / "leases")
    while not is_there(store, recipe, index):
        with leases.held(f"{index:05d}") as mine:
            if mine and not is_there(store, recipe, index):
                for table, rows in make().items():
                    whole = pa.concat_tables([SCHEMAS[table].empty_table(), *rows])
                    store.write_shard(table, recipe.fingerprint, index, whole)
                return True
        if not mine:
            time.sleep(_LOOK_AGAIN_S)
    return False


def is_there(store: Store, recipe: Recipe, index: int) -> bool:
    """Whether all shards of a unit can be read; `metrics` is written last."""
    try:
        for table in reversed(FIT_TABLES):
            path = store.shard_path(table, recipe.fingerprint, index)
            if not path.is_file():
                return False
            store.shard(path)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


@task(name="commit-case-study", task_run_name="commit case study", cache_policy=NO_CACHE)
def commit_case_study(root: StorePath, recipe: Recipe, units: list[str]) -> int:
    """Commit the tables, once every unit is there; returns the number of metrics."""
    store = Store(root)
    versions = {}
    for table in FIT_TABLES:
        paths = [store.shard_path(table, recipe.fingerprint, index) for index in range(len(units))]
        shards: list[Shard] = [store.shard(path) for path in paths]
        counts = {unit: shard.rows for unit, shard in zip(units, shards, strict=True)}
        versions[table] = store.commit(table, recipe, shards, counts=counts, notes={"units": units})
    remove_folder(versions["metrics"].folder / "leases")
    remove_folder(_heads_folder(store, recipe) / "checkpoints")
    return versions["metrics"].rows


@task(name="test-hypotheses", task_run_name="test hypotheses", cache_policy=NO_CACHE)
def judge_hypotheses(root: StorePath, settings: StudySettings, recipe: Recipe, plan: Plan) -> dict[str, str]:
    """Test what the plan claims, and commit `tests` and `verdicts`; returns hypothesis -> verdict."""
    store = Store(root)
    metrics = pl.DataFrame(store.version("metrics", recipe.inputs["metrics"]).read())
    tested, decisions = decide(plan.hypotheses, metrics, names=settings.collections, seed=settings.seed)
    compared = pairwise_losses(list(settings.heads.losses), TABLE_5_METRICS)
    explored, _ = decide(compared, metrics, seed=settings.seed)
    notes = {"hypotheses": plan.text, "sha256": plan.sha256}
    rows = {
        "tests": rows_of_tests([*tested, *explored], [*plan.hypotheses, *compared]),
        "verdicts": [asdict(each) for each in decisions],
    }
    for table, schema in (("tests", TESTS), ("verdicts", VERDICTS)):
        content = pa.Table.from_pylist(rows[table], schema)
        store.commit(table, recipe, [store.write_shard(table, recipe.fingerprint, 0, content)], notes=notes)
    return {each.hypothesis: each.verdict for each in decisions}


def record_plan(store: Store, recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """Write down what is claimed, before anything is fitted: a simple preregistration. Of two writers the first wins.

    Returns
    -------
    dict
        `sha256` of the hypotheses that were recorded for these fits, `recorded_at`, and their `text`.
    """
    path = store.root / "plans" / f"{recipe.fingerprint}.json"
    content = {
        "sha256": plan.sha256,
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "text": plan.text,
    }
    write_bytes(path, json.dumps(content, indent=1, ensure_ascii=False).encode(), exclusive=True)
    return recorded_plan(store, recipe.fingerprint)


def recorded_plan(store: Store, fingerprint: str) -> dict[str, Any]:
    """The plan that was recorded before the fits of this fingerprint.

    Raises
    ------
    StoreError
        When there is none.
    """
    path = store.root / "plans" / f"{fingerprint}.json"
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}): the plan of these fits is not known") from error


def _zero_shot_rows(store: Store, settings: StudySettings, recipe: Recipe) -> Rows:
    images = read_labelled(store, recipe)
    prompts = prompt_sets(templates_of(store, recipe), ensemble=settings.zero_shot.ensemble)
    predictions: list[pa.Table] = []
    metrics: list[dict[str, Any]] = []
    by_class: list[dict[str, Any]] = []
    for source in sorted(set(images.source.tolist())):
        rows = np.flatnonzero(images.source == source)
        truth = images.label[rows]
        try:
            fold_of = {seed: folds(len(rows), n_folds=settings.zero_shot.n_folds, seed=seed) for seed in settings.seeds}
        except ValueError as error:
            raise PlaceprintError(f"case_study.zero_shot.n_folds: the collection {source}: {error}") from None
        bootstraps = _bootstraps(settings, images, rows)
        for template, vectors in prompts.items():
            head = ZeroShotHead(prompt_embeddings=vectors).fit(images.vectors[:1])
            scores = head.decision_function(images.vectors[rows])
            predicted, top5 = scores.argmax(axis=1), top_k_hits(truth, scores, 5)
            key = {"experiment": ZERO_SHOT, "head": ZERO_SHOT, "configuration": template, "split": "all"}
            whole = {**key, "seed": None, "part": "all", "source": source, "fold": None}
            predictions.append(_prediction_rows({**key, "seed": None}, images, rows, predicted))
            metrics += metric_rows(whole, truth, predicted, images.classes, top5=top5, bootstraps=bootstraps)
            by_class += class_rows(_class_key(whole), truth, predicted, images.classes)
            for seed, fold in fold_of.items():
                for number in range(settings.zero_shot.n_folds):
                    chosen = fold == number
                    metrics += metric_rows(
                        {**whole, "seed": seed, "part": "fold", "fold": number},
                        truth[chosen],
                        predicted[chosen],
                        images.classes,
                        top5=top5[chosen],
                    )
    return {
        "predictions": predictions,
        "class_metrics": [pa.Table.from_pylist(by_class, CLASS_METRICS)],
        "training": [],
        "metrics": [pa.Table.from_pylist(metrics, METRICS)],
    }


def templates_of(store: Store, recipe: Recipe) -> dict[str, Vectors]:
    """Prompt embeddings of each template, (n_classes, d), in the order of the label set."""
    prompts = store.version("prompts", recipe.inputs["prompts"]).read()
    templates = prompts["template"].to_pylist()
    return {
        template: column_vectors(prompts.filter(pa.array([each == template for each in templates]))["embedding"])
        for template in dict.fromkeys(templates)
    }


def _bootstraps(settings: StudySettings, images: LabelledImages, rows: npt.NDArray[np.int64]) -> Bootstraps:
    cells = cells_of(images.latitude[rows], images.longitude[rows], side_km=settings.cell_km)
    return Bootstraps.of(cells, n_resamples=settings.n_resamples, seed=settings.seed)


def _class_key(key: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name != "fold"}


def _prediction_rows(
    key: Mapping[str, Any], images: LabelledImages, rows: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]
) -> pa.Table:
    """Rows of the table `predictions`, without scores: two hundred models have a gigabyte of them."""
    names, n = np.array(images.classes.names), len(rows)
    columns = {
        **{name: pa.array([key[name]] * n, PREDICTIONS.field(name).type) for name in PREDICTIONS.names if name in key},
        "image_id": [images.image_id[row] for row in rows.tolist()],
        "label_true": names[images.label[rows]].tolist(),
        "label_pred": names[predicted].tolist(),
        "scores": pa.array([[]] * n, pa.list_(pa.float32())),
    }
    return pa.table([columns[name] for name in PREDICTIONS.names], schema=PREDICTIONS)


@dataclass(frozen=True)
class _Judged:
    """Images that heads are judged on: one part, of one collection or of all, with their resamples."""

    part: str
    source: str
    rows: npt.NDArray[np.int64]
    bootstraps: Bootstraps


def _regional_rows(
    store: Store, settings: StudySettings, recipe: Recipe, training_set: str, on_epoch: Callable[[int], None]
) -> Rows:
    data = _data_of(store, recipe, training_set)
    train = np.flatnonzero(data.part == Part.TRAIN.value)
    heads = _heads(store, settings, recipe, data, training_set)
    path = _heads_folder(store, recipe) / "checkpoints" / f"{training_set}.safetensors"
    _fit(list(heads.values()), data.vectors[train], data.label[train], path, on_epoch)
    predictions: list[pa.Table] = []
    metrics: list[dict[str, Any]] = []
    by_class: list[dict[str, Any]] = []
    training: list[dict[str, Any]] = []
    parts = list(_judged_parts(settings, data))
    tested = np.flatnonzero(np.isin(data.part, (Part.TEST.value, Part.ZERO_SHOT.value)))
    position = {row: place for place, row in enumerate(tested.tolist())}
    for name, head in heads.items():
        scores = head.predict_proba_each(data.vectors[tested])
        for model, seed in enumerate(settings.seeds):
            key = {
                "experiment": REGIONAL,
                "head": "regional-mlp",
                "configuration": name,
                "seed": seed,
                "split": training_set,
            }
            predicted, top5 = scores[model].argmax(axis=1), top_k_hits(data.label[tested], scores[model], 5)
            predictions.append(_prediction_rows(key, data, tested, predicted))
            for each in parts:
                at = [position[row] for row in each.rows.tolist()]
                truth, own = data.label[each.rows], {**key, "part": each.part, "source": each.source}
                metrics += metric_rows(
                    own, truth, predicted[at], data.classes, top5=top5[at], bootstraps=each.bootstraps
                )
                if each.source == "all":
                    by_class += class_rows(own, truth, predicted[at], data.classes)
            last = {**key, "part": Part.VALIDATION.value, "source": "all"}
            metrics += metric_rows(last, data.label[train], head.validation_[model], data.classes)
            training += _training_rows(key, head.losses_, model)
        path = _heads_folder(store, recipe) / f"{training_set}-{name}.safetensors"
        write_bytes(path, head.to_bytes())
    return {
        "predictions": predictions,
        "class_metrics": [pa.Table.from_pylist(by_class, CLASS_METRICS)],
        "training": [pa.Table.from_pylist(training, TRAINING)],
        "metrics": [pa.Table.from_pylist(metrics, METRICS)],
    }


def _data_of(store: Store, recipe: Recipe, training_set: str) -> SplitData:
    for data in read_splits(store, recipe):
        if data.split == training_set:
            return data
    raise PlaceprintError(f"case-study: no images of the training set {training_set} could be embedded")


def _heads(
    store: Store, settings: StudySettings, recipe: Recipe, data: SplitData, training_set: str
) -> dict[str, RegionalMLP]:
    """The heads of every loss, not fitted yet."""
    options = settings.heads
    return {
        name: RegionalMLP(
            gamma=loss.gamma,
            rho=loss.rho,
            loss_form=options.loss_form,
            region_scale=options.region_scale,
            region=data.classes.region_index,
            prompt_embeddings=templates_of(store, recipe)[options.template],
            hidden=options.hidden,
            epochs=options.epochs,
            n_folds=options.n_folds,
            batch_size=options.batch_sizes.get(training_set, options.batch_size),
            learning_rate=options.learning_rate,
            random_state=settings.seeds,
            device=options.device,
            precision=options.precision,
        )
        for name, loss in options.losses.items()
    }


def _fit(
    heads: list[RegionalMLP],
    vectors: Vectors,
    labels: npt.NDArray[np.int64],
    path: StorePath,
    on_epoch: Callable[[int], None],
) -> None:
    """Fit the heads together, from the checkpoint at `path` where there is one."""

    def write(content: bytes, epochs: int) -> None:
        write_bytes(path, content)
        on_epoch(epochs)

    checkpoint = Checkpoint(lambda: path.read_bytes() if path.is_file() else None, write)
    try:
        fit_together(heads, vectors, labels, checkpoint=checkpoint)
    except ValueError as error:
        raise PlaceprintError(f"case-study: {path.stem}: {error}") from error


def _judged_parts(settings: StudySettings, data: SplitData) -> Iterator[_Judged]:
    """Every part, over all collections and of each alone, where there are images."""
    for part in (Part.TEST.value, Part.ZERO_SHOT.value):
        for source in ("all", *sorted(set(data.source.tolist()))):
            rows = np.flatnonzero((data.part == part) & ((data.source == source) | (source == "all")))
            if len(rows):
                yield _Judged(part, source, rows, _bootstraps(settings, data, rows))


def _training_rows(key: Mapping[str, Any], losses: Losses, model: int) -> Iterable[dict[str, Any]]:
    values = {name: getattr(losses, name)[model] for name in Losses.__dataclass_fields__}
    for epoch, segment in np.ndindex(values["class_training"].shape):
        row = {name: float(each[epoch, segment]) for name, each in values.items()}
        yield {**key, "epoch": epoch, "segment": segment, **row}


def _heads_folder(store: Store, recipe: Recipe) -> StorePath:
    return store.root / "heads" / recipe.fingerprint


def check_settings(settings: StudySettings, classes: LabelSet, templates: Iterable[str]) -> None:
    """Refuse, before anything is fitted, settings that do not fit the data.

    Raises
    ------
    PlaceprintError
        One line that names the setting.
    """
    known = list(templates)
    if settings.heads.template not in known:
        raise PlaceprintError(
            f"case_study.heads.template: {settings.heads.template!r} is not among encode.templates: {', '.join(known)}"
        )
    if classes.regions is None and any(loss.gamma for loss in settings.heads.losses.values()):
        raise PlaceprintError(
            "case_study.heads.losses: the label set has no regions, so that a loss cannot reward them: "
            "give labels a CSV with a column `region`, or leave only losses with gamma 0"
        )
