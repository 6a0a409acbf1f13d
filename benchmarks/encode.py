"""How fast images are encoded, against the bare model, against a plain loop, and how memory grows.

Run it with: python benchmarks/encode.py [--part vit|demo|loader|memory|rerun|gpu]. Appends to RESULTS.md. Both sides of each ratio are
measured in one run, in turn, on the same files: JPEGs of 640 x 480 cut from the maps that ship with the demo.

The plain loop is what clip-retrieval's runner does: a DataLoader of one worker a core reads with Pillow and open_clip's own
transform; then, batch by batch, it waits for the batch, encodes it in float32, and copies the result. The bare model encodes
tensors that lie ready in memory, in the same precision.
"""

from __future__ import annotations

import argparse
import os
import platform
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
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image

from tasks.collect.world_map import WORLD_MAPS, load_pixels
from tasks.encode.compute import encode_pictures
from tasks.encode.encoder import Encoder
from tasks.encode.loader import Loader, Picture
from tasks.encode.pixels import PixelTransform
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
    return Weights(model, None, checkpoint, checkpoint)


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
    model, _, transform = open_clip.create_model_and_transforms(weights.model, pretrained=str(weights.checkpoint))
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
    """ViT-B-32 on a CPU, where the model is the bottleneck."""
    weights, paths = untrained("ViT-B-32", folder), write_photos(folder / "photos", 192)
    encoder = Encoder(weights, "cpu", "float32")
    rates: dict[str, list[float]] = {"plain": [], "bare": [], "ours": []}
    for _ in range(REPEATS):
        plain, exact = plain_loop(weights, paths, 32)
        mine, found, _ = ours(encoder, paths, 32)
        for name, rate in (("plain", plain), ("bare", bare_model(weights, encoder, 192, 32)), ("ours", mine)):
            rates[name].append(rate)
    plain, bare, mine = (max(rates[name]) for name in ("plain", "bare", "ours"))
    note(
        "encode ViT-B-32 (random weights), float32, CPU",
        f"{mine:.1f} images/s; bare model {bare:.1f}; plain loop {plain:.1f}; cosine to the plain loop >= {cosine(found, exact):.5f}",
        f"{mine / bare:.2f}x the bare model, {mine / plain:.2f}x the plain loop",
    )
    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        print("bfloat16 is left out: without AVX512-BF16 this CPU emulates it")
        return
    low = Encoder(weights, "cpu", "bfloat16")
    mine, found, _ = max((ours(low, paths, 32) for _ in range(REPEATS)), key=lambda each: each[0])
    note(
        "encode ViT-B-32 (random weights), bfloat16, CPU with AVX512-BF16",
        f"{mine:.1f} images/s; plain loop in float32 {plain:.1f}; cosine to it >= {cosine(found, exact):.5f}",
        f"{mine / plain:.2f}x the plain loop",
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
        "encode, the demo's encoder, float32, CPU",
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
    from flows.settings import load_settings

    encode(load_settings(None, [f"store={folder / 'store'}", *_settings(folder)[1::2]]))
    # Not getrusage: its figure starts with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1000)


PARTS = {"vit": vit, "demo": demo, "loader": loader, "memory": memory, "rerun": rerun, "gpu": gpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all that this machine can")
    parser.add_argument("--flow", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.flow is not None:
        flow(given.flow)
        return
    for name in given.part or [name for name in PARTS if name != "gpu" or torch.cuda.is_available()]:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
