"""Where the weights of an encoder lie, and its id, without loading it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from storage.errors import PlaceprintError
from tasks.encode import registry
from tasks.encode.description import (
    FOLDER,
    HUB,
    Described,
    demo_folder,
    describe_encoder,
    is_checkpoint,
    read_json,
)
from tasks.encode.encoder_settings import DEMO_MODEL, EncoderSettings
from tasks.encode.identity import needs_transformers
from tasks.encode.transformers_clip import WEIGHTS, weight_files

__all__ = ["DEMO_MODEL", "EncoderSettings", "Weights", "find_weights"]


@dataclass(frozen=True)
class Weights(Described):
    """An encoder whose weights are on this machine.

    Parameters
    ----------
    pretrained
        What open_clip is given beside the name: a tag or the path of a checkpoint; None where the name says it all.
    files
        All files of the weights.
    """

    pretrained: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def file(self) -> Path:
        """The checkpoint, or the first of its files."""
        return self.files[0]

    @property
    def encoder_id(self) -> str:
        """``<model>@<12 hex digits of its identity>``: weights, architecture, activation, preprocessing, tokenizer, precision."""
        return f"{self.model}@{self.identity.digest}"


def find_weights(settings: EncoderSettings) -> Weights:
    """Locate the weights; those of a tag or a hub name are downloaded unless they are cached.

    Raises
    ------
    PlaceprintError
        When the model is unknown, a library that it needs is missing, or its weights are: never random weights.
    """
    described = describe_encoder(settings)
    if described.transformers is None:
        _see_transformers(described)
    pretrained, files = _found(settings, described)
    identity = replace(described.identity, weights=_content_hash(files))
    return Weights(**{**vars(described), "identity": identity}, pretrained=pretrained, files=files)


def _found(settings: EncoderSettings, described: Described) -> tuple[str | None, tuple[Path, ...]]:
    """What open_clip is given beside the name, and all files of the weights."""
    if described.transformers is not None:
        if settings.model.startswith(HUB):
            return None, _download_transformers(settings.model.removeprefix(HUB))
        return None, weight_files(described.transformers)
    if described.name.startswith(HUB):
        return None, (registry.download_hub_weights(described.name.removeprefix(HUB)),)
    if described.name.startswith(FOLDER):
        return None, (_checkpoint_in(Path(described.name.removeprefix(FOLDER))),)
    if settings.pretrained is None:
        checkpoint = demo_folder() / f"{DEMO_MODEL}.safetensors"
    elif described.config is not None or is_checkpoint(settings.pretrained):
        checkpoint = Path(settings.pretrained).expanduser()
    else:
        return settings.pretrained, (registry.download_tag(settings.model, settings.pretrained),)
    return str(checkpoint), (checkpoint,)


def _download_transformers(repository: str) -> tuple[Path, ...]:
    """The weights of a repository in the layout of `transformers`: the first of its names that is there, and its shards."""
    for name in WEIGHTS:
        found = registry.download_hub_file(repository, name)
        if found is not None:
            if name.endswith(".index.json"):
                for shard in sorted(set(read_json(found)["weight_map"].values())):
                    registry.download_hub_file(repository, shard)
            return weight_files(found.parent)
    raise PlaceprintError(f"encode.encoder.model: {HUB}{repository} holds no weights ({', '.join(WEIGHTS)})")


def _checkpoint_in(folder: Path) -> Path:
    """The file that open_clip takes from a folder."""
    preferred = (
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
        "open_clip_pytorch_model.pth",
        "model.safetensors",
        "pytorch_model.bin",
        "pytorch_model.pth",
        "model.pth",
    )
    there = [folder / name for name in preferred if (folder / name).is_file()]
    if not there:
        there = [path for suffix in ("safetensors", "bin", "pth") for path in sorted(folder.glob(f"*.{suffix}"))]
    if not there:
        raise PlaceprintError(
            f"encode.encoder.model: {folder} holds no open_clip weights (open_clip_model.safetensors)"
        )
    return there[0]


def _see_transformers(described: Described) -> None:
    identity = described.identity
    if needs_transformers(identity.model_config, identity.tokenizer) and find_spec("transformers") is None:
        what = "tokenizer" if not identity.tokenizer.startswith("SimpleTokenizer") else "text side"
        raise PlaceprintError(
            f"encode.encoder: the {what} of {described.model} needs the extra `transformers`: pip install 'placeprint[transformers]'"
        )


def _content_hash(paths: Sequence[Path]) -> str:
    """sha256 of a checkpoint, hex; of several files that of their hashes."""
    hashes = [_sha256(path, path.stat().st_mtime_ns) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@lru_cache(maxsize=8)
def _sha256(path: Path, _changed_at: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
