"""How fast images are encoded, against the bare model, against a plain loop, and how memory grows.

Run it with: python benchmarks/encode.py [--part NAME]. Appends to RESULTS.md. Both sides of each ratio are
measured in one run, in turn, on the same files: JPEGs of 640 x 480 cut from the maps that ship with the demo.

The plain loop is what clip-retrieval's runner does: a DataLoader of one worker a core reads with Pillow and open_clip's own
transform; then, batch by batch, it waits for the batch, encodes it in float32, and copies the result. The bare model encodes
tensors that lie ready in memory, in the same precision.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# As placeprint's command line has it; it must be set before torch is imported, so both sides have it here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import open_clip
import pyarrow as pa
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image

from flows.collecting import collect_images
from flows.encoding import encode_images
from flows.settings import Settings, load_settings
from storage.store import Recipe, Store
from tasks.collect.steps import unique_images
from tasks.collect.world_map import WORLD_MAPS, load_pixels
from tasks.encode.compute import encode_pictures
from tasks.encode.encoder import Encoder, load_encoder
from tasks.encode.loader import Loader, Picture
from tasks.encode.pixels import PixelTransform
from tasks.encode.precision import has_native_bfloat16
from tasks.encode.recipes import decided, embeddings_recipe
from tasks.encode.reuse import ShardReader, plan_reuse
from tasks.encode.settings import EncodeSettings
from tasks.encode.shard_maker import file_metadata
from tasks.encode.shards import shard_table
from tasks.encode.steps import commit_embeddings, encode_shard
from tasks.encode.weights import EncoderSettings, Weights, find_weights

RESULTS = Path(__file__).parent / "RESULTS.md"
SIZE = (640, 480)
# Each side is measured so often, in turn; the best of each counts: others may use the machine.
REPEATS = 3


def write_photos(folder: Path, n: int) -> list[Path]:
    """JPEGs with the detail of photographs, about 60 KB each."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    paths = []
    for number in range(n):
        world = load_pixels(WORLD_MAPS[number % 3])
        top, left = (
            int(generator.integers(0, side - length)) for side, length in zip(world.shape, SIZE[::-1], strict=False)
        )
        paths.append(folder / f"{number:06d}.jpg")
        Image.fromarray(np.ascontiguousarray(world[top : top + SIZE[1], left : left + SIZE[0]])).save(
            paths[-1], quality=90
        )
    return paths


def untrained(model: str, folder: Path) -> Weights:
    """A registered architecture with random weights, saved and loaded as a checkpoint."""
    torch.manual_seed(0)
    checkpoint = folder / f"{model}.pt"
    torch.save(open_clip.create_model(model, load_weights=False).state_dict(), checkpoint)
    return find_weights(EncoderSettings(model=model, pretrained=str(checkpoint), device="cpu", precision="float32"))


