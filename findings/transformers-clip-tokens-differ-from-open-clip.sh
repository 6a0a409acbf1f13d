#!/usr/bin/env bash
# transformers' CLIPTokenizer gives other ids than open_clip's SimpleTokenizer, which does as OpenAI's CLIP, for valid texts:
# curly quotes, HTML entities, ligatures, full-width characters. It has the same vocabulary and merges, but does not clean the
# text with ftfy and html.unescape first. Without a word: such a text is embedded as another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  transformers==5.24.0 open_clip_torch==3.3.0 ftfy==6.3.1 torch==2.15.0 torchvision==0.29.2
"$folder/venv/bin/python" - <<'PYTHON'
import ftfy
import open_clip
import transformers

simple = open_clip.tokenizer.SimpleTokenizer()
# The two last tokens of open_clip's vocabulary file have other names than in transformers; nothing else differs.
names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
tokenizer = transformers.CLIPTokenizer(
    vocab={names.get(token, token): number for token, number in simple.encoder.items()},
    merges=sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__),
    model_max_length=77,
)
print(f"transformers {transformers.__version__}, open_clip {open_clip.__version__}, ftfy {ftfy.__version__}")
same = ["a photo of a cat", "A  Street in Kraków, Poland.", "don't", "A & B", "fine", "room 123", "東京 🏙", ""]
other = ["don\u2019t", "A &amp; B", "\ufb01ne", "room \uff11\uff12\uff13"]
for text in same + other:
    theirs = tokenizer(text)["input_ids"][1:-1]
    clean = simple(text)[0].tolist()
    clean = clean[1 : clean.index(simple.eot_token_id)]
    print(f"{text!r}: transformers {theirs}, open_clip {clean}{'' if theirs == clean else ': differ'}")
    if (theirs == clean) != (text in same):
        raise SystemExit("this has changed")
PYTHON
