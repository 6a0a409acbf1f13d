"""What the flow `encode` does, in a run of Prefect's or without Prefect: images and class names -> embeddings, prompts, index."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from flows.progress import gather, say, say_who_is_waited_for, working
from flows.settings import Settings
from flows.shortfalls import check_recall, check_rejects, check_starved
from flows.side_by_side import side_by_side, threads
from storage.errors import PlaceprintError
from storage.host_locks import alone
from storage.runs import RunRecord, last_figures, recorded
from storage.store import Recipe, Store, TableVersion
from storage.under_way import take_away
from tasks.collect.steps import unique_images
from tasks.encode.precision import n_gpus
from tasks.encode.recipes import IMAGE_TABLES, decided, embeddings_recipe, prompts_recipe
from tasks.encode.reuse import Plan, plan_reuse
from tasks.encode.settings import EncodeSettings
from tasks.encode.shard_maker import EncodedShard, loader_threads
from tasks.encode.steps import check_overlays, commit_embeddings, encode_prompts, encode_shard, index_embeddings
from tasks.encode.telemetry import Times, estimate, table, warning
from tasks.encode.weights import find_weights
from tasks.step import under_prefect

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

# One shard computes while the next one loads, and the last one is written.
SHARDS_A_DEVICE = 2


def encode_images(settings: Settings, images: str | None = None) -> dict[str, str]:
    """Embed the images (by default those collected last) and the prompts; returns the fingerprints by table."""
    store = Store(settings.store)
    source = store.version("images", images)
    given = decided(settings.encode)
    settings = settings.model_copy(update={"encode": given})
    weights = find_weights(given.encoder)
    image_recipe = embeddings_recipe(given, source.fingerprint)
    prompt_recipe = prompts_recipe(given, source.fingerprint, settings.labels)
    made = {"embeddings": image_recipe.fingerprint, "prompts": prompt_recipe.fingerprint}
    with recorded(store, "encode", settings.model_dump(mode="json")) as run:
        run.tables.update(images=source.fingerprint, **made)
        check_overlays(given, source)
        say("encode: with %s: %s", weights.encoder_id, weights.identity)
        for text in weights.remarks:
            say("encode: %s", text)
        for text in weights.assumed:
            say("encode: assumed of the checkpoint, since nothing says it: %s", text)
        if given.verify:
            _verify(store, settings, source, run)
        if given.fresh:
            take_away(store, {"prompts": prompt_recipe, **dict.fromkeys(IMAGE_TABLES, image_recipe)})
        if store.reuse(prompt_recipe, ["prompts"]):
            run.reused.append("prompts")
        else:
            with working("encode prompts"):
                counts = encode_prompts(store.root, given, prompt_recipe)
            say(
                "encode: %d prompts = %d embedded + %d reused",
                *(counts[each] for each in ("prompts", "embedded", "reused")),
            )
            if counts["cut"]:
                say("encode: %d prompts are longer than the encoder reads, and cut", counts["cut"])
        if store.reuse(image_recipe, IMAGE_TABLES):
            run.reused.append("embeddings")
            say("encode: nothing to do, embeddings %s are there", image_recipe.fingerprint)
        else:
            _encode_images(store, settings, image_recipe, source, run)
        with working("index"):
            index = index_embeddings(store.root, given.index, image_recipe.fingerprint)
        say("encode: the index is %s", index.text)
        if index.is_new:
            check_recall(run, settings.quality, index.recall)
        return made


def _encode_images(store: Store, given: Settings, recipe: Recipe, source: TableVersion, run: RunRecord) -> None:
    settings = given.encode
    images = unique_images(source, ["image_id", "bytes", "source"])
    sizes, step = images["bytes"].to_pylist(), settings.shard_size
    n_images = len(sizes)
    ranges = [(start, min(start + step, n_images)) for start in range(0, n_images, step)]
    if settings.fresh:
        plans = [Plan.of_nothing(stop - start) for start, stop in ranges]
    else:
        plans = plan_reuse(store, recipe, images, step)
    there = [store.shard_path("embeddings", recipe.fingerprint, index).is_file() for index in range(len(ranges))]
    left = [plan.n_missing for plan, done in zip(plans, there, strict=True) if not done]
    _say_estimate(store, settings, recipe, sum(left), sum(sizes) / max(n_images, 1), sum(there))
    shards: dict[int, EncodedShard] = {}
    needs_device = sum(left) > 0
    with (
        _devices_alone(settings) if needs_device else nullcontext(),
        _died_explained(),
        _ray_options(settings) if needs_device else nullcontext(),
        side_by_side(_runner(settings) if needs_device else threads(SHARDS_A_DEVICE)) as submit,
    ):
        # First what nobody else is making, then what others have made by then, or have left.
        for wait in (False, True):
            missing = [index for index in range(len(ranges)) if index not in shards]
            futures = [
                submit(encode_shard, store.root, settings, recipe, index, *ranges[index], wait=wait, plan=plans[index])
                for index in missing
            ]
            if futures:
                done = gather("encode", futures, [stop - start for start, stop in (ranges[each] for each in missing)])
                shards |= {index: shard for index, shard in zip(missing, done, strict=True) if shard is not None}
    found = [shards[index] for index in range(len(ranges))]
    counts = commit_embeddings(store.root, settings, recipe, found, n_images)
    summary = (
        "encode: {images} images = {embedded} embedded + {reused} reused + {rejected} rejected, with {encoder}".format(
            **counts, encoder=recipe.inputs["encoder"]
        )
    )
    say("%s", summary)
    check_rejects(run, given.quality, "encode", n_images, store.version("embedding_rejects", recipe.fingerprint))
    check_starved(run, given.quality, _report(settings, recipe, found, summary, counts, run))


def _verify(store: Store, settings: Settings, source: TableVersion, run: RunRecord) -> None:
    from tasks.encode.verify import verify_encoder

    with working("verify the encoder"):
        found = verify_encoder(store, settings.encode, source, settings.labels)
    run.figures["verify"] = found.as_json()
    say("encode: verified against the reference: %s", found)
    for text in found.warnings:
        run.warnings.append(text)
        say("warning: %s", text)
    found.refuse()


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


def runs_in_this_process(settings: EncodeSettings) -> bool:
    """Whether one device of this machine does it all: then nobody need share it out."""
    return settings.runner == "local" and not _names_several_devices(settings)


def _names_several_devices(settings: EncodeSettings) -> bool:
    if settings.encoder.device != "auto":
        return "," in settings.encoder.device
    return n_gpus() > 1


def _runner(settings: EncodeSettings) -> Executor | TaskRunner[Any]:
    """Where the shards are made: in this process, in one a device, or on the machines of a Ray cluster."""
    if settings.runner == "ray":
        try:
            from prefect_ray import RayTaskRunner
        except ImportError:
            raise PlaceprintError("encode.runner: ray needs the extra `ray`: pip install 'placeprint[ray]'") from None
        ray: TaskRunner[Any] = RayTaskRunner(address=settings.ray_address)
        return ray
    from tasks.encode.encoder import devices

    n_devices = len(devices(settings.encoder))
    if n_devices == 1:
        return threads(SHARDS_A_DEVICE)
    from prefect.task_runners import ProcessPoolTaskRunner

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


def _say_estimate(
    store: Store, settings: EncodeSettings, recipe: Recipe, n_left: int, mean_bytes: float, n_there: int
) -> None:
    if n_there:
        say("encode: %d shards are there already, and are checked", n_there)
    prompts = store.version("prompts")
    known = last_figures(store, "encode", encoder=recipe.inputs["encoder"], device=settings.encoder.device)
    say(
        "encode: %s",
        estimate(
            images=n_left,
            read_bytes=round(n_left * mean_bytes),
            vector_bytes=prompts.read(["embedding"])["embedding"].type.list_size
            * (4 if settings.dtype == "float32" else 2),
            picture_bytes=3 * math.prod(prompts.notes["image_px"]),
            batch_size=settings.batch_size,
            n_ahead=settings.batches_ahead,
            images_per_second=known["images_per_second"] if known else None,
        ),
    )


def _report(
    settings: EncodeSettings,
    recipe: Recipe,
    shards: list[EncodedShard],
    summary: str,
    counts: Mapping[str, int],
    run: RunRecord,
) -> Times:
    """Note what was embedded, and where the time went, in the run's manifest, in Prefect and on the terminal."""
    times = [(shard.shard.file, shard.times) for shard in shards if shard.times is not None]
    total = Times.sum(each for _, each in times)
    if under_prefect():
        from prefect.artifacts import create_markdown_artifact

        text = f"{summary}\n\n{table(times)}" if times else summary
        create_markdown_artifact(text, key="encode-times", description="what was embedded, and where the time went")
    if not times:
        return total
    run.figures["encode"] = {
        "encoder": recipe.inputs["encoder"],
        "counts": dict(counts),
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
    say(
        "encode: %.0f images/s a device, which waited for images %.0f %% of the time",
        total.images_per_second,
        100 * total.starved_share,
    )
    hint = warning(total, loader_threads(settings), os.cpu_count() or 1)
    if hint is not None:
        say("%s", hint)
    return total
