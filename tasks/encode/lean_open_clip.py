"""open_clip, imported without torch's compiler, which is a third of what the import costs and which no encoder needs.

Two things load it. torchvision asks it one question for an operation that no encoder uses: the answer is given in its place. And
timm declares a function that is not to be compiled: that is declared when the function is first called.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_ASKED = "torch._dynamo.utils"


def _disabled_when_called(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """In place of ``torch.compiler.disable``, as a decorator with options or without."""
    if function is None:
        return functools.partial(_disabled_when_called, **options)

    @functools.cache
    def declared() -> Callable[..., Any]:
        disable: Any = torch.compiler.disable
        disabled: Callable[..., Any] = disable(function, **options)
        return disabled

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return declared()(*args, **kwargs)

    return call


@contextmanager
def _without_compiler() -> Iterator[None]:
    if "torch._dynamo" in sys.modules:
        yield
        return
    compiler: Any = torch.compiler
    disable, compiler.disable = compiler.disable, _disabled_when_called
    stand_in = ModuleType(_ASKED)
    vars(stand_in)["is_compile_supported"] = lambda _device_type: False
    sys.modules[_ASKED] = stand_in
    try:
        importlib.import_module("torchvision")
        # Only for this one: whoever else asks is to get the real one.
        del sys.modules[_ASKED]
        yield
    finally:
        if sys.modules.get(_ASKED) is stand_in:
            del sys.modules[_ASKED]
        compiler.disable = disable


with _without_compiler():
    import open_clip

__all__ = ["open_clip"]
