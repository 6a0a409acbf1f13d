"""How fast all pairs of near-duplicates are found, against the machine's own float32 products, FAISS and imagededup.

Run it with: python benchmarks/dedup.py [--part pairs|faiss|bfloat16|imagededup|whole|gpu] [--rows N]. Appends to RESULTS.md; with --rows, a trial
at another size, it only prints. Both sides of each ratio are measured in one run, in turn, on the same vectors: 512 components,
half of them in clusters of five with cosines of about 0.8 to 0.96, half of them like no other.

A rate counts the products of the upper triangle, n²/2 of 2 · 512 operations, whatever is computed beside them.
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

# As placeprint's command line has it; it must be set before torch is imported, so both sides have it here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import faiss
import numpy as np
import pyarrow as pa
import torch

from storage.schemas import IMAGES
from storage.schemas import embeddings as embeddings_schema
from storage.store import Recipe, Store
from storage.vectors import vector_column
from tasks.dedup.pairs import Pairs, near_pairs, nearest_neighbours
from tasks.dedup.recipes import dedup_recipe
from tasks.dedup.settings import DedupSettings
from tasks.dedup.steps import find_duplicates
from tasks.encode.settings import EncodeSettings

RESULTS = Path(__file__).parent / "RESULTS.md"
DIMENSION = 512
MIN_COSINE = 0.9
# FAISS compares each of so many rows with all, and its time is scaled to all rows.
FAISS_QUERIES = 10_000
# Each side is measured so often, in turn. Of the shares of sgemm the median counts, else the best of each side: others may use
# the machine.
REPEATS = 3
SGEMM_S = 10.0
IMAGEDEDUP = "imagededup==0.3.3.post2"
INSTALL_S = 120
# Its own search for duplicates, without the model that it would download first: embeddings are given.
IMAGEDEDUP_SEARCH = """
import logging, sys, time
import numpy as np
from imagededup.methods import CNN
vectors = np.load(sys.argv[1])
search = CNN.__new__(CNN)
search.logger, search.verbose = logging.getLogger("imagededup"), False
if __name__ == "__main__":
    encodings = {f"{number:08d}.jpg": vector for number, vector in enumerate(vectors)}
    started_s = time.perf_counter()
    found = search.find_duplicates(encoding_map=encodings, min_similarity_threshold=float(sys.argv[2]))
    print(time.perf_counter() - started_s, sum(map(len, found.values())) / 2)
