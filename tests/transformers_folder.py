"""A CLIP with random weights, as the library transformers saves it; and its tokenizer, without a download."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

TEXT = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
PROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """transformers' own, made of the vocabulary that open_clip brings: its last two tokens are named differently there."""
    simple = open_clip.tokenizer.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return CLIPTokenizer(
        vocab={names.get(token, token): number for token, number in simple.encoder.items()},
        merges=sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__),
        model_max_length=77,
    )


def save_small_clip(
    folder: Path,
    *,
    form: str = "safetensors",
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    processor: Mapping[str, Any] | None = None,
    **changes: Any,
) -> CLIPModel:
    """A CLIP with random weights, in every part, as transformers saves it with its processor.

    Parameters
    ----------
    form
        Of the weights: ``safetensors``, ``shards``, ``bin`` or ``bin shards``.
    text, vision, processor, changes
        What differs from `TEXT`, `VISION`, `PROCESSOR`, and in ``config.json`` itself.
    """
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=TEXT | dict(text or {}),
        vision_config=VISION | dict(vision or {}),
        **{"projection_dim": 48} | changes,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        # Biases and norms, too: they start as zeros and ones, of which one is like the other.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder, max_shard_size="4MB" if "shards" in form else "1GB")
    CLIPProcessor(CLIPImageProcessor(**PROCESSOR | dict(processor or {})), clip_tokenizer()).save_pretrained(folder)
    if form.startswith("bin"):
        _as_pickles(folder)
    return model


def _as_pickles(folder: Path) -> None:
    """transformers 5 writes no more of them; older versions did, with the buffers that it has left out since."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if "logit_scale" in tensors:
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
            tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        torch.save(tensors, folder / f"pytorch_{path.stem}.bin")
        path.unlink()
    for path in folder.glob("*.index.json"):
        content = path.read_text().replace('"model-', '"pytorch_model-').replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(content)
        path.unlink()
