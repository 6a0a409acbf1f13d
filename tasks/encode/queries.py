"""The vectors of queries, made by the encoder of a table of embeddings; a text needs no torch where the encoder is a plain CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import PlaceprintError
from storage.vectors import Vectors
from tasks.encode.precision import has_native_bfloat16, n_gpus
from tasks.encode.text_tower import TextTower
from tasks.encode.weights import EncoderSettings, find_weights

if TYPE_CHECKING:
    from tasks.encode.encoder import Encoder


class QueryEncoder:
    """Texts and images in, vectors of the table's encoder out; what was loaded stays.

    Parameters
    ----------
    notes
        Of the table's manifest: ``settings``, ``identity`` and ``encoder``.
    device
        Where images are encoded, and the texts of encoders that are no plain CLIP.

    Raises
    ------
    PlaceprintError
        When the encoder is not here, or is another one by now.
    """

    def __init__(self, notes: Mapping[str, Any], device: str = "auto") -> None:
        if "settings" not in notes:
            raise PlaceprintError("search: these embeddings were made by an earlier placeprint: encode again")
        # In float32, which every machine has: the precision of the table counts for images alone.
        settings = EncoderSettings(**{**notes["settings"], "precision": "float32", "device": device})
        self._weights = find_weights(settings)
        of_table = str(notes["identity"]["precision"])
        here = f"{self._weights.model}@{replace(self._weights.identity, precision=of_table).digest}"
        if here != notes["encoder"]:
            raise PlaceprintError(
                f"search: the embeddings were made by {notes['encoder']}, here is {here}: encode again, or bring those weights"
            )
        # Of the images as the table's, so that an image finds itself with a cosine of 1; elsewhere as near as may be.
        on_cpu = device == "cpu" or (device == "auto" and not n_gpus())
        can = not on_cpu or of_table == "float32" or (of_table == "bfloat16" and has_native_bfloat16())
        self._settings = settings.model_copy(update={"precision": of_table if can else "float32"})

    def text(self, text: str) -> Vectors:
        """The vector of a text, (1, d) float32, L2-normalised."""
        if self._tower is not None:
            return self._tower.encode([text])
        return self._encoder.encode_texts([text])

    def image(self, path: Path) -> Vectors:
        """The vector of an image file, (1, d) float32, L2-normalised; made with open_clip's own transform."""
        return self._encoder.encode_images([path], batch_size=1)

    def n_cut(self, text: str) -> tuple[int, int] | None:
        """How many tokens a text has and how many the encoder reads, where it has more; else None."""
        if self._tower is not None:
            n, limit = self._tower.tokenizer.count(text), self._tower.context_length
        else:
            n, limit = self._encoder.n_tokens(text), self._encoder.context_length
        return (n, limit) if n > limit else None

    @cached_property
    def _tower(self) -> TextTower | None:
        identity = self._weights.identity
        if not identity.tokenizer.startswith("SimpleTokenizer"):
            return None
        return TextTower.load(identity.model_config, self._weights.file, quick_gelu=identity.quick_gelu)

    @cached_property
    def _encoder(self) -> Encoder:
        from tasks.encode.encoder import load_encoder

        return load_encoder(self._settings)
