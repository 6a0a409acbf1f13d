"""Every table of the store, as a pyarrow schema with units in the field metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pyarrow as pa


class RejectReason(StrEnum):
    """Why an input was refused."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_BYTES = "too_many_bytes"
    UNREADABLE = "unreadable"
    BAD_METADATA = "bad_metadata"
    EXACT_DUPLICATE = "exact_duplicate"
    DELETED_LABEL = "deleted_label"
    UNSAFE_NAME = "unsafe_name"
    # What services do.
    UNREACHABLE = "unreachable"
    NOT_FOUND = "not_found"
    REFUSED_BY_SERVICE = "refused_by_service"
    BAD_ANSWER = "bad_answer"
    WRONG_CHECKSUM = "wrong_checksum"
    FORBIDDEN_ADDRESS = "forbidden_address"
    # What aerial scenes may be.
    OUTSIDE_COUNTRY = "outside_country"
    OUT_OF_SCALE = "out_of_scale"
    LITTLE_CONTENT = "little_content"
    NOT_CHOSEN = "not_chosen"


class Part(StrEnum):
    """Part of a split."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ZERO_SHOT = "zero_shot"
    BUFFER = "buffer"
    UNUSED = "unused"
    REFERENCE = "reference"


def _field(name: str, type_: pa.DataType, *, nullable: bool = False, **metadata: str) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata=metadata or None)


IMAGES = pa.schema(
    [
        _field("image_id", pa.string(), description="blake2b-128 of the file's bytes, hex"),
        _field("source", pa.string(), description="collection the image belongs to"),
        _field("path", pa.string(), description="where the source has it"),
        _field("file", pa.string(), description="where the store has it, relative to the root"),
        _field("label", pa.string(), nullable=True),
        _field("latitude", pa.float64(), nullable=True, unit="degree"),
        _field("longitude", pa.float64(), nullable=True, unit="degree"),
        _field("captured_at", pa.timestamp("us", tz="UTC"), nullable=True),
        _field("width", pa.int32(), unit="pixel", description="after EXIF rotation"),
        _field("height", pa.int32(), unit="pixel", description="after EXIF rotation"),
        _field("bytes", pa.int64(), unit="byte"),
        _field("licence", pa.string(), nullable=True),
        _field("attribution", pa.string(), nullable=True),
        _field("url", pa.string(), nullable=True),
        _field("checksum", pa.string(), nullable=True, description="as the source gave it"),
        _field("planted_copy_of", pa.string(), nullable=True, description="image_id of the original, for tests only"),
        _field("metadata", pa.string(), nullable=True, description="what else the source knows of it, a JSON object"),
    ]
)

# What a source lists, before anything is fetched.
LISTING = pa.schema(
    [
        _field("path", pa.string()),
        _field("label", pa.string(), nullable=True),
        _field("latitude", pa.float64(), nullable=True, unit="degree"),
        _field("longitude", pa.float64(), nullable=True, unit="degree"),
        _field("captured_at", pa.timestamp("us", tz="UTC"), nullable=True),
        _field("licence", pa.string(), nullable=True),
        _field("attribution", pa.string(), nullable=True),
        _field("url", pa.string(), nullable=True),
        _field("checksum", pa.string(), nullable=True),
        _field("bytes", pa.int64(), nullable=True, unit="byte", description="as the source says"),
        _field("planted_copy_of", pa.string(), nullable=True),
        _field("metadata", pa.string(), nullable=True),
        _field("problem", pa.string(), nullable=True, description="why it is refused without being fetched"),
        _field("reason", pa.string(), description="a RejectReason, of the problem"),
    ]
)

REJECTS = pa.schema(
    [
        _field("source", pa.string()),
        _field("path", pa.string(), description="path or url of the input"),
        _field("reason", pa.string(), description="a RejectReason"),
        _field("detail", pa.string(), nullable=True),
    ]
)

# Images that have no row in `embeddings`.
EMBEDDING_REJECTS = pa.schema(
    [
        _field("image_id", pa.string()),
        _field("reason", pa.string(), description="a RejectReason"),
        _field("detail", pa.string()),
    ]
)

PAIRS = pa.schema(
    [
        _field("image_id_a", pa.string(), description="the smaller of the two"),
        _field("image_id_b", pa.string()),
        _field("cosine", pa.float32()),
        _field(
            "probability",
            pa.float64(),
            nullable=True,
            description="P(duplicate) of this cosine under the fitted model; null without one",
        ),
        _field("is_duplicate", pa.bool_(), nullable=True, description="null where nobody has labelled the pair"),
        _field("labelled_by", pa.string(), nullable=True, description="a person, a file, or `synthetic`"),
        _field(
            "edit",
            pa.string(),
            nullable=True,
            description="synthetic: how one of the two was made of the other; it is no image of the store",
        ),
        _field("near", pa.string(), nullable=True, description="the threshold that the cosine is very near to"),
    ]
)

DUPLICATES = pa.schema(
    [
        _field("group_id", pa.int64(), description="from 0, in the order of the images"),
        _field("image_id", pa.string()),
        _field("kept", pa.bool_(), description="one of each group"),
        _field(
            "certainty", pa.string(), description="certain or suspected: that it is a copy of the kept one, or has one"
        ),
        _field("cosine_to_kept", pa.float32(), nullable=True, description="null for the kept one"),
        _field("chain", pa.bool_(), description="two images of the group are less similar than the threshold"),
        _field("across_sources", pa.bool_(), description="the group's images are of more than one collection"),
        _field("across_labels", pa.bool_(), description="the group's images have more than one label"),
        _field(
            "labels", pa.list_(pa.string()), description="of the image; of a kept one also those of its certain copies"
        ),
        _field("label_conflict", pa.bool_(), description="of a kept one: these are more than one"),
    ]
)

SPLITS = pa.schema(
    [
        _field("split", pa.string()),
        _field("image_id", pa.string()),
        _field("part", pa.string(), description="a Part"),
        _field("fold", pa.int32(), nullable=True),
        _field("stratum", pa.string(), description="the class that was kept in proportion"),
        _field(
            "observed", pa.string(), nullable=True, description="of a training image's labels, the one that is seen"
        ),
    ]
)

PREDICTIONS = pa.schema(
    [
        _field("experiment", pa.string()),
        _field("split", pa.string()),
        _field("head", pa.string()),
        _field("configuration", pa.string()),
        _field("seed", pa.int64(), nullable=True),
        _field("image_id", pa.string()),
        _field("label_true", pa.string()),
        _field("label_pred", pa.string()),
        _field(
            "scores",
            pa.list_(pa.float32()),
            description="one a class, in the order of the manifest's `classes`; empty where the step keeps none",
        ),
    ]
)

METRICS = pa.schema(
    [
        _field("experiment", pa.string()),
        _field("head", pa.string()),
        _field("configuration", pa.string()),
        _field("seed", pa.int64(), nullable=True),
        _field("split", pa.string()),
        _field("part", pa.string()),
        _field("source", pa.string(), description="a collection, or `all`"),
        _field("metric", pa.string()),
        _field("value", pa.float64()),
        _field("lower", pa.float64(), nullable=True, description="95 % interval, whole places resampled"),
        _field("upper", pa.float64(), nullable=True, description="95 % interval, whole places resampled"),
        _field("lower_image", pa.float64(), nullable=True, description="95 % interval, images resampled one by one"),
        _field("upper_image", pa.float64(), nullable=True, description="95 % interval, images resampled one by one"),
        _field("n", pa.int64(), unit="image"),
        _field("fold", pa.int32(), nullable=True, description="of the partition that `seed` draws"),
    ]
)

# How each class, and each region, was judged.
CLASS_METRICS = pa.schema(
    [
        *(METRICS.field(name) for name in ("experiment", "head", "configuration", "seed", "split", "part", "source")),
        _field("level", pa.string(), description="label or region"),
        _field("name", pa.string(), description="of the class, or the region"),
        _field("n_true", pa.int64(), unit="image"),
        _field("n_predicted", pa.int64(), unit="image"),
        _field("tp", pa.int64(), unit="image"),
        _field("atp", pa.int64(), unit="image", description="wrong, but within the right region"),
        _field("precision", pa.float64()),
        _field("recall", pa.float64(), description="of a region: its accuracy"),
        _field("f1", pa.float64()),
    ]
)

# Losses of a training, segment by segment.
TRAINING = pa.schema(
    [
        *(METRICS.field(name) for name in ("experiment", "head", "configuration", "seed", "split")),
        _field("epoch", pa.int32(), description="from 0"),
        _field("segment", pa.int32(), description="from 0; the fold that is left out"),
        _field("class_training", pa.float64(), description="mean CE of the class over the segment's images"),
        _field("region_training", pa.float64(), description="mean CE of the region"),
        _field("class_validation", pa.float64(), description="on the fold that is left out"),
        _field("region_validation", pa.float64()),
    ]
)

TESTS = pa.schema(
    [
        _field("hypothesis", pa.string()),
        _field("scope", pa.string(), description="columns that both groups share, a JSON object"),
        _field("a", pa.string(), description="columns of the group that is claimed to be greater, a JSON object"),
        _field("b", pa.string(), description="columns of the other, a JSON object"),
        _field("test", pa.string()),
        _field("alternative", pa.string()),
        *(_field(name, pa.float64(), nullable=True) for name in ("statistic", "df", "pvalue", "effect_size")),
        *(_field(name, pa.int64(), nullable=True) for name in ("n_a", "n_b")),
        *(_field(name, pa.float64(), nullable=True) for name in ("mean_a", "sd_a", "mean_b", "sd_b")),
        _field("apa", pa.string(), nullable=True),
        _field(
            "pvalue_holm", pa.float64(), nullable=True, description="corrected for the comparisons of the hypothesis"
        ),
        _field(
            "aso", pa.float64(), nullable=True, description="almost stochastic order, a over b: below 0.5 is dominance"
        ),
        _field("outcome", pa.string(), description="supports, contradicts, neither, or untestable"),
        _field("outcome_holm", pa.string(), description="by the corrected p-value"),
        _field("note", pa.string(), description="why it is untestable"),
    ]
)

VERDICTS = pa.schema(
    [
        _field("hypothesis", pa.string()),
        _field("claim", pa.string()),
        _field("verdict", pa.string(), description="accepted, rejected, or not supported"),
        _field("verdict_holm", pa.string(), description="by corrected p-values"),
        *(_field(name, pa.int64()) for name in ("supports", "contradicts", "neither", "untestable")),
        _field("accepted_if", pa.string(), description="all or any comparisons support it"),
        _field("alpha", pa.float64()),
    ]
)


# Keys of the metadata by which a file of embeddings says what it is.
ENCODER_ID = b"placeprint.encoder_id"
ENCODER = b"placeprint.encoder"


def embedding_metadata(
    encoder_id: str,
    encoder: Mapping[str, Any],
    dimension: int,
    dtype: str,
    fingerprint: str,
    images: str,
    placeprint: str,
) -> dict[bytes, bytes]:
    """What a file of embeddings says of itself, so that a copy of it explains itself.

    Parameters
    ----------
    encoder_id, encoder
        The id, and the identity in full.
    dimension, dtype
        Of the vectors.
    fingerprint, images
        Of the version that the file is part of, and of the images that were encoded.
    placeprint
        The version of placeprint that wrote it.
    """
    return {
        ENCODER_ID: encoder_id.encode(),
        ENCODER: json.dumps(encoder, sort_keys=True).encode(),
        b"placeprint.dimension": str(dimension).encode(),
        b"placeprint.dtype": dtype.encode(),
        b"placeprint.normalised": b"true",
        b"placeprint.metric": b"cosine (the inner product of normalised vectors)",
        b"placeprint.fingerprint": fingerprint.encode(),
        b"placeprint.images": images.encode(),
        b"placeprint.version": placeprint.encode(),
    }


def embedding_type(dimension: int, dtype: str) -> pa.DataType:
    """Fixed-size list of float16 or float32."""
    return pa.list_(
        pa.field("element", {"float16": pa.float16(), "float32": pa.float32()}[dtype], nullable=False), dimension
    )


def embeddings(dimension: int, dtype: str = "float32", n_features: int | None = None) -> pa.Schema:
    """Image embeddings; `features` is the encoder's output before its projection, where it was kept."""
    fields = [
        _field("image_id", pa.string()),
        _field("embedding", embedding_type(dimension, dtype), description="L2-normalised"),
    ]
    if n_features is not None:
        fields.append(_field("features", embedding_type(n_features, dtype)))
    return pa.schema(fields)


def prompts(dimension: int, dtype: str = "float32") -> pa.Schema:
    """Text embeddings of the class prompts."""
    return pa.schema(
        [
            _field("prompt", pa.string()),
            _field("template", pa.string()),
            _field("label", pa.string()),
            _field("embedding", embedding_type(dimension, dtype), description="L2-normalised"),
        ]
    )
