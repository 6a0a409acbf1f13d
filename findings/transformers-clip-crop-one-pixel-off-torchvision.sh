#!/usr/bin/env bash
# transformers' CLIP image processor and torchvision's CenterCrop (as in open_clip) do not crop the same pixels of every image.
# Half of what is too much is rounded down by the first, and by Python's round, to even, by the second. If the longer side has
# 3, 7, 11 ... pixels too many after the resize, the crops are one pixel apart: so for a quarter of all sizes. torch only comes
# along.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  transformers==5.24.0 torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torchvision
import transformers
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

SIDE = 224
by_torchvision = Compose([Resize(SIDE, interpolation=InterpolationMode.BICUBIC), CenterCrop(SIDE)])
by_transformers = transformers.CLIPImageProcessorPil(do_rescale=False, do_normalize=False)  # its default: 224, bicubic
noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)


def crops(width, height):
    image = Image.fromarray(noise[:height, :width])
    first = np.asarray(by_transformers(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    return first, np.asarray(by_torchvision(image))


def verdict(first, second):
    if np.array_equal(first, second):
        return "equal"
    if np.array_equal(first[:, 1:], second[:, :-1]):
        return "one column further in torchvision"
    if np.array_equal(first[1:], second[:-1]):
        return "one row further in torchvision"
    return "different"


print(f"transformers {transformers.__version__}, torchvision {torchvision.__version__}")
for width, height in ((448, 480), (448, 454), (454, 448), (448, 456), (640, 480)):
    long = int(SIDE * max(width, height) / min(width, height))
    found = verdict(*crops(width, height))
    print(f"{width} x {height}: resized to {SIDE} x {long}, {long - SIDE} too many: {found}")
    further = "column" if width > height else "row"
    if found != (f"one {further} further in torchvision" if (long - SIDE) % 4 == 3 else "equal"):
        raise SystemExit("this has changed")
sizes = [(width, 300) for width in range(300, 700)]
apart = sum(verdict(*crops(*size)) != "equal" for size in sizes)
print(f"crops apart: {apart} of {len(sizes)} sizes from 300 x 300 to 699 x 300, {apart / len(sizes):.0%}")
if not 0.2 < apart / len(sizes) < 0.3:
    raise SystemExit("this has changed")
PYTHON
