"""Flow `encode`: images and class names -> embeddings, embedding_rejects, prompts, index."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flows.progress import gather, say, say_who_is_waited_for, working
from flows.settings import Settings
from flows.shortfalls import check_recall, check_rejects, check_starved, see_if_it_fell_short
from storage.errors import PlaceprintError
from storage.host_locks import alone
from storage.runs import RunRecord, last_figures, recorded
from storage.store import Recipe, Store, TableVersion
from tasks.collect.steps import unique_images
from tasks.encode.recipes import IMAGE_TABLES, embeddings_recipe, prompts_recipe
from tasks.encode.settings import EncodeSettings
from tasks.encode.steps import (
    EncodedShard,
    check_overlays,
    commit_embeddings,
    encode_prompts,
    encode_shard,
    index_embeddings,
    loader_threads,
)
from tasks.encode.telemetry import Times, estimate, table, warning

# One shard computes while the next one loads, and the last one is written.
SHARDS_A_DEVICE = 2


@flow(
    name="encode",
    flow_run_name="encode {settings.collect.title} with {settings.encode.encoder.title}",
    on_completion=[see_if_it_fell_short],
)
def encode(settings: Settings, images: str | None = None) -> dict[str, str]:
    """Embed the images (by default those collected last) and the prompts; returns the fingerprints by table."""
    store = Store(settings.store)
    source = store.version("images", images)
    image_recipe = embeddings_recipe(settings.encode, source.fingerprint)
    prompt_recipe = prompts_recipe(settings.encode, source.fingerprint, settings.labels)
    made = {"embeddings": image_recipe.fingerprint, "prompts": prompt_recipe.fingerprint}
    with recorded(store, "encode", settings.model_dump(mode="json")) as run:
        run.tables.update(images=source.fingerprint, **made)
        check_overlays(settings.encode, source)
        if store.reuse(prompt_recipe, ["prompts"]):
            run.reused.append("prompts")
        else:
            with working("encode prompts"):
                n_prompts = encode_prompts(store.root, settings.encode, prompt_recipe)
            say("encode: %d prompts", n_prompts)
        if store.reuse(image_recipe, IMAGE_TABLES):
            run.reused.append("embeddings")
            say("encode: nothing to do, embeddings %s are there", image_recipe.fingerprint)
        else:
            _encode_images(store, settings, image_recipe, source, run)
        with working("index"):
            index = index_embeddings(store.root, settings.encode.index, image_recipe.fingerprint)
        say("encode: the index is %s", index.text)
        if index.is_new:
            check_recall(run, settings.quality, index.recall)
        return made


def _encode_images(store: Store, given: Settings, recipe: Recipe, source: TableVersion, run: RunRecord) -> None:
    settings = given.encode
    sizes = unique_images(source, ["image_id", "bytes"])["bytes"].to_pylist()
    n_images, step = len(sizes), settings.shard_size
    ranges = [(start, min(start + step, n_images)) for start in range(0, n_images, step)]
    there = [store.shard_path("embeddings", recipe.fingerprint, index).is_file() for index in range(len(ranges))]
    left = [size for (start, stop), done in zip(ranges, there, strict=True) if not done for size in sizes[start:stop]]
    _say_estimate(store, settings, recipe, left, sum(there))
    shards: dict[int, EncodedShard] = {}
    with _devices_alone(settings), _died_explained(), _runner(settings) as runner, _ray_options(settings):
        # First what nobody else is making, then what others have made by then, or have left.
        for wait in (False, True):
            missing = [index for index in range(len(ranges)) if index not in shards]
            futures = [
                runner.submit(
                    encode_shard,
                    {
                        "root": store.root,
                        "settings": settings,
                        "recipe": recipe,
                        "index": index,
                        "start": ranges[index][0],
                        "stop": ranges[index][1],
                        "wait": wait,
                    },
                )
                for index in missing
            ]
            if futures:
                done = gather("encode", futures, [stop - start for start, stop in (ranges[each] for each in missing)])
                shards |= {index: shard for index, shard in zip(missing, done, strict=True) if shard is not None}
    found = [shards[index] for index in range(len(ranges))]
    counts = commit_embeddings(store.root, settings, recipe, found, n_images)
    say(
        "encode: %d images = %d embedded + %d rejected, with %s",
        *(counts[name] for name in ("images", "embedded", "rejected")),
        recipe.inputs["encoder"],
    )
    check_rejects(run, given.quality, "encode", n_images, store.version("embedding_rejects", recipe.fingerprint))
    check_starved(run, given.quality, _report_times(settings, recipe, found, run))


def _devices_alone(settings: EncodeSettings) -> AbstractContextManager[Any]:
    """Wait until no other run of this machine uses the devices; Ray reserves its own."""
    if settings.runner == "ray":
        return nullcontext()
    from tasks.encode.encoder import devices

    return alone([f"encode-{device}" for device in devices(settings.encoder)], say_who_is_waited_for)


@contextmanager
def _died_explained() -> Iterator[None]:
    """The death of a process that encodes, in words."""
    try:
        yield
    except BrokenExecutor as error:
        raise PlaceprintError(
            "encode: a process that encoded has died (killed, or the memory was full): finished shards are kept, run again"
        ) from error


def _runner(settings: EncodeSettings) -> Any:
    """Where the shards are made: in this process, in one a device, or on the machines of a Ray cluster."""
    if settings.runner == "ray":
        try:
            from prefect_ray import RayTaskRunner
        except ImportError:
            raise PlaceprintError("encode.runner: ray needs the extra `ray`: pip install 'placeprint[ray]'") from None
        return RayTaskRunner(address=settings.ray_address)
    from tasks.encode.encoder import devices

    n_devices = len(devices(settings.encoder))
    if n_devices == 1:
        return ThreadPoolTaskRunner(max_workers=SHARDS_A_DEVICE)
    return ProcessPoolTaskRunner(max_workers=n_devices)


def _ray_options(settings: EncodeSettings) -> AbstractContextManager[None]:
    """What Ray is to reserve for a shard."""
    if settings.runner != "ray":
        return nullcontext()
    from prefect_ray.context import remote_options

    options: AbstractContextManager[None] = remote_options(
        num_cpus=settings.ray_cpus_per_shard, num_gpus=settings.ray_gpus_per_shard
    )
    return options


def _say_estimate(store: Store, settings: EncodeSettings, recipe: Recipe, left: list[int], n_there: int) -> None:
    if n_there:
        say("encode: %d shards are there already, and are checked", n_there)
    prompts = store.version("prompts")
    known = last_figures(store, "encode", encoder=recipe.inputs["encoder"], device=settings.encoder.device)
    say(
        "encode: %s",
        estimate(
            images=len(left),
            read_bytes=sum(left),
            vector_bytes=prompts.read(["embedding"])["embedding"].type.list_size
            * (4 if settings.dtype == "float32" else 2),
            picture_bytes=3 * math.prod(prompts.notes["image_px"]),
            batch_size=settings.batch_size,
            n_ahead=settings.batches_ahead,
            images_per_second=known["images_per_second"] if known else None,
        ),
    )


def _report_times(settings: EncodeSettings, recipe: Recipe, shards: list[EncodedShard], run: RunRecord) -> Times:
    """Note where the time went, in the run's manifest, in Prefect and on the terminal."""
    times = [(shard.shard.file, shard.times) for shard in shards if shard.times is not None]
    total = Times.sum(each for _, each in times)
    run.figures["encode"] = {
        "encoder": recipe.inputs["encoder"],
        "device": settings.encoder.device,
        "devices": sorted({shard.device for shard in shards if shard.device is not None}),
        "images": total.images,
        "images_per_second": round(total.images_per_second, 2),
        "starved_share": round(total.starved_share, 4),
        "shards": {
            name: {
                "images": each.images,
                "waited_s": round(each.waited_s, 3),
                "computed_s": round(each.computed_s, 3),
                "written_s": round(each.written_s, 3),
            }
            for name, each in times
        },
    }
    create_markdown_artifact(table(times), key="encode-times", description="where the time of encoding went")
    say(
        "encode: %.0f images/s a device, which waited for images %.0f %% of the time",
        total.images_per_second,
        100 * total.starved_share,
    )
    hint = warning(total, loader_threads(settings), os.cpu_count() or 1)
    if hint is not None:
        say("%s", hint)
    return total
