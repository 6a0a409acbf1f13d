"""What open_clip knows of its models and tags, without loading it.

Importing open_clip loads torchvision, timm and torch's compiler: five seconds of CPU, for tables of names. Its table of tags and
what downloads their weights are one module, which is loaded here under a name of its own; its model configs are JSON files.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from storage.errors import PlaceprintError

_ALIAS = "tasks.encode._open_clip"
_HEAVY = "safetensors.torch"


@cache
def open_clip_folder() -> Path:
    """Where open_clip is installed."""
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise PlaceprintError("open_clip is not installed: pip install open_clip_torch")
    return Path(spec.submodule_search_locations[0])


@cache
def list_models() -> tuple[str, ...]:
    """Names of open_clip's models, sorted."""
    return tuple(sorted(path.stem for path in (open_clip_folder() / "model_configs").glob("*.json")))


def list_pretrained() -> list[tuple[str, str]]:
    """Every (model, tag) of open_clip."""
    return [(str(model), str(tag)) for model, tag in _pretrained().list_pretrained()]


def model_config(model: str) -> dict[str, Any]:
    """open_clip's config of a model: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and so on.

    Raises
    ------
    PlaceprintError
        When open_clip has no such model.
    """
    # As open_clip reads names: the original ones of CLIP have a slash.
    name = model.replace("/", "-")
    if name not in list_models():
        near = get_close_matches(name, list_models(), n=2, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise PlaceprintError(f"encode.encoder.model: open_clip knows no {model!r}{hint}")
    config: dict[str, Any] = json.loads((open_clip_folder() / "model_configs" / f"{name}.json").read_bytes())
    return config


def tag_config(model: str, tag: str) -> dict[str, Any]:
    """What open_clip says of a tag: ``mean``, ``std``, ``interpolation``, ``resize_mode``, perhaps ``quick_gelu``, and where its weights are.

    Raises
    ------
    PlaceprintError
        When open_clip has no such model, or the model no such tag.
    """
    model_config(model)
    name = model.replace("/", "-")
    found: dict[str, Any] = _pretrained().get_pretrained_cfg(name, tag)
    if not found:
        tags = ", ".join(_pretrained().list_pretrained_tags_by_model(name)) or "none: give a checkpoint file"
        raise PlaceprintError(f"encode.encoder.pretrained: {model} has no weights {tag!r}; it has {tags}")
    return found


def download_tag(model: str, tag: str) -> Path:
    """The file of a tag's weights, downloaded unless it is cached.

    Raises
    ------
    PlaceprintError
        When it is not here and cannot be had.
    """
    config = tag_config(model, tag)
    repository, _, file = str(config.get("hf_hub", "")).rpartition("/")
    if repository:
        return _from_hub(repository, file or None, f"{model}/{tag}")
    return _downloaded(lambda: _pretrained().download_pretrained(config), f"{model}/{tag}")


def download_hub_weights(repository: str) -> Path:
    """The weights of a repository in open_clip's layout, downloaded unless they are cached; raises as `download_tag` does."""
    return _from_hub(repository, None, f"hf-hub:{repository}")


def download_hub_file(repository: str, file: str) -> Path | None:
    """A file of a repository, downloaded unless it is cached; None where the repository has none of that name.

    Raises
    ------
    PlaceprintError
        When there is no such repository, or no network.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    known = _cached(repository, file)
    if known is not None:
        return known
    name = f"hf-hub:{repository}"
    _see_hub(name)
    try:
        # Which revision is the user's choice of a name; the hash of what came is in the encoder's id.
        return Path(hf_hub_download(repository, file))  # nosec B615
    except LocalEntryNotFoundError as error:
        raise _not_here(name, error) from error
    except EntryNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_here(name, error) from error


def _from_hub(repository: str, file: str | None, name: str) -> Path:
    module = _pretrained()
    wanted = file or module.HF_WEIGHTS_NAME
    # What open_clip looks for first: then nobody need be asked.
    known = _cached(repository, next(iter(module._get_safe_alternatives(wanted)), wanted))
    if known is not None:
        return known
    _see_hub(name)
    return _downloaded(lambda: module.download_pretrained_from_hf(repository, filename=file), name)


def _cached(repository: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def _see_hub(name: str) -> None:
    """Ask the hub for a sign of life: its client would repeat each question for half a minute."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        httpx.head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except httpx.HTTPError as error:
        raise _not_here(name, error) from error


def _downloaded(download: Callable[[], str], name: str) -> Path:
    try:
        return Path(download())
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_here(name, error) from error


def _not_here(name: str, error: Exception) -> PlaceprintError:
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    return PlaceprintError(f"encode.encoder: the files of {name} are not here and could not be downloaded: {cause}")


@cache
def _pretrained() -> Any:
    """The module ``open_clip.pretrained``: the one that is loaded, or a copy of its own beside no other part of open_clip."""
    if "open_clip" in sys.modules:
        return importlib.import_module("open_clip.pretrained")
    package = ModuleType(_ALIAS)
    package.__path__ = [str(open_clip_folder())]
    hidden = _HEAVY not in sys.modules
    sys.modules[_ALIAS] = package
    if hidden:
        # The module only asks whether this one can be imported, which would load torch.
        sys.modules[_HEAVY] = None  # type: ignore[assignment]
    try:
        module = importlib.import_module(f"{_ALIAS}.pretrained")
    finally:
        if hidden:
            del sys.modules[_HEAVY]
    vars(module)["_has_safetensors"] = True
    return module
