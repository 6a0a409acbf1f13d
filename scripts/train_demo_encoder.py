"""Train the small CLIP that ships with placeprint on map patches that the demo never samples.

``python scripts/train_demo_encoder.py`` writes ``tasks/encode/models/placeprint-demo.{json,safetensors}`` (about half an hour
on two cores). The weights are an exponential moving average; every few hundred steps they are measured on the validation
cells, and the best are kept. The cells of the demo are never read.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tasks.collect.countries import area_km2, country_shapes, sample_points
from tasks.collect.earthmaps import EarthmapsSettings, has_enough_land
from tasks.collect.grid import demo_cells
from tasks.collect.world_map import MAX_LATITUDE_DEG, WORLD_MAPS, cut_patch, load_pixels
from tasks.labels.country211 import country_table

MODELS = Path(__file__).parent.parent / "tasks/encode/models"
NAME = "placeprint-demo"

TEMPLATES = (
    "{}",
    "This image shows the country {}",
    "a map of {}",
    "a photo of {}",
    "an image of {}",
    "a centered satellite photo of {}",
    "a place in {}",
    "the landscape of {}",
)
GROUP_TEMPLATES = ("{}", "a map of {}", "a place in {}", "This image shows the region {}", "a satellite photo of {}")
SOURCE_TEMPLATES = {
    "satellite": ("a satellite photo of {}", "a satellite image of {}", "{} from space"),
    "relief": ("a shaded relief map of {}", "a relief map of {}", "a drawn map of {}"),
    "elevation": ("an elevation map of {}", "a height map of {}", "a map of the elevation of {}"),
}


def model_config(width: int, image_px: int) -> dict[str, object]:
    """A CLIP in open_clip's own format: ModifiedResNet [1, 1, 1, 1] and a two-layer text tower."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": image_px, "layers": [1, 1, 1, 1], "width": width, "head_width": 64},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }


@dataclass(frozen=True)
class Patches:
    """`images` (n, 3, px, px) uint8; `country` and `source` (n,) indices into `country_shapes` and `WORLD_MAPS`."""

    images: Tensor
    country: Tensor
    source: Tensor


