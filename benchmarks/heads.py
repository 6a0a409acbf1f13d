"""How fast the heads of the case study are trained, against the machine's own float32 products and a plain PyTorch loop.

Run it with: python benchmarks/heads.py [--part cpu|bfloat16|gpu] [--rows N]. Appends to RESULTS.md; with --rows, a trial at another size, it only
prints. The size is the study's: 30,256 images of 723 inputs, 211 classes in 23 regions, ten seeds of the loss L50, batches of 261; the images
are made up. All sides train and validate on the same segments in one run, in turn: two segments, each on half of the images.

A rate counts the products alone: for each image and model 6 operations a weight in training (4 in the first layer, whose input needs no
gradient), 2 in validation.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

# As placeprint's command line has it; it must be set before torch is imported, so both sides have it here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from tasks.case_study.settings import SEEDS
from tasks.heads.losses import regional_loss
from tasks.heads.presets import PRESETS
from tasks.heads.stacked import Member, Training, stack_scores, train_stack
from tasks.metrics.mixed import mixed_scores

RESULTS = Path(__file__).parent / "RESULTS.md"
N_INPUTS, N_CLASSES, N_REGIONS = 723, 211, 23
REPEATS = 3
SGEMM_S = 8.0
# The case study has so many training sets; on each, forty models share the images.
N_SETS, N_EPOCHS, N_FOLDS = 5, 15, 10

write = True  # to RESULTS.md

Data = tuple[np.ndarray, np.ndarray, np.ndarray]


def note(what: str, machine: str, figures: str, ratio: str) -> None:
    line = f"| {datetime.now(UTC):%Y-%m-%d} | {what} | {machine} | {figures} | {ratio} |"
    print(line, flush=True)
    if write:
        with RESULTS.open("a") as stream:
            stream.write(line + "\n")


def this_cpu() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}"


def images(n: int) -> Data:
    """Inputs around a centre for each class, classes with a heavy tail, and the region of each class."""
    generator = np.random.default_rng(0)
    share = 1 / np.arange(1, N_CLASSES + 1)
    target = generator.choice(N_CLASSES, n, p=share / share.sum())
    centres = generator.normal(size=(N_CLASSES, N_INPUTS))
    vectors = centres[target] + 6 * generator.normal(size=(n, N_INPUTS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), target, generator.integers(0, N_REGIONS, N_CLASSES)


def training(n_folds: int = 2, epochs: int = 1, precision: str = "float32") -> Training:
    return Training((N_INPUTS, N_INPUTS), epochs, n_folds, 261, 0.001, "nll", "none", precision)  # type: ignore[arg-type]


def members(losses: Sequence[str] = ("L50",)) -> list[Member]:
    return [Member(seed, **PRESETS[loss]) for loss in losses for seed in SEEDS]


def operations(n: int, how: Training, n_models: int) -> float:
    """Of the products of all segments."""
    sizes = [N_INPUTS, *how.hidden, N_CLASSES]
    weights = [a * b for a, b in pairwise(sizes)]
    trained = 6 * sum(weights) - 2 * weights[0]
    each = n * (how.n_folds - 1) * trained + n * 2 * sum(weights)
    return float(how.epochs * n_models * each)


def stacked_s(data: Data, how: Training, device: str, losses: Sequence[str] = ("L50",)) -> float:
    started_s = time.perf_counter()
    train_stack(*data, members(losses), how, device=device)
    return time.perf_counter() - started_s


def plain_s(data: Data, how: Training, device: str, seeds: Sequence[int] = SEEDS) -> float:
    """One model after the other, as the study's code trains them: Linear and ReLU, a DataLoader, autograd, Adam."""
    vectors, target, region = (torch.from_numpy(each) for each in data)
    started_s = time.perf_counter()
    for seed in seeds:
        torch.manual_seed(seed)
        sizes = [N_INPUTS, *how.hidden, N_CLASSES]
        layers: list[torch.nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1]).to(device)
        adam = torch.optim.Adam(model.parameters(), lr=how.learning_rate)
        regions = region.to(device)
        for _ in range(how.epochs):
            for fold in np.array_split(np.arange(len(vectors)), how.n_folds):
                rows = np.r_[0 : fold[0], fold[-1] + 1 : len(vectors)]
                for batch, truth in DataLoader(TensorDataset(vectors[rows], target[rows]), how.batch_size):
                    adam.zero_grad()
                    loss = regional_loss(
                        model(batch.to(device)), truth.to(device), regions, portion=PRESETS["L50"]["gamma"]
                    )
                    loss.backward()
                    adam.step()
                with torch.no_grad():
                    for batch, truth in DataLoader(TensorDataset(vectors[fold], target[fold]), how.batch_size):
                        regional_loss(
                            model(batch.to(device)), truth.to(device), regions, portion=PRESETS["L50"]["gamma"]
                        ).item()
    return time.perf_counter() - started_s


