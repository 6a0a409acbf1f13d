"""The text side of a plain CLIP without torch and open_clip, whose import costs seconds: for one query at a time.

The vectors are those of open_clip, which stays the reference. A model of any other kind is left to it.

The tokenizer cleans and splits a text with the libraries that open_clip takes for it, in the same order; the merges of
byte pairs are the work of `tokenizers`, with the vocabulary that lies beside open_clip.
"""

from __future__ import annotations

import gzip
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import ftfy
import numpy as np
import numpy.typing as npt
import regex
from safetensors import SafetensorError, safe_open
from tokenizers.models import BPE

Vectors: TypeAlias = npt.NDArray[np.float32]

_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = regex.compile(
    rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
_VOCABULARY_SIZE = 49408
_N_MERGES = _VOCABULARY_SIZE - 2 * 256 - 2

# Bytes that are a sign of their own stand for themselves, the others for signs from 256 on; the vocabulary starts in this order.
_SIGNS = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_BYTE_SIGNS = dict(zip(_SIGNS, map(chr, _SIGNS), strict=True)) | {
    byte: chr(256 + number) for number, byte in enumerate(sorted(set(range(256)) - set(_SIGNS)))
}

# Keys of a model's config with no bearing on its texts, and those of its text side with the one value that is known here.
_WITHOUT_BEARING = {"vision_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"}
_PLAIN: dict[str, Any] = {"no_causal_mask": False, "pool_type": "argmax", "proj_type": "linear", "proj_bias": False}


class Tokenizer:
    """Texts to the token ids of CLIP, as open_clip's `SimpleTokenizer` has them.

    Parameters
    ----------
    context_length
        Tokens per text, with those of its start and its end. A longer text is cut, a shorter one is filled with zeros.

    Raises
    ------
    FileNotFoundError
        When the vocabulary does not lie where open_clip has it.
    """

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length
        self._ids, self._pairs = _vocabulary()

    def __call__(self, texts: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """Token ids, (n, context_length) int64. One text alone is a list of one."""
        texts = [texts] if isinstance(texts, str) else texts
        found = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(found, texts, strict=True):
            tokens = self._tokens(text)[: self.context_length]
            # Of a text that is cut, too, the last token is its end.
            row[: len(tokens)] = [*tokens[:-1], self._ids[_END]]
        return found

    def count(self, text: str) -> int:
        """How many tokens a text has, with those of its start and its end: more than `context_length` are cut."""
        return len(self._tokens(text))

    def _tokens(self, text: str) -> list[int]:
        cleaned = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
        tokens = [self._ids[_START]]
        for word in _WORDS.findall(cleaned):
            # Typed as text, they mean what they mean.
            if word in (_START, _END):
                tokens.append(self._ids[word])
            else:
                signs = word.encode().decode("latin-1").translate(_BYTE_SIGNS)
                tokens += [token.id for token in self._pairs.tokenize(signs)]
        return [*tokens, self._ids[_END]]


@dataclass(frozen=True)
class _Shape:
    """What a config says of a text side, with open_clip's own values for what it leaves out."""

    embed_dim: int
    context_length: int = 77
    vocab_size: int = _VOCABULARY_SIZE
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Shape | None:
        """The shape, or None for a config with anything that is not known here."""
        text = config.get("text_cfg")
        known = {"embed_dim", "text_cfg", "custom_text", *_WITHOUT_BEARING}
        if not isinstance(text, Mapping) or not config.keys() <= known:
            return None
        sizes: dict[str, Any] = {"embed_dim": config.get("embed_dim")}
        for key, value in text.items():
            if key in _PLAIN:
                if value != _PLAIN[key]:
                    return None
            elif key in cls.__dataclass_fields__ and key not in sizes:
                sizes[key] = value
            else:
                return None
        ratio = sizes.pop("mlp_ratio", cls.mlp_ratio)
        if type(ratio) not in (int, float) or not all(type(size) is int and size > 0 for size in sizes.values()):
            return None
        shape = cls(**sizes, mlp_ratio=ratio)
        return shape if shape.vocab_size == _VOCABULARY_SIZE and shape.width % shape.heads == 0 else None

    def tensors(self) -> dict[str, list[int]]:
        """The shapes of all the tensors of the text side, by their names in a checkpoint."""
        width, inner = self.width, int(self.width * self.mlp_ratio)
        shapes = {
            "token_embedding.weight": [self.vocab_size, width],
            "positional_embedding": [self.context_length, width],
            "ln_final.weight": [width],
            "ln_final.bias": [width],
            "text_projection": [width, self.embed_dim],
        }
        for layer in range(self.layers):
            block = f"transformer.resblocks.{layer}."
            shapes |= {
                f"{block}ln_1.weight": [width],
                f"{block}ln_1.bias": [width],
                f"{block}attn.in_proj_weight": [3 * width, width],
                f"{block}attn.in_proj_bias": [3 * width],
                f"{block}attn.out_proj.weight": [width, width],
                f"{block}attn.out_proj.bias": [width],
                f"{block}ln_2.weight": [width],
                f"{block}ln_2.bias": [width],
                f"{block}mlp.c_fc.weight": [inner, width],
                f"{block}mlp.c_fc.bias": [inner],
                f"{block}mlp.c_proj.weight": [width, inner],
                f"{block}mlp.c_proj.bias": [width],
            }
        return shapes


class TextTower:
    """The text side of a plain CLIP, in NumPy and float32: a causal transformer that is read at a text's end.

    `load` makes one. `tokenizer` says how many tokens a text has, `context_length` how many of them are read.
    """

    def __init__(self, shape: _Shape, tensors: Mapping[str, npt.NDArray[Any]], *, quick_gelu: bool) -> None:
        self.context_length = shape.context_length
        self.dimension = shape.embed_dim
        self.tokenizer = Tokenizer(shape.context_length)
        self._shape = shape
        # The table of tokens, the largest of them, stays as it is: a text needs few of its rows.
        self._token_rows = tensors["token_embedding.weight"]
        self._tensors: dict[str, Vectors] = {
            name: tensor.astype(np.float32, copy=False)
            for name, tensor in tensors.items()
            if tensor is not self._token_rows
        }
        self._activation = _quick_gelu if quick_gelu else _gelu

    @classmethod
    def load(cls, config: Mapping[str, Any], weights: Path, *, quick_gelu: bool) -> TextTower | None:
        """Read the text side of a checkpoint, and nothing else of it.

        Parameters
        ----------
        config
            A model config of open_clip: ``embed_dim``, ``text_cfg`` and so on.
        weights
            A safetensors file with tensors of float16 or float32.
        quick_gelu
            Whether the activation is QuickGELU, whatever the config says.

        Returns
        -------
        TextTower or None
            None when the config has any key or value that is not known to make a plain CLIP, or when the file is no
            safetensors file that holds exactly what the config says. open_clip may load such a model, or say what is wrong.

        Raises
        ------
        FileNotFoundError
            When the vocabulary does not lie where open_clip has it.
        """
        shape = _Shape.of(config)
        if shape is None or weights.suffix != ".safetensors":
            return None
        try:
            with safe_open(weights, framework="numpy") as file:
                prefix = _prefix(file, shape, custom_text=bool(config.get("custom_text")))
                if prefix is None:
                    return None
                tensors = {name: file.get_tensor(prefix + name) for name in shape.tensors()}
        except (OSError, SafetensorError):
            return None
        return cls(shape, tensors, quick_gelu=quick_gelu)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Text embeddings, (n, d) float32, L2-normalised."""
        tokens = self.tokenizer(texts)
        found = np.empty((len(tokens), self.dimension), dtype=np.float32)
        # The end is the token with the highest id, and where it stands more than once, the first. None after it is looked at.
        for row, ids, end in zip(found, tokens, tokens.argmax(axis=1), strict=True):
            vector = self._last_state(ids[: end + 1]) @ self._tensors["text_projection"]
            row[:] = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return found

    def _last_state(self, ids: npt.NDArray[np.int64]) -> Vectors:
        """The last token's state after all layers, (w,), of token ids (l,)."""
        states = self._token_rows[ids].astype(np.float32) + self._tensors["positional_embedding"][: len(ids)]
        for layer in range(self._shape.layers):
            block = f"transformer.resblocks.{layer}."
            states = states + self._attended(self._normalised(states, f"{block}ln_1"), f"{block}attn.")
            inner = self._linear(self._normalised(states, f"{block}ln_2"), f"{block}mlp.c_fc.")
            states = states + self._linear(self._activation(inner), f"{block}mlp.c_proj.")
        return self._normalised(states[-1], "ln_final")

    def _attended(self, states: Vectors, name: str) -> Vectors:
        """What each token takes from itself and those before it, (l, w) of (l, w)."""
        length, width = states.shape
        # Each (heads, l, w / heads).
        queries, keys, values = (
            self._linear(states, f"{name}in_proj_").reshape(length, 3, self._shape.heads, -1).transpose(1, 2, 0, 3)
        )
        scores = queries @ keys.transpose(0, 2, 1) * np.float32((width // self._shape.heads) ** -0.5)
        scores += np.triu(np.full((length, length), -np.inf, dtype=np.float32), 1)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return self._linear((shares @ values).transpose(1, 0, 2).reshape(length, width), f"{name}out_proj.")

    def _linear(self, states: Vectors, name: str) -> Vectors:
        return states @ self._tensors[f"{name}weight"].T + self._tensors[f"{name}bias"]

    def _normalised(self, states: Vectors, name: str) -> Vectors:
        centred = states - states.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled: Vectors = centred / np.sqrt(variance + np.float32(1e-5))
        return scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]


def _quick_gelu(states: Vectors) -> Vectors:
    with np.errstate(over="ignore"):  # far below zero it ends at zero
        found: Vectors = states / (1 + np.exp(np.float32(-1.702) * states))
    return found


def _gelu(states: Vectors) -> Vectors:
    # The import of scipy.special takes longer than this, for any one query.
    erf = np.fromiter(map(math.erf, (states * math.sqrt(0.5)).ravel().tolist()), np.float64, states.size)
    found: Vectors = (0.5 * states * (1 + erf.reshape(states.shape))).astype(np.float32)
    return found


def _prefix(file: Any, shape: _Shape, *, custom_text: bool) -> str | None:
    """What stands before the names of a checkpoint's text side; None if its tensors are not all those of the shape."""
    others = ("visual.", "logit_scale", "logit_bias")
    names = {name for name in file.keys() if not name.startswith(others)}  # noqa: SIM118 - no mapping
    expected = shape.tensors()
    # open_clip reads the old names, without "text.", into either kind of model.
    for prefix in ("", "text.") if custom_text else ("",):
        if names == {prefix + name for name in expected}:
            slices = {name: file.get_slice(prefix + name) for name in expected}
            fits = all(
                slices[name].get_shape() == size and slices[name].get_dtype() in ("F16", "F32")
                for name, size in expected.items()
            )
            return prefix if fits else None
    return None


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[dict[str, int], BPE]:
    """The id of each token, and the merges of byte pairs."""
    spec = find_spec("open_clip")  # which does not import it
    if spec is None or spec.origin is None:
        raise FileNotFoundError("open_clip is not installed")
    with gzip.open(Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as stream:
        # The first line is a title.
        lines = stream.read().split("\n")[1 : _N_MERGES + 1]
    merges = [(first, second) for first, second in map(str.split, lines)]
    signs = list(_BYTE_SIGNS.values())
    words = [*signs, *(f"{sign}</w>" for sign in signs), *map("".join, merges), _START, _END]
    ids = {word: number for number, word in enumerate(words)}
    return ids, BPE(vocab=ids, merges=merges, end_of_word_suffix="</w>")
