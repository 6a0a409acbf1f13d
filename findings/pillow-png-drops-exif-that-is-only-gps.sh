#!/usr/bin/env bash
# Pillow: an Exif object that holds a GPS part and no main tag counts as empty. Saved as PNG, its GPS is dropped without a word;
# saved as JPEG or WebP it is written; with one main tag beside it (Make) it is written in PNG, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import PIL
from PIL import Image


def gps_after_saving(kind, *, make):
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (30.0, 2.0, 39.84), 3: "E", 4: (31.0, 14.0, 8.52)})
    if make:
        exif[0x010F] = "Camera"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind, exif=exif)
    return bool(Image.open(io.BytesIO(buffer.getvalue())).getexif().get_ifd(0x8825))


found = {(kind, make): gps_after_saving(kind, make=make) for kind in ("JPEG", "WEBP", "PNG") for make in (False, True)}
print(f"Pillow {PIL.__version__}: is GPS there after saving? by (format, with a main tag): {found}")
expected = {key: key != ("PNG", False) for key in found}
if found != expected:
    raise SystemExit("this has changed")
PYTHON
