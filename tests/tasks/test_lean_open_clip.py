"""open_clip without torch's compiler is all of open_clip, and the compiler is all there for who wants it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
import tasks.encode.encoder
assert "torch._dynamo" not in sys.modules
import torch
from tasks.encode.lean_open_clip import _disabled_when_called, open_clip

# What was put in the compiler's place is gone.
assert "torch._dynamo.utils" not in sys.modules
assert torch.compiler.disable.__module__ == "torch.compiler"

# timm's models are there, and transformers' texts.
assert open_clip.timm_model.timm is not None
with torch.device("meta"):
    model = open_clip.create_model("PE-Core-T-16-384", device="meta")
assert type(model.visual).__name__ == "TimmModel"

# A function that is not to be compiled is not, and gives what it gave.
calls = []

@_disabled_when_called(reason="a test")
def plain(x):
    calls.append(torch.compiler.is_compiling())
    return x + 1

assert plain.__name__ == "plain"
assert plain(1) == 2
compiled = torch.compile(lambda x: plain(x) * 2, backend="eager")
assert compiled(torch.ones(2)).tolist() == [4.0, 4.0]
assert calls == [False, False]

from torch._dynamo.utils import is_compile_supported
assert is_compile_supported.__module__ == "torch._dynamo.utils"
print("all is there")
"""


def test_nothing_is_missing() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.stdout.strip().endswith("all is there"), found.stderr[-2000:]
