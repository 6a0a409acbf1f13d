"""How fast images are split, and how evenly, against the package iterative-stratification.

Run it with: python benchmarks/split.py [--part single|multilabel|surrogate] [--rows N]. Appends to RESULTS.md; with --rows, a trial at another size, it
only prints. Both sides of each ratio are measured in one run, in turn, on the same labels, which have a heavy tail.
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

import numpy as np

from tasks.dedup.pairs import near_pairs
from tasks.split import multilabel_split, split_quality, stratified_split
from tasks.split.surrogate import surrogate_strata, surrogate_values

RESULTS = Path(__file__).parent / "RESULTS.md"
SIZES = {"train": 0.85, "test": 0.15}
# Each side is measured so often, in turn; the best of each counts: others may use the machine.
REPEATS = 3
ITERSTRAT = "iterative-stratification==0.1.9"
INSTALL_S = 120
# It splits in two; what it returns is scored here, as placeprint's split is.
ITERSTRAT_SPLIT = """
import sys, time
import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
labels = np.load(sys.argv[1])
split = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=float(sys.argv[2]), random_state=0)
started_s = time.perf_counter()
_, test = next(split.split(labels, labels))
print(time.perf_counter() - started_s)
np.save(sys.argv[3], test)
"""

write = True  # to RESULTS.md


def note(what: str, figures: str, ratio: str) -> None:
    line = f"| {datetime.now(UTC):%Y-%m-%d} | {what} | {os.cpu_count()} cores, {platform.machine()} | {figures} | {ratio} |"
    print(line, flush=True)
    if write:
        with RESULTS.open("a") as stream:
            stream.write(line + "\n")


def timed(split: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    started_s = time.perf_counter()
    parts = split()
    return time.perf_counter() - started_s, parts


def single(_: Path, n: int | None) -> None:
    """Single-label data of 211 classes, their names as text."""
    n = n or 1_000_000
    generator = np.random.default_rng(0)
    names = np.array([f"Country {number}" for number in range(211)])
    share = 1 / np.arange(1, 212) ** 2.2
    labels = names[generator.choice(211, n, p=share / share.sum())]
    ids = np.char.mod("%032x", np.arange(n))
    taken_s, with_ids_s = [], []
    for _ in range(REPEATS):
        seconds, parts = timed(lambda: stratified_split(labels, sizes=SIZES, seed=0))
        taken_s.append(seconds)
        with_ids_s.append(timed(lambda: stratified_split(labels, sizes=SIZES, seed=0, ids=ids))[0])
    quality = split_quality(labels, parts, SIZES)
    note(
        f"split, single-label, {n:,} x {len(quality.classes)} classes",
        f"{min(taken_s):.2f} s, with ids {min(with_ids_s):.2f} s; no class is off by more than {quality.worst_images:.2f} images; "
        f"{quality.part_got[1]:,} of {quality.part_wanted[1]:,.1f} in test",
        "goal: under 2 s",
    )


def tagged(n: int) -> np.ndarray:
    """(n, 159) int8 with about 1.84 labels an image."""
    generator = np.random.default_rng(0)
    share = 1 / (np.arange(159) + 3.0) ** 2.4
    n_labels = np.minimum(1 + generator.poisson(1.16, n), 9)  # some are drawn twice
    labels = np.zeros((n, 159), dtype=np.int8)
    labels[np.repeat(np.arange(n), n_labels), generator.choice(159, n_labels.sum(), p=share / share.sum())] = 1
    return labels


def multilabel(folder: Path, n: int | None) -> None:
    """Multi-label data, and iterative-stratification in a throw-away environment."""
    labels = tagged(n or 126_654)
    python = folder / "venv" / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    try:
        subprocess.run([uv, "venv", "--quiet", python.parent.parent], check=True, timeout=INSTALL_S)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, ITERSTRAT], check=True, timeout=INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"multilabel: left out, {ITERSTRAT} could not be installed in {INSTALL_S} s: {error}", flush=True)
        return
    np.save(folder / "labels.npy", labels)
    (folder / "split.py").write_text(ITERSTRAT_SPLIT)
    mine_s, pairs_s, its_s = [], [], []
    for _ in range(REPEATS):
        run = subprocess.run(
            [python, folder / "split.py", folder / "labels.npy", str(SIZES["test"]), folder / "test.npy"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        its_s.append(float(run.stdout))
        seconds, parts = timed(lambda: multilabel_split(labels, sizes=SIZES, seed=0))
        mine_s.append(seconds)
        seconds, with_pairs = timed(lambda: multilabel_split(labels, sizes=SIZES, seed=0, order=2))
        pairs_s.append(seconds)
    its_parts = np.full(len(labels), "train", dtype="U5")
    its_parts[np.load(folder / "test.npy")] = "test"
    mine, second, its = (worst(labels, each) for each in (parts, with_pairs, its_parts))
    note(
        f"split, multi-label, {len(labels):,} x {labels.shape[1]}, {labels.sum() / len(labels):.2f} labels an image, "
        "and iterative-stratification",
        f"{min(mine_s):.2f} s, worst label {mine}; with pairs {min(pairs_s):.2f} s, {second}; "
        f"iterative-stratification {min(its_s):.1f} s, {its}",
        f"{min(its_s) / min(mine_s):.0f}x iterative-stratification",
    )


def worst(labels: np.ndarray, parts: np.ndarray) -> str:
    quality = split_quality(labels, parts, SIZES)
    return f"{quality.worst_images:.2f} images, {quality.worst_share:.4f} of its share"


def surrogate(_: Path, n: int | None) -> None:
    """Surrogate strata against the pair search, in turn: both are products of all rows with all rows."""
    n = n or 100_000
    vectors = np.random.default_rng(0).standard_normal((n, 512), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strata_s, pairs_s = [], []
    for _ in range(2):
        started_s = time.perf_counter()
        near_pairs(vectors, min_cosine=0.9, screen="float32", device="cpu")
        pairs_s.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        surrogate_strata(surrogate_values(vectors, device="cpu"))
        strata_s.append(time.perf_counter() - started_s)
    note(
        f"split, surrogate strata of {n:,} x 512 at temperature 100, and all pairs >= 0.9 in float32, CPU",
        f"{min(strata_s):.1f} s; pairs {min(pairs_s):.1f} s",
        f"{min(strata_s) / min(pairs_s):.2f}x the pair search",
    )


PARTS = {"single": single, "multilabel": multilabel, "surrogate": surrogate}


def main() -> None:
    global write
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--rows", type=int, help="another number of images: a trial, which is not noted")
    given = parser.parse_args()
    write = given.rows is None
    for name in given.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), given.rows)


if __name__ == "__main__":
    main()