class Photos(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """What the plain loop reads."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[number]))


class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Pixels as placeprint makes them, for a loader of processes."""

    def __init__(self, paths: list[Path], prepare: PixelTransform | None) -> None:
        self.paths, self.prepare = paths, prepare

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        if self.prepare is None:
            raise TypeError
        return torch.from_numpy(np.ascontiguousarray(self.prepare(self.paths[number].read_bytes())))


@torch.inference_mode()
def plain_loop(weights: Weights, paths: list[Path], batch_size: int) -> tuple[float, np.ndarray]:
    """Images a second of the plain loop with open_clip's own model, and its embeddings."""
    model, transform = own_model(weights)
    loader = torch.utils.data.DataLoader(
        Photos(paths, transform),
        batch_size=batch_size,
        num_workers=os.cpu_count() or 1,
        multiprocessing_context="forkserver",
        persistent_workers=True,
    )
    next(iter(loader))  # the workers' start is not counted
    started_s = time.perf_counter()
    vectors = []
    for batch in loader:
        found = model.encode_image(batch)
        vectors.append(torch.nn.functional.normalize(found, dim=-1).cpu().numpy())
    return len(paths) / (time.perf_counter() - started_s), np.concatenate(vectors)


def ours(encoder: Encoder, paths: list[Path], batch_size: int) -> tuple[float, np.ndarray, float]:
    """Images a second of placeprint's loader and encoder, embeddings, and the share of time without work."""
    started_s = time.perf_counter()
    loader = Loader(
        [Picture(path) for path in paths],
        encoder.prepare(exact=False),
        batch_size=batch_size,
        n_threads=os.cpu_count() or 1,
        pin=encoder.device.startswith("cuda"),
    )
    encoded = encode_pictures(encoder, loader)
    rate = len(paths) / (time.perf_counter() - started_s)
    return rate, encoded.embeddings, encoded.times.starved_share


def own_model(weights: Weights) -> tuple[Any, Callable[[Image.Image], torch.Tensor]]:
    """open_clip's model and transform, as they come."""
    if weights.config is not None:
        open_clip.add_model_config(weights.config)
    model, _, transform = open_clip.create_model_and_transforms(weights.model, pretrained=weights.pretrained)
    return model.eval(), transform


@torch.inference_mode()
def bare_model(weights: Weights, encoder: Encoder, n: int, batch_size: int) -> float:
    """Images a second of open_clip's own model on tensors that are ready on the device, in the encoder's precision."""
    model = own_model(weights)[0].visual.to(encoder.device)
    dtype = getattr(torch, encoder.precision)
    batch = torch.randn((batch_size, 3, *encoder.image_px), device=encoder.device)
    if encoder.device == "cpu":
        model, batch = model.to(dtype), batch.to(dtype)
    with torch.autocast(encoder.device.split(":")[0], dtype=dtype, enabled=encoder.device != "cpu"):
        model(batch)
        _wait(encoder)
        started_s = time.perf_counter()
        for _ in range(n // batch_size):
            model(batch)
        _wait(encoder)
    return (n // batch_size) * batch_size / (time.perf_counter() - started_s)


def decode_alone(encoder: Encoder, paths: list[Path]) -> float:
    """Images a second that all cores decode and resize, with nothing else to do."""
    started_s = time.perf_counter()
    with Loader(
        [Picture(path) for path in paths], encoder.prepare(exact=False), batch_size=64, n_threads=os.cpu_count() or 1
    ) as loader:
        for _ in loader:
            pass
    return len(paths) / (time.perf_counter() - started_s)


def _wait(encoder: Encoder) -> None:
    if encoder.device.startswith("cuda"):
        torch.cuda.synchronize()


def note(what: str, figures: str, ratio: str) -> None:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    line = f"| {datetime.now(UTC):%Y-%m-%d} | {what} | {os.cpu_count()} cores, {platform.machine()}{gpu} | {figures} | {ratio} |"
    print(line, flush=True)
    with RESULTS.open("a") as stream:
        stream.write(line + "\n")


def cosine(vectors: np.ndarray, others: np.ndarray) -> float:
    return float((vectors * others).sum(axis=1).min())


def vit(folder: Path) -> None:
    """ViT-B-32 on a CPU, where the model is the bottleneck: in float32, and in the precision that `auto` chooses here."""
    weights, paths = untrained("ViT-B-32", folder), write_photos(folder / "photos", 192)
    encoder = Encoder(weights, "cpu", "float32")
    chosen = Encoder(weights, "cpu", "auto")
    rates: dict[str, list[float]] = {"plain": [], "bare": [], "float32": [], "auto": []}
    for _ in range(REPEATS):
        plain, exact = plain_loop(weights, paths, 32)
        mine, found, _ = ours(encoder, paths, 64)
        by_choice, low, _ = ours(chosen, paths, 64)
        bare = bare_model(weights, encoder, 192, 32)
        for name, rate in (("plain", plain), ("bare", bare), ("float32", mine), ("auto", by_choice)):
            rates[name].append(rate)
    plain, bare, mine, by_choice = (max(rates[name]) for name in ("plain", "bare", "float32", "auto"))
    note(
        "encode ViT-B-32 (random weights), float32, CPU",
        f"{mine:.1f} images/s; bare model {bare:.1f}; plain loop {plain:.1f}; cosine to the plain loop >= {cosine(found, exact):.5f}",
        f"{mine / bare:.2f}x the bare model, {mine / plain:.2f}x the plain loop",
    )
    note(
        f"encode ViT-B-32 (random weights), precision auto = {chosen.precision}, CPU"
        + (" with native bfloat16" if has_native_bfloat16() else ""),
        f"{by_choice:.1f} images/s; float32 {mine:.1f}; plain loop in float32 {plain:.1f}; cosine to it >= {cosine(low, exact):.5f}",
        f"{by_choice / mine:.2f}x float32 (goal 1.8), {by_choice / plain:.2f}x the plain loop (goal 2.2)",
    )


def demo(folder: Path) -> None:
    """The demo encoder, where decoding is the bottleneck."""
    weights = find_weights(EncoderSettings())
    encoder = Encoder(weights, "cpu")
    paths = write_photos(folder / "photos", 2000)
    rates: dict[str, list[float]] = {"plain": [], "ours": [], "decode": [], "bare": []}
    for _ in range(REPEATS):
        plain, exact = plain_loop(weights, paths, 64)
        mine, found, starved = ours(encoder, paths, 64)
        for name, rate in (
            ("plain", plain),
            ("ours", mine),
            ("decode", decode_alone(encoder, paths)),
            ("bare", bare_model(weights, encoder, 2000, 64)),
        ):
            rates[name].append(rate)
    plain, mine, decode, bare = (max(rates[name]) for name in ("plain", "ours", "decode", "bare"))
    note(
        f"encode, the demo's encoder, precision auto = {encoder.precision}, CPU",
        f"{mine:.0f} images/s (starved {starved:.0%}); plain loop {plain:.0f}; decoding alone {decode:.0f}; bare model {bare:.0f}; "
        f"cosine to the plain loop >= {cosine(found, exact):.5f}",
        f"{mine / plain:.2f}x the plain loop",
    )


def loader(folder: Path) -> None:
    """Threads against processes, for the same decoding and resizing."""
    encoder, paths = Encoder(find_weights(EncoderSettings()), "cpu"), write_photos(folder / "photos", 2000)
    prepare = PixelTransform.like(PreprocessCfg(size=encoder.image_px[0]))
    rates: dict[str, list[float]] = {"threads": [], "processes": [], "start": []}
    for _ in range(REPEATS):
        rates["threads"].append(decode_alone(encoder, paths))
        started_s = time.perf_counter()
        batches = iter(
            torch.utils.data.DataLoader(
                Files(paths, prepare),
                batch_size=64,
                num_workers=os.cpu_count() or 1,
                multiprocessing_context="forkserver",
            )
        )
        next(batches)
        rates["start"].append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        n_loaded = sum(len(batch) for batch in batches)
        rates["processes"].append(n_loaded / (time.perf_counter() - started_s))
    threads, processes = max(rates["threads"]), max(rates["processes"])
    note(
        "decode and resize 640 x 480 for the demo's encoder: threads and processes, one a core",
        f"threads {threads:.0f} images/s; processes {processes:.0f}, after {min(rates['start']):.1f} s for their start",
        f"{threads / processes:.2f}x processes",
    )


def memory(folder: Path) -> None:
    """The largest memory of the flow with 1,000 and with 20,000 images."""
    megabytes = {}
    for n in (1_000, 20_000):
        write_photos(folder / str(n) / "photos" / "Egypt", n)
        given = ["--store", str(folder / str(n) / "store"), *_settings(folder / str(n))]
        subprocess.run([sys.executable, "-m", "flows.cli", "collect", *given], check=True)
        run = subprocess.run(
            [sys.executable, __file__, "--flow", str(folder / str(n))], capture_output=True, text=True, check=True
        )
        megabytes[n] = float(run.stdout.split()[-1])
    note(
        "encode, memory of the flow, 1,000 and 20,000 images, the demo's encoder",
        f"{megabytes[1_000]:.0f} MB and {megabytes[20_000]:.0f} MB",
        f"{megabytes[20_000] / megabytes[1_000]:.2f}x",
    )


def rerun(folder: Path) -> None:
    """A run with everything done, as a user starts it, for 100 shards."""
    write_photos(folder / "photos" / "Egypt", 1000)
    given = ["--store", str(folder / "store"), *_settings(folder), "-s", "encode.shard_size=10"]
    command = [sys.executable, "-m", "flows.cli"]
    subprocess.run([*command, "collect", *given], check=True)
    seconds = []
    for _ in range(3):
        started_s = time.perf_counter()
        subprocess.run([*command, "encode", *given], check=True)
        seconds.append(time.perf_counter() - started_s)
    note(
        "encode, 100 shards: first run, and a run with everything done",
        f"{seconds[0]:.1f} s and {min(seconds[1:]):.1f} s",
        f"{seconds[0] / min(seconds[1:]):.1f}x",
    )


def incremental(folder: Path) -> None:
    """One image in a hundred is new: its cost, of that of encoding all; ViT-B-32, the step alone, in one process."""
    weights = untrained("ViT-B-32", folder)
    write_photos(folder / "photos" / "Egypt", 1000)
    given = [
        *_settings(folder)[1::2],
        "encode.encoder={model: ViT-B-32, pretrained: " + str(weights.file) + "}",
        "encode.shard_size=500",
    ]
    new = folder / "new"
    (folder / "photos" / "Egypt").rename(new)
    (folder / "photos" / "Egypt").mkdir(parents=True)
    for path in sorted(new.iterdir())[:990]:
        path.rename(folder / "photos" / "Egypt" / path.name)
    settings = load_settings(None, [*given, f"store={folder / 'store'}"])
    all_s = _encoding_s(settings)
    for path in new.iterdir():
        path.rename(folder / "photos" / "Egypt" / path.name)
    some_s = _encoding_s(settings)
    store = Store(folder / "store")
    counts = store.version("embeddings").counts
    note(
        f"encode, 10 of 1,000 images are new, ViT-B-32 (random weights), CPU: {counts['embedded']} embedded, {counts['reused']} reused",
        f"{some_s:.2f} s; 990 images from nothing {all_s:.1f} s",
        f"{some_s / all_s:.1%} of all (goal: at most 3 %)",
    )


def _encoding_s(settings: Settings) -> float:
    """Seconds of encoding what was collected, in a process that has loaded the encoder already."""
    encoder = decided(settings.encode).encoder
    load_encoder(encoder, "cpu").encode_texts(["ready"])
    images = collect_images(settings)
    started_s = time.perf_counter()
    encode_images(settings, images)
    return time.perf_counter() - started_s


def taken_over(folder: Path) -> None:
    """The demo's images in another order of shards: all vectors are taken over, in place of encoding them."""
    given = ["-s", f"store={folder / 'store'}", "-s", "encode.encoder.device=cpu"]
    subprocess.run([sys.executable, "-m", "flows.cli", "collect", "-c", "configs/demo.yaml", *given], check=True)
    settings = load_settings(Path("configs/demo.yaml"), given[1::2])
    store, encode = Store(folder / "store"), decided(settings.encode)
    images = store.version("images")
    seconds: dict[str, list[float]] = {"encoded": [], "taken": []}
    load_encoder(encode.encoder, "cpu").encode_texts(["ready"])
    for _ in range(REPEATS):
        for name, shard_size in (("encoded", encode.shard_size), ("taken", encode.shard_size - 1)):
            version = encode.model_copy(update={"shard_size": shard_size})
            recipe = embeddings_recipe(version, images.fingerprint)
            started_s = time.perf_counter()
            n = _shards_made(store, version, recipe)
            seconds[name].append(time.perf_counter() - started_s)
        for table in ("embeddings", "embedding_rejects"):
            shutil.rmtree(store.root / "tables" / table)
    encoded_s, taken_s = (min(seconds[name]) for name in ("encoded", "taken"))
    note(
        f"encode, the demo's {n} images: encoded, and taken over from another version (written and checked)",
        f"{encoded_s:.2f} s and {taken_s:.3f} s",
        f"{encoded_s / taken_s:.0f}x (goal 50)",
    )


def _shards_made(store: Store, settings: EncodeSettings, recipe: Recipe) -> int:
    """Make and commit every shard of a version, as the flow does; returns the number of images."""
    images = unique_images(store.version("images"), ["image_id", "source"])
    plans = plan_reuse(store, recipe, images, settings.shard_size)
    shards = []
    for index, plan in enumerate(plans):
        start = index * settings.shard_size
        shard = encode_shard.fn(store.root, settings, recipe, index, start, start + plan.n_images, wait=True, plan=plan)
        shards += [] if shard is None else [shard]
    commit_embeddings.fn(store.root, settings, recipe, shards, images.num_rows)
    return images.num_rows


def lookup(folder: Path) -> None:
    """A hundred thousand known images and a hundred new ones in their midst: looking up and copying, in a process of its own."""
    run = subprocess.run(
        [sys.executable, __file__, "--lookup", str(folder)], capture_output=True, text=True, check=True
    )
    seconds, megabytes, vectors_mb, n_missing = map(float, run.stdout.split()[-4:])
    note(
        "encode, 100,000 of 100,100 images known, 512 numbers each: looked up, read, checked and put in their place",
        f"{seconds:.2f} s, {megabytes:.0f} MB beside the {vectors_mb:.0f} MB of vectors; {n_missing:.0f} are left to be encoded",
        "goal: under 10 s and 1,000 MB",
    )


def look_up(folder: Path) -> None:
    """Make such a store, look up and read all that is known; prints seconds, MB beside the vectors, MB of vectors, images left."""
    n, dimension, step = 100_000, 512, 2000
    store = Store(folder / "store")
    settings = EncodeSettings()
    recipe = embeddings_recipe(settings, "before")
    generator = np.random.default_rng(0)
    identities = [f"{number:032x}" for number in range(0, 2 * n, 2)]
    shards = []
    for index, start in enumerate(range(0, n, step)):
        vectors = generator.standard_normal((step, dimension), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        part = identities[start : start + step]
        table = shard_table(
            part, list(range(step)), vectors, None, {}, "float32", file_metadata(recipe, dimension, "float32")
        )
        shards.append(store.write_shard("embeddings", recipe.fingerprint, index, table))
    store.commit("embeddings", recipe, shards)
    new = [f"{number:032x}" for number in range(1, 2 * n, 2 * n // 100)]
    images = pa.table({"image_id": sorted([*identities, *new]), "source": ["photos"] * (n + len(new))})
    before_mb = _peak_mb()
    started_s = time.perf_counter()
    plans = plan_reuse(store, embeddings_recipe(settings, "now"), images, step)
    reader, kept = ShardReader(), []
    for plan in plans:
        kept += [reader.read(store, source)[0] for source in plan.sources]
    seconds = time.perf_counter() - started_s
    vectors_mb = sum(each.nbytes for each in kept) / 1e6
    print(seconds, _peak_mb() - before_mb - vectors_mb, vectors_mb, sum(plan.n_missing for plan in plans))


def startup(folder: Path) -> None:
    """CPU seconds of small commands, and of the same at commit c59c981, in turn; bytecode of both is compiled."""
    root = Path(__file__).parents[1]
    before = folder / "before"
    subprocess.run(
        ["git", "worktree", "add", "--detach", str(before), "c59c981"], cwd=root, check=True, capture_output=True
    )
    try:
        for tree in (root, before):
            subprocess.run(
                [sys.executable, "-m", "compileall", "-q", "flows", "tasks", "storage"], cwd=tree, check=True
            )
        write_photos(folder / "photos" / "Egypt", 24)
        write_photos(folder / "more" / "Egypt", 25)
        seconds: dict[tuple[str, str], list[float]] = {}
        for turn in range(REPEATS):
            for name, tree in (("now", root), ("before", before)):
                store = folder / f"{name}-{turn}"
                for what, words in (
                    ("collect, a new store", ["collect", "folder", str(folder / "photos"), "-s", "labels=from-data"]),
                    ("encode", ["encode", "-s", "labels=from-data"]),
                    ("search, a text", ["search", "Egypt"]),
                    (
                        "collect, a store that is there",
                        ["collect", "folder", str(folder / "more"), "-s", "labels=from-data"],
                    ),
                ):
                    seconds.setdefault((what, name), []).append(_cpu_s(tree, [*words, "--store", str(store)]))
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=root, check=True)
    goals = {"collect, a new store": 0.4, "collect, a store that is there": 0.4, "encode": 0.5, "search, a text": 0.3}
    for what, goal in goals.items():
        now, then = (float(np.median(seconds[what, name])) for name in ("now", "before"))
        note(
            f"{what}: 24 pictures, the demo's encoder, CPU seconds of the command (medians of {REPEATS})",
            f"{now:.2f} s; at commit c59c981 {then:.2f} s",
            f"{now / then:.2f} of it (goal {goal})",
        )
    many = _cpu_s(
        root, ["search", "--store", str(folder / "now-0")], "\n".join(f"a photo of place {n}" for n in range(101))
    )
    one = _cpu_s(root, ["search", "--store", str(folder / "now-0")], "a photo of place 0")
    note(
        "search without a query: each further answer, table and page included, 24 pictures",
        f"{1000 * (many - one) / 100:.0f} ms of CPU",
        "goal: under 50 ms",
    )


def _cpu_s(tree: Path, words: list[str], given: str | None = None) -> float:
    """CPU seconds, user and system, of a command and of all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        input=given,
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _peak_mb() -> float:
    # Not getrusage: its figure starts with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def gpu(folder: Path) -> None:
    """ViT-B-32 and ViT-L-14 in bfloat16 on a GPU."""
    paths = write_photos(folder / "photos", 2000) * 5
    for model, batch_size in (("ViT-B-32", 512), ("ViT-L-14", 256)):
        weights = untrained(model, folder)
        encoder = Encoder(weights, "cuda:0", "bfloat16")
        bare = max(bare_model(weights, encoder, 40 * batch_size, batch_size) for _ in range(REPEATS))
        mine, _, starved = max((ours(encoder, paths, batch_size) for _ in range(2)), key=lambda each: each[0])
        decode = decode_alone(encoder, paths)
        note(
            f"encode {model} (random weights), bfloat16, GPU",
            f"{mine:.0f} images/s (starved {starved:.0%}); bare model {bare:.0f}; decoding alone {decode:.0f}",
            f"{mine / bare:.2f}x the bare model, {mine / decode:.2f}x decoding",
        )


def _settings(folder: Path) -> list[str]:
    """Options of the command line for the photographs of a folder."""
    return ["-s", "labels=from-data", "-s", f"collect.sources=[{{kind: folder, path: {folder / 'photos'}}}]"]


def flow(folder: Path) -> None:
    """Encode the photographs of a folder in this process; prints its largest memory in MB."""
    from flows.environment import quiet_terminal, use_store

    use_store(folder / "store")
    quiet_terminal()
    from flows.encode import encode

    encode(load_settings(None, [f"store={folder / 'store'}", *_settings(folder)[1::2]]))
    print(_peak_mb())


PARTS = {
    "vit": vit,
    "demo": demo,
    "incremental": incremental,
    "taken-over": taken_over,
    "lookup": lookup,
    "startup": startup,
    "loader": loader,
    "memory": memory,
    "rerun": rerun,
    "gpu": gpu,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all that this machine can")
    parser.add_argument("--flow", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lookup", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.lookup is not None:
        look_up(given.lookup)
        return
    if given.flow is not None:
        flow(given.flow)
        return
    for name in given.part or [name for name in PARTS if name != "gpu" or torch.cuda.is_available()]:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
