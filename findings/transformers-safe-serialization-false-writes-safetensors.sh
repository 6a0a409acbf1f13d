#!/usr/bin/env bash
# transformers: save_pretrained(folder, safe_serialization=False), the documented way to pytorch_model.bin in version 4, still
# runs in version 5 and writes model.safetensors, without a warning. And CLIPProcessor.save_pretrained writes no
# preprocessor_config.json, as version 4 did: its settings go into processor_config.json.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.13.0 pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import io
import json
import logging
import sys
import warnings
from pathlib import Path

import transformers

said = io.StringIO()
logging.getLogger("transformers").addHandler(logging.StreamHandler(said))
tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
config = transformers.CLIPConfig(
    text_config=tower,
    vision_config=tower | {"image_size": 32, "patch_size": 16},
    projection_dim=16,
)
model = transformers.CLIPModel(config)
folder = Path(sys.argv[1])
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    model.save_pretrained(folder / "model", safe_serialization=False)
files = sorted(path.name for path in (folder / "model").iterdir())
said_of_it = [line for line in [*said.getvalue().splitlines(), *(str(each.message) for each in warned)] if "seriali" in line]
print(f"transformers {transformers.__version__}: safe_serialization=False wrote {files}; said of it: {said_of_it}")
if "model.safetensors" not in files or any(name.endswith(".bin") for name in files) or said_of_it:
    raise SystemExit("this has changed")

tokenizer = transformers.CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}, merges=[])
processor = transformers.CLIPProcessor(transformers.CLIPImageProcessorPil(), tokenizer)
processor.save_pretrained(folder / "processor")
files = sorted(path.name for path in (folder / "processor").iterdir())
print(f"CLIPProcessor.save_pretrained wrote {files}")
if "preprocessor_config.json" in files or "processor_config.json" not in files:
    raise SystemExit("this has changed")
settings = json.loads((folder / "processor" / "processor_config.json").read_text())["image_processor"]
print(f"in processor_config.json, image_processor: size {settings['size']}, crop_size {settings['crop_size']}")
PYTHON
