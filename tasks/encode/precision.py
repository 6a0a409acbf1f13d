"""In which precision an encoder runs where the settings leave it open; part of what its numbers are.

On a CPU bfloat16 is twice as fast as float32 where the CPU multiplies it itself, and many times slower elsewhere.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from functools import cache
from pathlib import Path

from storage.atomic import write_bytes
from storage.errors import PlaceprintError
from storage.local_copies import machine_cache

# Instructions that multiply bfloat16, as Linux names them.
NATIVE_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_CPUINFO = Path("/proc/cpuinfo")
_PROBE_SIDE = 1024
# By how much bfloat16 must win the probe.
_PROBE_GAIN = 1.3


def choose_precision(wanted: str, device: str) -> str:
    """``float32``, ``bfloat16`` or ``float16``; of ``auto`` the fastest that keeps the cosines.

    Parameters
    ----------
    wanted
        The setting.
    device
        The setting ``device``: ``auto`` is the first GPU, or else the CPU.

    Raises
    ------
    PlaceprintError
        float16 on a CPU.
    """
    first = device.split(",")[0].strip()
    on_cpu = first == "cpu" or (first == "auto" and not n_gpus())
    if wanted == "auto":
        return _on_gpu(first) if not on_cpu else "bfloat16" if has_native_bfloat16() else "float32"
    if wanted == "float16" and on_cpu:
        raise PlaceprintError("encode.encoder.precision: float16 is for GPUs: use bfloat16 or float32 on a CPU")
    return wanted


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; asked of its flags, or of a probe where they do not tell."""
    flags = cpu_flags()
    if flags is None:
        return _probed()
    if flags & NATIVE_FLAGS:
        return True
    # ARM has the instruction as `bf16`; whether torch was built to use it only a probe tells.
    return "bf16" in flags and _probed()


@cache
def cpu_flags() -> frozenset[str] | None:
    """What the CPU can, as Linux names it; None on another system."""
    if sys.platform != "linux":
        return None
    try:
        lines = _CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(values.split())
    return None


def _probed() -> bool:
    """The answer of a probe on this machine, which is kept: on another day it might be another, and then so would be the encoder."""
    import torch

    name = f"bfloat16-{platform.machine()}-torch-{torch.__version__.partition('+')[0]}.txt"
    path = machine_cache() / name
    if path.is_file():
        return path.read_text(encoding="ascii").strip() == "native"
    is_native = _is_faster_in_bfloat16()
    write_bytes(path, b"native" if is_native else b"emulated")
    return is_native


def _is_faster_in_bfloat16() -> bool:
    """Whether a product of matrices takes clearly less time; a second at most on a CPU that emulates it."""
    import torch

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones((_PROBE_SIDE // 8, _PROBE_SIDE), dtype=dtype)
        right = torch.ones((_PROBE_SIDE, _PROBE_SIDE), dtype=dtype)
        left @ right
        started_s = time.perf_counter()
        for _ in range(3):
            left @ right
        seconds[dtype] = time.perf_counter() - started_s
    return seconds[torch.float32] > _PROBE_GAIN * seconds[torch.bfloat16]


@cache
def n_gpus() -> int:
    """GPUs that torch sees; torch is asked, and imported, only where a driver says that there may be one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1" if sys.platform == "linux" else "nvcuda.dll")
        n_devices = ctypes.c_int(0)
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(n_devices)) != 0 or not n_devices.value:
            return 0
    except (OSError, AttributeError):
        return 0
    import torch

    return torch.cuda.device_count()


@cache
def _on_gpu(device: str) -> str:
    import torch

    if device.startswith("mps"):
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