def sgemm_rate() -> float:
    """GFLOP/s of float32 products of 4096 x 4096, for as long as a processor that was cold takes to slow down."""
    left, right = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4096, 4096), dtype=np.float32))
    product, n, started_s = torch.empty_like(left), 0, time.perf_counter()
    while (taken_s := time.perf_counter() - started_s) < SGEMM_S:
        torch.mm(left, right, out=product)
        n += 1
    return 2 * 4096**3 * n / 1e9 / taken_s


def peak_mb() -> float:
    """The largest memory of this process so far."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def cpu(n: int) -> None:
    data, how = images(n), training()
    rates, shares, ratios, plain, stacked = [], [], [], [], []
    memory_mb = 0.0
    for _ in range(REPEATS):
        before = sgemm_rate()
        stacked.append(stacked_s(data, how, "cpu"))
        memory_mb = memory_mb or peak_mb()
        after = sgemm_rate()
        plain.append(plain_s(data, how, "cpu"))
        rates.append(operations(n, how, len(SEEDS)) / 1e9 / stacked[-1])
        shares.append(rates[-1] / ((before + after) / 2))
        ratios.append(plain[-1] / stacked[-1])
    note(
        f"heads, ten seeds of a configuration, {n:,} x {N_INPUTS}, {N_CLASSES} classes, float32, CPU",
        this_cpu(),
        f"{statistics.median(stacked):.1f} s for two segments, {statistics.median(rates):.0f} GFLOP/s; plain loop "
        f"{statistics.median(plain):.1f} s; peak {memory_mb:.0f} MB (medians of {REPEATS})",
        f"{statistics.median(shares):.2f} of sgemm, {statistics.median(ratios):.2f}x the plain loop",
    )


def bfloat16(n: int) -> None:
    """On CPUs whose products are faster in bfloat16; else there is nothing to gain."""
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        print("bfloat16: left out, this CPU has no AVX512-BF16", flush=True)
        return
    data, new = images(n), images(n // 10)
    times: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(REPEATS):
        for precision, taken in times.items():
            taken.append(stacked_s(data, training(precision=precision), "cpu"))
    scores = {}
    for precision in times:
        trained = train_stack(*data, members(), training(epochs=2, precision=precision))
        predicted = stack_scores(trained.weights, trained.biases, new[0]).argmax(-1)
        scores[precision] = [mixed_scores(new[1], each, data[2]).f1 for each in predicted]
    gap = statistics.mean(scores["bfloat16"]) - statistics.mean(scores["float32"])
    note(
        f"heads, ten seeds, {n:,} x {N_INPUTS}, bfloat16, CPU",
        this_cpu(),
        f"{min(times['bfloat16']):.1f} s; float32 {min(times['float32']):.1f} s; mixed F1 {gap:+.4f}, spread of the seeds "
        f"{statistics.stdev(scores['float32']):.4f}",
        f"{min(times['float32']) / min(times['bfloat16']):.2f}x float32",
    )


def gpu(n: int) -> None:
    if not torch.cuda.is_available():
        print("gpu: left out, this machine has none", flush=True)
        return
    name, data, how = torch.cuda.get_device_name(), images(n), training()
    stacked_s(data, how, "cuda")
    stacked = min(stacked_s(data, how, "cuda") for _ in range(REPEATS))
    plain = min(plain_s(data, how, "cuda", SEEDS[:2]) for _ in range(REPEATS)) * len(SEEDS) / 2
    note(
        f"heads, ten seeds of a configuration, {n:,} x {N_INPUTS}, float32",
        name,
        f"{stacked:.2f} s for two segments; plain loop {plain:.1f} s (two seeds, times five)",
        f"{plain / stacked:.1f}x the plain loop",
    )
    whole = training(N_FOLDS, N_EPOCHS)
    taken_s = N_SETS * stacked_s(data, whole, "cuda", list(PRESETS))
    note(
        f"heads, twenty configurations, 200 models, {N_EPOCHS} epochs of {N_FOLDS} segments",
        name,
        f"{taken_s:.0f} s (one training set of {n:,} images measured, times {N_SETS})",
        "goal: under 600 s",
    )


PARTS: dict[str, Callable[[int], None]] = {"cpu": cpu, "bfloat16": bfloat16, "gpu": gpu}


def main() -> None:
    global write
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--rows", type=int)
    given = parser.parse_args()
    write = given.rows is None
    for name in [given.part] if given.part else PARTS:
        PARTS[name](given.rows or 30_256)


if __name__ == "__main__":
    main()