"""

write = True  # to RESULTS.md


def note(what: str, figures: str, ratio: str) -> None:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    line = f"| {datetime.now(UTC):%Y-%m-%d} | {what} | {os.cpu_count()} cores, {platform.machine()}{gpu} | {figures} | {ratio} |"
    print(line, flush=True)
    if write:
        with RESULTS.open("a") as stream:
            stream.write(line + "\n")


def embeddings(n: int) -> np.ndarray:
    """(n, 512) float32, L2-normalised, in no order."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((n, DIMENSION), dtype=np.float32)
    clustered = n // 10 * 5
    centres = np.repeat(generator.standard_normal((n // 10, DIMENSION), dtype=np.float32), 5, axis=0)
    vectors[:clustered] *= generator.uniform(0.2, 0.5, (clustered, 1)).astype(np.float32)
    vectors[:clustered] += centres
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return generator.permutation(vectors)


def seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def triangle(n: int) -> float:
    """Thousand millions of operations in the products of all pairs."""
    return n * n / 2 * 2 * DIMENSION / 1e9


def sgemm_rate() -> float:
    """GFLOP/s of float32 products of two 4096 x 4096 matrices, one after the other for as long as a processor that was cold
    takes to slow down: a single product would be measured at a speed that none can keep.
    """
    size, n = 4096, 0
    left, right = torch.from_numpy(np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32))
    product = torch.empty_like(left)
    started_s = time.perf_counter()
    while (taken_s := time.perf_counter() - started_s) < SGEMM_S:
        torch.mm(left, right, out=product)
        n += 1
    return 2 * size**3 * n / 1e9 / taken_s


def peak_mb() -> float:
    """The largest memory of this process; getrusage's would begin with that of the process which started it."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def measure(file: Path) -> None:
    """All pairs and all neighbours of a file's vectors in this process; prints rates and the extra memory."""
    vectors = np.load(file)
    n = len(vectors)
    near_pairs(vectors[:300], min_cosine=MIN_COSINE, screen="float32", device="cpu")
    before_mb = peak_mb()
    pairs = near_pairs(vectors, min_cosine=MIN_COSINE, screen="float32", device="cpu")
    pairs_mb = peak_mb() - before_mb
    nearest_neighbours(vectors, device="cpu")
    neighbours_mb = peak_mb() - before_mb
    shares, pairs_rates, sgemm_rates = [], [], [sgemm_rate()]
    for _ in range(REPEATS):
        pairs_rates.append(
            triangle(n) / seconds(lambda: near_pairs(vectors, min_cosine=MIN_COSINE, screen="float32", device="cpu"))
        )
        sgemm_rates.append(sgemm_rate())
        shares.append(pairs_rates[-1] / np.mean(sgemm_rates[-2:]))
    neighbours = triangle(n) / seconds(lambda: nearest_neighbours(vectors, device="cpu"))
    sgemm_rates.append(sgemm_rate())
    print(
        np.median(sgemm_rates),
        np.median(pairs_rates),
        np.median(shares),
        neighbours,
        neighbours / np.mean(sgemm_rates[-2:]),
        pairs_mb,
        neighbours_mb,
        len(pairs.i),
    )


def pairs(folder: Path, n: int) -> None:
    """The share of the machine's rate, and memory, in a process of its own."""
    np.save(folder / "vectors.npy", embeddings(n))
    run = subprocess.run(
        [sys.executable, __file__, "--measure", str(folder / "vectors.npy")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    sgemm, mine, share, neighbours, neighbours_share, pairs_mb, neighbours_mb, n_found = (
        float(each) for each in run.stdout.split()
    )
    note(
        f"dedup, all pairs >= {MIN_COSINE} of {n:,} x {DIMENSION}, float32, CPU",
        f"{triangle(n) / mine:.1f} s, {mine:.0f} GFLOP/s, {n_found:.0f} pairs, {pairs_mb:.0f} MB beside the embeddings; "
        f"sgemm of 4096 x 4096, before and after, {sgemm:.0f} GFLOP/s (medians of {REPEATS})",
        f"{share:.2f} of sgemm",
    )
    note(
        f"dedup, nearest neighbour of each of {n:,} x {DIMENSION}, float32, CPU",
        f"{triangle(n) / neighbours:.1f} s, {neighbours:.0f} GFLOP/s, {neighbours_mb:.0f} MB beside the embeddings",
        f"{neighbours_share:.2f} of sgemm",
    )


def against_faiss(n: int, screen: str) -> None:
    vectors = embeddings(n)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    queries = vectors[: min(FAISS_QUERIES, n)]
    mine_s, faiss_s = [], []
    found: Pairs | None = None
    for _ in range(REPEATS):
        faiss_s.append(seconds(lambda: index.range_search(queries, MIN_COSINE)) * n / len(queries))
        started_s = time.perf_counter()
        found = near_pairs(vectors, min_cosine=MIN_COSINE, screen=screen, device="cpu")  # type: ignore[arg-type]
        mine_s.append(time.perf_counter() - started_s)
    limits, _, other = index.range_search(queries, MIN_COSINE)
    n_different = len(own_pairs(found, len(queries)) ^ faiss_pairs(limits, other))
    scaled = f", {len(queries):,} of the rows searched and scaled" if len(queries) < n else ""
    same = ""
    if screen != "float32":
        exact = near_pairs(vectors, min_cosine=MIN_COSINE, screen="float32", device="cpu")
        equal = all((getattr(exact, name) == getattr(found, name)).all() for name in ("i", "j", "cosine"))
        same = f"; pairs of the float32 screen: {'the same, bit for bit' if equal else 'OTHERS'}"
    note(
        f"dedup, all pairs >= {MIN_COSINE} of {n:,} x {DIMENSION}, {screen} screen, CPU, and FAISS range_search, flat",
        f"{min(mine_s):.1f} s; FAISS {min(faiss_s):.1f} s{scaled}; {n_different} of its {len(other)} hits differ{same}",
        f"{min(faiss_s) / min(mine_s):.2f}x FAISS",
    )


def own_pairs(found: Pairs | None, n_queries: int) -> set[tuple[int, int]]:
    """Pairs with a row among the first ones."""
    if found is None:
        raise TypeError
    return {(i, j) for i, j in zip(found.i.tolist(), found.j.tolist(), strict=True) if i < n_queries}


def faiss_pairs(limits: np.ndarray, other: np.ndarray) -> set[tuple[int, int]]:
    """What range_search found, each pair once, without the rows themselves."""
    row = np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64)))
    return {(min(i, j), max(i, j)) for i, j in zip(row.tolist(), other.tolist(), strict=True) if i != j}


def faiss_part(_: Path, n: int) -> None:
    """A flat index compares each row with all."""
    against_faiss(n, "float32")


def bfloat16(_: Path, n: int) -> None:
    """The screen of CPUs with AVX512-BF16."""
    if has_bfloat16():
        against_faiss(n, "bfloat16")
    else:
        print("bfloat16: left out, this CPU has no AVX512-BF16", flush=True)


def has_bfloat16() -> bool:
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def imagededup(folder: Path, n: int) -> None:
    """Its CNN method's search in a throw-away environment: it wants packages that placeprint does not."""
    n = min(n, 20_000)
    python = folder / "venv" / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    try:
        subprocess.run([uv, "venv", "--quiet", python.parent.parent], check=True, timeout=INSTALL_S)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, IMAGEDEDUP], check=True, timeout=INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"imagededup: left out, it could not be installed in {INSTALL_S} s: {error}", flush=True)
        return
    vectors = embeddings(n)
    np.save(folder / "vectors.npy", vectors)
    (folder / "search.py").write_text(IMAGEDEDUP_SEARCH)
    mine_s, its_s, its_pairs = [], [], 0.0
    n_found = 0
    for _ in range(REPEATS):
        run = subprocess.run(
            [python, folder / "search.py", folder / "vectors.npy", str(MIN_COSINE)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        its, its_pairs = (float(each) for each in run.stdout.split()[-2:])
        its_s.append(its)
        started_s = time.perf_counter()
        n_found = len(near_pairs(vectors, min_cosine=MIN_COSINE, device="cpu").i)
        mine_s.append(time.perf_counter() - started_s)
    note(
        f"dedup, all pairs >= {MIN_COSINE} of {n:,} x {DIMENSION}, CPU, and imagededup's CNN search",
        f"{min(mine_s):.2f} s, {n_found} pairs; imagededup {min(its_s):.1f} s, {its_pairs:.0f} pairs (it compares in float16)",
        f"{min(its_s) / min(mine_s):.1f}x imagededup",
    )


def whole(folder: Path, n: int) -> None:
    """The whole step on given embeddings: labels of a file, thresholds with intervals, pairs, groups, both tables."""
    n = min(n, 20_000)
    store = Store(folder / "store")
    vectors = embeddings(n)
    image_ids = [f"{number:032x}" for number in range(n)]
    known = dict.fromkeys(["licence", "attribution", "url", "checksum", "planted_copy_of", "metadata", "captured_at"])
    rows = [
        {"image_id": identity, "source": "made", "path": identity, "file": identity, "label": str(number % 100)}
        | {"latitude": 0.0, "longitude": 0.0, "width": 640, "height": 480, "bytes": 1, **known}
        for number, identity in enumerate(image_ids)
    ]
    images = Recipe("benchmark", 1)
    store.commit(
        "images", images, [store.write_shard("images", images.fingerprint, 0, pa.Table.from_pylist(rows, IMAGES))]
    )
    table = pa.table([image_ids, vector_column(vectors, "float32")], schema=embeddings_schema(DIMENSION))
    encoded = Recipe("benchmark", 1, inputs={"images": images.fingerprint, "encoder": "made"})
    shard = store.write_shard("embeddings", encoded.fingerprint, 0, table)
    store.commit("embeddings", encoded, [shard], notes={"encoder": "made"})
    _, cosine = nearest_neighbours(vectors[:3000])
    row, _ = nearest_neighbours(vectors[:3000])
    drawn = np.random.default_rng(0).random(3000) < 1 / (1 + np.exp(-200 * (cosine.astype(float) - 0.93)))
    lines = [f"{image_ids[one]},{image_ids[other]},{drawn[min(one, other)]}" for one, other in enumerate(row)]
    (folder / "pairs.csv").write_text("\n".join(["image_id_a,image_id_b,is_duplicate", *lines[:600]]))
    settings = DedupSettings(labels=str(folder / "pairs.csv"), max_removed_share=1.0)
    recipe = dedup_recipe(store, settings, encoded.fingerprint, encoded)
    counts = {}
    taken_s = seconds(
        lambda: counts.update(find_duplicates.fn(store.root, settings, EncodeSettings(), recipe))  # type: ignore[arg-type]
    )
    note(
        f"dedup, the whole step on {n:,} x {DIMENSION} given embeddings, 600 labelled pairs, CPU",
        f"{taken_s:.1f} s; {counts['removed']} removed, {counts['groups']} groups",
        "goal: under 10 s",
    )


def gpu(_: Path, n: int) -> None:
    """A million vectors on a GPU, and both screens on a tenth of them."""
    vectors = embeddings(n)
    part = vectors[: n // 10]
    one, other = (near_pairs(part, min_cosine=MIN_COSINE, screen=each) for each in ("float32", "bfloat16"))
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("i", "j", "cosine"))
    taken_s = [seconds(lambda: near_pairs(vectors, min_cosine=MIN_COSINE)) for _ in range(2)]
    note(
        f"dedup, all pairs >= {MIN_COSINE} of {n:,} x {DIMENSION}, bfloat16 screen, GPU",
        f"{min(taken_s):.1f} s; on {n // 10:,} of them, pairs of the float32 screen: {'the same' if equal else 'OTHERS'}",
        f"{triangle(n) / 1000 / min(taken_s):.0f} TFLOP/s",
    )


PARTS = {
    "pairs": pairs,
    "faiss": faiss_part,
    "bfloat16": bfloat16,
    "imagededup": imagededup,
    "whole": whole,
    "gpu": gpu,
}


def main() -> None:
    global write
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all that this machine can")
    parser.add_argument("--rows", type=int, help="another number of vectors: a trial, which is not noted")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        measure(given.measure)
        return
    write = given.rows is None
    for name in given.part or [name for name in PARTS if name != "gpu" or torch.cuda.is_available()]:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), given.rows or (1_000_000 if name == "gpu" else 100_000))


if __name__ == "__main__":
    main()
