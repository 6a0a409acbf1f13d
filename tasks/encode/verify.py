"""Whether our vectors are those of the reference: open_clip's own model, transform and tokenizer, called its own way, in float32."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image

from storage.errors import PlaceprintError
from storage.store import Store, TableVersion
from storage.vectors import Vectors
from tasks.collect.steps import unique_images
from tasks.encode.compute import encode_pictures
from tasks.encode.encoder import devices, load_encoder, load_reference
from tasks.encode.lean_open_clip import open_clip
from tasks.encode.loader import Picture
from tasks.encode.pixels import middle_window
from tasks.encode.settings import EncodeSettings, fill
from tasks.encode.shard_maker import picture_loader
from tasks.encode.weights import find_weights
from tasks.images import decode_rgb
from tasks.labels.label_set import load_label_set

# Below the first nothing is encoded; below the second there is a warning. docs/encode.md has what is usual.
REFUSED_BELOW = 0.999
WARNED_BELOW = 0.9999
_REFERENCE_BATCH = 16


@dataclass(frozen=True)
class Verification:
    """Cosines between the reference's vectors and ours.

    Parameters
    ----------
    images, least, median
        Images that were compared, and their least and median cosine.
    prompts, least_prompt, median_prompt
        Likewise of the prompts.
    decoded_otherwise, least_otherwise
        Images that are decoded in another way than Pillow's ``convert("RGB")`` on purpose (transparency, 16 bits, rotation), and
        their least cosine, for information: they are no part of the others.
    """

    encoder: str
    images: int
    least: float
    median: float
    prompts: int
    least_prompt: float
    median_prompt: float
    decoded_otherwise: int
    least_otherwise: float

    def __str__(self) -> str:
        text = (
            f"{self.images} images, cosine at least {self.least:.6f}, median {self.median:.6f}; "
            f"{self.prompts} prompts, at least {self.least_prompt:.6f}, median {self.median_prompt:.6f}"
        )
        if self.decoded_otherwise:
            text += (
                f"; {self.decoded_otherwise} images decoded otherwise on purpose, at least {self.least_otherwise:.6f}"
            )
        return text

    @property
    def lowest(self) -> float:
        """Of images and prompts that should be the same; 1 where there are none."""
        return float(np.nanmin([self.least, self.least_prompt, 1.0]))

    @property
    def warnings(self) -> list[str]:
        """What a user should know, though it is no reason to stop."""
        if REFUSED_BELOW <= self.lowest < WARNED_BELOW:
            return [
                f"encode: {self.encoder} differs from the reference: cosine {self.lowest:.6f}, below {WARNED_BELOW}"
            ]
        return []

    def refuse(self) -> None:
        """Raise where our vectors are not the reference's.

        Raises
        ------
        PlaceprintError
            When a cosine is below `REFUSED_BELOW`.
        """
        if self.lowest < REFUSED_BELOW:
            raise PlaceprintError(
                f"encode: {self.encoder} is not the reference: cosine {self.lowest:.6f}, below {REFUSED_BELOW}: nothing was encoded"
                " (encode.exact or another encode.encoder.precision may help)"
            )

    def as_json(self) -> dict[str, Any]:
        """For the run's manifest; no cosine is null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def verify_encoder(store: Store, settings: EncodeSettings, images: TableVersion, labels: str) -> Verification:
    """Encode some images, drawn with a seed, and all prompts both ways: as a run does, and as the reference does.

    Parameters
    ----------
    settings
        `verify` says how many images.
    labels
        The label set of the prompts.
    """
    rows = unique_images(images, ["image_id", "file"])
    generator = np.random.default_rng(np.random.SeedSequence(0))
    n_wanted = min(settings.verify, rows.num_rows)
    chosen = np.sort(generator.choice(rows.num_rows, n_wanted, replace=False))
    paths = [store.root / file for file in rows["file"].take(pa.array(chosen)).to_pylist()]
    weights, device = find_weights(settings.encoder), devices(settings.encoder)[0]
    encoder = load_encoder(settings.encoder, device)
    encoded = encode_pictures(encoder, picture_loader(settings, encoder, device, [Picture(path) for path in paths]))
    read = [paths[row] for row in encoded.rows]
    found = [label for label in images.read(["label"])["label"].to_pylist() if label is not None]
    names = load_label_set(labels, found).names
    texts = list(dict.fromkeys(fill(template, name) for template in settings.templates for name in names))

    model, tokenize = load_reference(weights)
    cfg = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    transform = open_clip.transform.image_transform_v2(cfg, is_train=False)
    cosines, otherwise = np.empty(len(read)), np.zeros(len(read), dtype=np.bool_)
    with torch.inference_mode():
        for start in range(0, len(read), _REFERENCE_BATCH):
            data = [path.read_bytes() for path in read[start : start + _REFERENCE_BATCH]]
            pictures = [Image.open(io.BytesIO(each)) for each in data]
            for at, (each, picture) in enumerate(zip(data, pictures, strict=True), start=start):
                otherwise[at] = not np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(decode_rgb(each)[0]))
            pixels = torch.stack([transform(_bounded(each, cfg.resize_mode)) for each in pictures])
            theirs = _unit(model.encode_image(pixels))  # type: ignore[operator]
            cosines[start : start + len(data)] = (theirs * encoded.embeddings[start : start + len(data)]).sum(axis=1)
        # One by one: a reference need not be fast.
        theirs_of_texts = [_unit(model.encode_text(tokenize([text]))) for text in texts]  # type: ignore[operator]
    of_texts = (np.concatenate(theirs_of_texts) * encoder.encode_texts(texts)).sum(axis=1) if texts else np.empty(0)
    least, median = _summary(cosines[~otherwise])
    least_text, median_text = _summary(of_texts)
    return Verification(
        encoder.encoder_id,
        int((~otherwise).sum()),
        least,
        median,
        len(texts),
        least_text,
        median_text,
        int(otherwise.sum()),
        _summary(cosines[otherwise])[0],
    )


def _bounded(picture: Image.Image, resize_mode: str) -> Image.Image:
    """Of a picture that is very long the middle, which is all that is seen: the rest would take gigabytes."""
    return middle_window(picture) if resize_mode == "shortest" else picture


def _unit(vectors: torch.Tensor) -> Vectors:
    return np.asarray(torch.nn.functional.normalize(vectors.float(), dim=-1).numpy(), dtype=np.float32)


def _summary(cosines: npt.NDArray[np.floating] | Sequence[float]) -> tuple[float, float]:
    """Least and median; NaN of none."""
    values = np.asarray(cosines, dtype=np.float64)
    return (float(values.min()), float(np.median(values))) if len(values) else (float("nan"), float("nan"))
