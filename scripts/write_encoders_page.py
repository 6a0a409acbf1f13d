"""Write ``docs/encoders.md`` and the table of decoding in ``docs/encode.md``: from open_clip's tables, and measured.

Run it with: python scripts/write_encoders_page.py
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tasks.collect.world_map import WORLD_MAPS, load_pixels
from tasks.encode.description import describe_encoder
from tasks.encode.encoder import load_encoder
from tasks.encode.encoder_settings import DEMO_MODEL, EncoderSettings
from tasks.encode.identity import Identity
from tasks.encode.lean_open_clip import open_clip
from tasks.images import decode_rgb

DOCS = Path(__file__).parent.parent / "docs"
# From small to large; of each family the tag that its authors recommend.
WORTH_USING: tuple[tuple[str, str | None, str], ...] = (
    (DEMO_MODEL, None, "ships here; knows maps, not photographs"),
    ("MobileCLIP2-S0", "dfndr2b", "small and fast"),
    ("ViT-B-32", "openai", "the case study's; most cited"),
    ("ViT-B-32", "laion2b_s34b_b79k", "open data"),
    ("ViT-B-16", "datacomp_xl_s13b_b90k", "open data"),
    ("PE-Core-B-16", "meta", ""),
    ("ViT-B-16-SigLIP2", "webli", "many languages; extra `transformers`"),
    ("ViT-L-14", "openai", ""),
    ("ViT-L-14", "datacomp_xl_s13b_b90k", "open data"),
    ("ViT-L-14-336", "openai", "StreetCLIP's architecture"),
    ("ViT-L-16-SigLIP2-256", "webli", "many languages; extra `transformers`"),
    ("ViT-H-14-quickgelu", "dfn5b", ""),
    ("ViT-bigG-14", "laion2b_s39b_b160k", "wants a GPU of 16 GB"),
)
START, END = "<!-- decoding: written by scripts/write_encoders_page.py -->\n", "<!-- /decoding -->\n"
N_PICTURES = 40

HEAD = """# Encoders worth using

Any of open_clip's models can be named; `placeprint encoders list [WORD]` lists them all, `placeprint encoders show MODEL TAG` says
what one is, without downloading it. This page is written by `scripts/write_encoders_page.py`; parameters are counted in the models
that open_clip builds.

| model | tag | numbers | parameters | pixels | preprocessing | activation | |
| --- | --- | ---: | ---: | --- | --- | --- | --- |
"""
TAIL = """
*Numbers* is the length of a vector: 1,000,000 images of 512 float32 numbers take 2 GB. Preprocessing is the resize and its filter, and
the mean where it is not CLIP's own; `squash` resizes both sides, `shortest` crops the middle.

```bash
placeprint encoders list siglip2
placeprint encoders show ViT-B-32 openai --json
```

## Other sources

- **StreetCLIP**, the geolocation encoder, and any other CLIP that the library `transformers` saved: `hf-hub:geolocal/StreetCLIP`, or a
  folder with `config.json` and `model.safetensors` (`local-dir:/data/street-clip`). The library itself is not needed. Two differences
  to it stay, which no setting of open_clip takes away, and in both open_clip does as OpenAI's code: the middle crop of some pictures
  lies one pixel further, and texts are mended first (HTML entities, curly quotes).
- A repository or a folder in open_clip's own layout (`open_clip_config.json`): `hf-hub:org/name`, `local-dir:/data/my-clip`.
- A bare checkpoint, with a model's name or a model config. Nothing says how it was trained, so activation and preprocessing are assumed
  (the model config's activation, CLIP's own preprocessing): each assumption is printed and kept in the manifest, and
  `encode.encoder.quick_gelu`, `image_mean`, `image_std`, `image_interpolation` and `image_resize_mode` override it.
- SigLIP's tokenizers, and text models such as XLM-RoBERTa, need the extra: `pip install 'placeprint[transformers]'`.

## What an encoder is

Its id is `<model>@<12 digits>`, a hash of all that changes its numbers: architecture, weights, activation, preprocessing (size, mean,
std, interpolation, resize mode), tokenizer, precision. Two people with the same id have the same numbers, but for last bits that
processors round otherwise. The id and the identity in full are in the recipe, in the manifest (`placeprint store show embeddings`,
in words too), and in the metadata of every file of embeddings.

Of a tag, open_clip's table says how its weights were trained. Where that and the model's own config disagree about QuickGELU, the tag
is right, the model is built so, and one line says it. open_clip 3.3 by itself builds `ViT-B-32` with `openai` with GELU, and warns:
28 of its 196 tags are so. One of them may be an omission of the table, not a fact: `roberta-ViT-B-32`, whose tag says nothing and whose
config says QuickGELU; `encode.encoder.quick_gelu=true` builds it so.

