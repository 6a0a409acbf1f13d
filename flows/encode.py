"""Flow `encode`: images and class names -> embeddings, prompts, index."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.progress import gather, say, working
from flows.settings import Settings
from storage.faiss_index import build_index, has_index
from storage.runs import recorded
from storage.store import Store
from tasks.collect.steps import unique_images
from tasks.encode.steps import commit_embeddings, embeddings_recipe, encode_prompts, encode_shard, prompts_recipe

RUNNER: Any = ThreadPoolTaskRunner(max_workers=1)  # its type parameters do not fit its own decorator's


@flow(name="encode", flow_run_name="encode", task_runner=RUNNER)
def encode(settings: Settings, images: str | None = None) -> dict[str, str]:
    """Embed the images (by default those collected last) and the prompts; returns the fingerprints by table."""
    store = Store(settings.store)
    source = store.version("images", images)
    image_recipe = embeddings_recipe(settings.encode, source.fingerprint)
    prompt_recipe = prompts_recipe(settings.encode, source.fingerprint, settings.labels)
    made = {"embeddings": image_recipe.fingerprint, "prompts": prompt_recipe.fingerprint}
    with recorded(store, "encode", settings.model_dump(mode="json")) as run:
        run.tables.update(images=source.fingerprint, **made)
        if store.reuse(prompt_recipe, ["prompts"]):
            run.reused.append("prompts")
        else:
            with working("encode prompts"):
                n_prompts = encode_prompts(store.root, settings.encode, prompt_recipe)
            say("encode: %d prompts", n_prompts)
        if store.reuse(image_recipe, ["embeddings"]):
            run.reused.append("embeddings")
            version = store.version("embeddings", image_recipe.fingerprint)
            if not has_index(store, version):
                build_index(store, version)
            say("encode: nothing to do, embeddings %s are there", version.fingerprint)
            return made
        n_images, step = unique_images(source, ["image_id"]).num_rows, settings.encode.shard_size
        ranges = [(start, min(start + step, n_images)) for start in range(0, n_images, step)]
        futures = [
            encode_shard.submit(store.root, settings.encode, image_recipe, start, stop) for start, stop in ranges
        ]
        shards = gather("encode", futures, [stop - start for start, stop in ranges])
        with working("index"):
            commit_embeddings(store.root, settings.encode, image_recipe, shards, n_images)
        say("encode: %d images with %s", n_images, image_recipe.inputs["encoder"])
        return made
