"""The state of a training as a safetensors file, so that a killed one goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor


class Checkpoint:
    """The state of a training as one safetensors file, read and written as bytes through the two functions given.

    A state is taken up only where everything that it follows from is the same: settings, members, images.

    Parameters
    ----------
    read
        Gives the file; None where there is none.
    write
        Takes the file, and how many epochs it has behind it.
    """

    def __init__(self, read: Callable[[], bytes | None], write: Callable[[bytes, int], None]) -> None:
        self._read = read
        self._write = write

    def keep(self, origin: Mapping[str, Any], epochs: int, state: Mapping[str, Tensor]) -> None:
        """Write the state after so many epochs, and all that it follows from."""
        tensors = {name: each.detach().cpu().contiguous() for name, each in state.items()}
        self._write(bytes_of(tensors, metadata={"placeprint": json.dumps({**origin, "epochs": epochs})}), epochs)

    def restore(self, origin: Mapping[str, Any], state: Mapping[str, Tensor]) -> int:
        """Take up the state that is there; returns the epochs that it has behind it, 0 where there is none of this origin."""
        content = self._read()
        if content is None:
            return 0
        try:
            found, note = tensors_and_metadata(content)
        except ValueError:
            return 0  # the training starts again
        epochs = note.pop("epochs", 0)
        if note != origin or found.keys() != state.keys():
            return 0
        for name, each in state.items():
            each.copy_(found[name])
        return int(epochs)


def tensors_and_metadata(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and the JSON under ``placeprint`` of a safetensors file.

    Raises
    ------
    ValueError
        When it is damaged, or of another make.
    """
    try:
        tensors = tensors_of(content)
        head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return tensors, dict(json.loads(head["__metadata__"]["placeprint"]))
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"not written by placeprint, or damaged: {error}") from error