def sample(per_country: int, seed: int, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) whose patch lies wholly in `cells`, and the index of their country."""
    settings, parts = EarthmapsSettings(), demo_cells()
    rng = np.random.default_rng(seed)
    points, owner = [], []
    for index, country in enumerate(country_shapes()):
        area = area_km2(country.geometry)
        found = sample_points(country.geometry, 12 * per_country, MAX_LATITUDE_DEG - settings.patch_side_deg / 2, rng)
        if len(found):
            found = found[has_enough_land(found, area, settings)]
            found = found[parts.lies_in(cells, found[:, 0], found[:, 1], settings.patch_side_deg)]
        # Patches of a small country overlap almost wholly: fewer of them say as much.
        wanted = int(np.clip(per_country * math.sqrt(area / 200_000), 60, 2 * per_country))
        points.append(found[:wanted])
        owner.append(np.full(len(found[:wanted]), index))
    return np.concatenate(points), np.concatenate(owner)


def cut(points: np.ndarray, owner: np.ndarray, image_px: int) -> Patches:
    settings = EarthmapsSettings()
    images = np.empty((len(WORLD_MAPS), len(points), image_px, image_px, 3), dtype=np.uint8)
    for source, world_map in enumerate(WORLD_MAPS):
        pixels = load_pixels(world_map)
        for row, (latitude, longitude) in enumerate(points):
            patch = cut_patch(pixels, latitude, longitude, settings.patch_side_deg, settings.size_px)
            images[source, row] = patch.resize((image_px, image_px), Image.Resampling.BICUBIC)
    return Patches(
        torch.from_numpy(images.reshape(-1, image_px, image_px, 3)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(owner).repeat(len(WORLD_MAPS)),
        torch.arange(len(WORLD_MAPS)).repeat_interleave(len(points)),
    )


def augmented(images: Tensor, generator: torch.Generator, min_crop: float) -> Tensor:
    """Random crop, quarter turns, small rotation, mirroring, brightness; then CLIP's normalisation. (n, 3, px, px).

    Turns and mirroring are what keeps so small a set of places from being learnt by heart.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    scale = uniform(min_crop, 1.0)
    angle = uniform(-0.15, 0.15) + torch.randint(4, (n,), generator=generator) * (math.pi / 2)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    shift_x, shift_y = uniform(-1, 1) * (1 - scale), uniform(-1, 1) * (1 - scale)
    theta = torch.stack(
        [
            torch.stack([scale * angle.cos() * mirror, -scale * angle.sin(), shift_x], dim=1),
            torch.stack([scale * angle.sin() * mirror, scale * angle.cos(), shift_y], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    views = functional.grid_sample(images.float() / 255.0, grid, padding_mode="reflection", align_corners=False)
    gain = torch.where(torch.rand(n, generator=generator) < 0.5, uniform(0.85, 1.15), torch.ones(n))
    return normalised(views * gain[:, None, None, None])


def normalised(images: Tensor) -> Tensor:
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)
    return (images - mean) / std


def save(model: torch.nn.Module, width: int, image_px: int) -> None:
    """Write config and float16 weights in open_clip's own format."""
    MODELS.mkdir(parents=True, exist_ok=True)
    (MODELS / f"{NAME}.json").write_text(json.dumps(model_config(width, image_px), indent=2) + "\n")
    halves = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    path = MODELS / f"{NAME}.safetensors"
    save_file(halves, path)
    path.chmod(0o644)


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Exponential moving average of weights and of batch normalisation's statistics."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def matching_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Image to text cross-entropy plus text to image with every image of the text's class as a positive."""
    to_text = functional.cross_entropy(logits, target)
    positive = functional.one_hot(target, logits.shape[1]).T.to(logits.dtype)
    present = positive.sum(1) > 0
    log_image = functional.log_softmax(logits.T[present], dim=1)
    to_image = -(positive[present] * log_image).sum(1) / positive[present].sum(1)
    return to_text + 0.5 * to_image.mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--image-px", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.2)
    parser.add_argument("--per-country", type=int, default=300)
    parser.add_argument("--min-crop", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--validate-every", type=int, default=300, help="steps between measurements on validation cells"
    )
    parser.add_argument("--dry-run", action="store_true", help="measure only, leave the model that ships alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    torch.set_flush_denormal(True)
    generator = torch.Generator().manual_seed(options.seed)

    start = time.perf_counter()
    parts = demo_cells()
    points, owner = sample(options.per_country, options.seed, parts.encoder)
    train = cut(points, owner, options.image_px)
    known = torch.unique(train.country)
    validation = cut(*sample(100, options.seed, parts.validation), options.image_px)
    print(
        f"{len(points)} places, {len(train.images)} patches, {len(known)} countries, {time.perf_counter() - start:.0f} s",
        flush=True,
    )

    countries = {country.name: country for country in country_table()}
    labels = [shape.label for shape in country_shapes()]
    names = [labels[index] for index in known]
    regions = sorted({countries[name].region for name in names})
    continents = sorted({countries[name].continent for name in names})
    country_of = torch.full((len(labels),), -1, dtype=torch.long)
    country_of[known] = torch.arange(len(known))
    region_of = torch.tensor([regions.index(countries[name].region) for name in names])
    continent_of = torch.tensor([continents.index(countries[name].continent) for name in names])

    config_file = Path(tempfile.mkdtemp()) / f"{NAME}-training.json"
    config_file.write_text(json.dumps(model_config(options.width, options.image_px)))
    open_clip.add_model_config(config_file)
    model = open_clip.create_model(config_file.stem)
    tokenizer = open_clip.get_tokenizer(config_file.stem)
    average = copy.deepcopy(model)
    model = model.to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=options.learning_rate,
        betas=(0.9, 0.98),
    )

    def rate(step: int) -> float:
        warm = 0.05 * options.steps
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / options.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    # Countries are drawn by the square root of their patches: small ones count, large ones vary.
    counts = torch.bincount(train.country, minlength=len(labels)).float()
    weights = 1.0 / counts[train.country].sqrt()
    rng = np.random.default_rng(options.seed)

    def pick(templates: tuple[str, ...], subjects: list[str]) -> list[str]:
        return [templates[rng.integers(len(templates))].format(subject) for subject in subjects]

    # Without the instructions bfloat16 is emulated, many times slower than float32.
    fast_bfloat16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    best_score, best_step = 0.0, 0
    model.train()
    start = time.perf_counter()
    for step in range(options.steps):
        rows = torch.multinomial(weights, options.batch, generator=generator)
        country = country_of[train.country[rows]]
        with_source = step % 4 == 0
        texts = pick(TEMPLATES, names) + pick(GROUP_TEMPLATES, regions) + pick(GROUP_TEMPLATES, continents)
        if with_source:
            # Only the batch's own pairs of source and country: the text tower costs as much as the image tower.
            pairs, pair_of = torch.unique(train.source[rows] * len(names) + country, return_inverse=True)
            for source, index in zip((pairs // len(names)).tolist(), (pairs % len(names)).tolist(), strict=True):
                texts += pick(SOURCE_TEMPLATES[WORLD_MAPS[source].source], [names[index]])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast_bfloat16):
            views = augmented(train.images[rows], generator, options.min_crop)
            image = model.encode_image(views.to(memory_format=torch.channels_last), normalize=True)
            text = model.encode_text(tokenizer(texts), normalize=True)
        logits = model.logit_scale.exp() * image.float() @ text.float().T
        by_country, by_region, by_continent, by_source = logits.split(
            [len(names), len(regions), len(continents), logits.shape[1] - len(names) - len(regions) - len(continents)],
            dim=1,
        )
        loss = matching_loss(by_country, country)
        loss = loss + 0.5 * matching_loss(by_region, region_of[country])
        loss = loss + 0.25 * matching_loss(by_continent, continent_of[country])
        if with_source:
            loss = loss + 0.5 * matching_loss(by_source, pair_of)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        update_average(average, model, min(0.998, (1 + step) / (10 + step)))
        if (step + 1) % options.validate_every == 0 or step == options.steps - 1:
            average.eval()
            score = report(average, tokenizer, validation, country_of, names, regions, region_of)
            print(f"step {step} validation score {score:.4f}", flush=True)
            if score > best_score:
                best_score, best_step = score, step
                if not options.dry_run:
                    save(average, options.width, options.image_px)
        if step % 100 == 0 or step == options.steps - 1:
            done = (step + 1) * options.batch / (time.perf_counter() - start)
            print(f"step {step} loss {loss.item():.3f} {done:.0f} images/s", flush=True)

    print(f"kept: step {best_step}, score {best_score:.4f}")


@torch.inference_mode()
def report(
    model: torch.nn.Module,
    tokenizer: object,
    patches: Patches,
    country_of: Tensor,
    names: list[str],
    regions: list[str],
    region_of: Tensor,
) -> float:
    """Zero-shot accuracy on validation patches whose country was trained on; the mean top-5 accuracy is the score."""
    scores_of_source = []
    image = torch.cat(
        [model.encode_image(normalised(part.float() / 255), normalize=True) for part in patches.images.split(512)]
    )
    target = country_of[patches.country]
    for source, world_map in enumerate(WORLD_MAPS):
        for template in TEMPLATES[:2]:
            chosen = (patches.source == source) & (target >= 0)
            scores = image[chosen] @ model.encode_text(tokenizer([template.format(n) for n in names]), normalize=True).T
            ranked = scores.argsort(1, descending=True)
            hit = ranked == target[chosen][:, None]
            region = (region_of[ranked[:, 0]] == region_of[target[chosen]]).float().mean()
            named = (
                image[chosen] @ model.encode_text(tokenizer([template.format(r) for r in regions]), normalize=True).T
            )
            by_name = (named.argmax(1) == region_of[target[chosen]]).float().mean()
            scores_of_source.append(hit[:, :5].any(1).float().mean().item())
            print(
                f"{world_map.source:10s} {template:34s} n {int(chosen.sum())} top1 {hit[:, 0].float().mean():.3f} "
                f"top5 {hit[:, :5].any(1).float().mean():.3f} region via country {region:.3f} by name {by_name:.3f}",
                flush=True,
            )
    return float(np.mean(scores_of_source))


if __name__ == "__main__":
    main()
