"""Copies of FAISS indexes on the GPU and back, where FAISS was built for GPUs and there is one."""

from __future__ import annotations

import logging

import faiss

GPU_KINDS = ("flat", "ivf_flat", "ivf_pq")
GPU_MAX_NEIGHBOURS = 2048  # of one query, and also the most lists that it may probe


def has_gpu() -> bool:
    """Whether FAISS can use a GPU. Its GPU build imports without one, and its CPU build lacks the names."""
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def gpu_copy(index: faiss.Index) -> faiss.Index | None:
    """The index on the first GPU, or None where that refuses it: too little memory, or no kernel for its codes."""
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError as error:
        logging.getLogger(__name__).warning("FAISS stays on the CPU: %s", str(error).splitlines()[0])
        return None


def cpu_copy(index: faiss.Index) -> faiss.Index:
    """The index of a GPU as one that can be written to a file."""
    return faiss.index_gpu_to_cpu(index)
