"""open_clip, imported without torch's compiler.

open_clip imports torchvision, and that asks the compiler one question for an operation that no encoder uses: which loads all of
the compiler, a third of what the import costs. The answer is given in its place; who compiles a model loads the real one.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch  # noqa: F401  (before the stand-in, which torch itself must not see)

_ASKED = "torch._dynamo.utils"

_stand_in = ModuleType(_ASKED)
vars(_stand_in)["is_compile_supported"] = lambda _device_type: False
_is_there = "torch._dynamo" in sys.modules or "torchvision" in sys.modules
if not _is_there:
    sys.modules[_ASKED] = _stand_in
try:
    import open_clip
finally:
    if not _is_there and sys.modules.get(_ASKED) is _stand_in:
        del sys.modules[_ASKED]

__all__ = ["open_clip"]