```
placeprint encode --verify 100
```

sends 100 images of the store and all prompts through the reference – file, open_clip's own transform, its own model in float32 – and
through ours, and prints the least and the median cosine. Below 0.999 nothing is encoded, below 0.9999 there is a warning.
"""


def row(model: str, tag: str | None, remark: str) -> str:
    """The table's line of an encoder."""
    identity = describe_encoder(EncoderSettings(model=model, pretrained=tag, device="cpu")).identity
    preprocessing = identity.preprocessing
    height, width = preprocessing.size
    how = f"{preprocessing.resize_mode}, {preprocessing.interpolation}"
    if round(preprocessing.mean[0], 3) != 0.481:
        how += f", mean {preprocessing.mean[0]:g}"
    cells = (
        *(
            model,
            tag or "",
            str(identity.dimension),
            f"{n_parameters(identity) / 1e6:,.0f} M",
            f"{width} x {height}",
            how,
        ),
        *("QuickGELU" if identity.quick_gelu else "GELU", remark),
    )
    return f"| {' | '.join(cells)} |\n"


def n_parameters(identity: Identity) -> int:
    """Parameters of both sides, counted without making them."""
    if identity.architecture == DEMO_MODEL:
        encoder = load_encoder(EncoderSettings(device="cpu"))
        return sum(each.numel() for each in encoder._model.parameters())
    with torch.device("meta"):
        model = open_clip.create_model(identity.architecture, device="meta")
    return sum(each.numel() for each in model.parameters())


def rotated(image: Image.Image) -> tuple[Image.Image, dict[str, object]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return image, {"exif": exif}


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    """With a disc that is seen through: what lies under it is kept in the file."""
    y, x = np.ogrid[: image.height, : image.width]
    hole = (y - image.height / 2) ** 2 + (x - image.width / 2) ** 2 < (image.height / 4) ** 2
    alpha = Image.fromarray(np.where(hole, 0, 255).astype(np.uint8))
    result = image.convert(mode)
    result.putalpha(alpha)
    return result


def sixteen_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 257)


Form = Callable[[Image.Image], tuple[Image.Image, dict[str, object]]]
FORMS: dict[str, tuple[str, Form]] = {
    "RGB": ("PNG", lambda image: (image, {})),
    "RGBA, a quarter seen through": ("PNG", lambda image: (with_alpha(image, "RGB"), {})),
    "LA, a quarter seen through": ("PNG", lambda image: (with_alpha(image, "L"), {})),
    "palette": ("PNG", lambda image: (image.convert("P"), {})),
    "palette with a transparent colour": ("PNG", lambda image: (image.convert("P"), {"transparency": 0})),
    "1 bit": ("PNG", lambda image: (image.convert("1"), {})),
    "grey of 16 bits": ("PNG", lambda image: (sixteen_bits(image), {})),
    "EXIF rotation by a quarter": ("JPEG", rotated),
}


def decoding_table() -> str:
    """Cosines, by the shipped encoder, between a picture as it is decoded here and as Pillow's ``convert("RGB")`` gives it."""
    encoder = load_encoder(EncoderSettings(device="cpu", precision="float32"))
    generator = np.random.default_rng(0)
    patches = []
    for number in range(N_PICTURES):
        world = load_pixels(WORLD_MAPS[number % 3])
        top, left = (int(generator.integers(0, side - 300)) for side in world.shape[:2])
        patches.append(Image.fromarray(np.ascontiguousarray(world[top : top + 200, left : left + 300])))
    lines = ["| picture | least cosine | median |", "| --- | ---: | ---: |"]
    for name, (kind, form) in FORMS.items():
        ours, plain = [], []
        for patch in patches:
            image, options = form(patch)
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            data = buffer.getvalue()
            ours.append(encoder._preprocess(decode_rgb(data)[0]))
            plain.append(encoder._preprocess(Image.open(io.BytesIO(data)).convert("RGB")))
        here, there = (encoder.encode_pixels(torch.stack(each))[0] for each in (ours, plain))
        cosines = (here * there).sum(dim=1).numpy()
        lines.append(f"| {name} | {cosines.min():.4f} | {np.median(cosines):.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both."""
    (DOCS / "encoders.md").write_text(HEAD + "".join(row(*each) for each in WORTH_USING) + TAIL, encoding="utf-8")
    page = DOCS / "encode.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    page.write_text(before + START + decoding_table() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
