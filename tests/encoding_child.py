"""Encodes a store in children of a process that has imported everything, each of which is killed where it is told.

Reads one line of JSON after the other: ``{"store": …, "shard_size": …, "seconds": …}`` kills after so many seconds,
``{"renames": n, "before": true}`` right before (or after) the n-th rename, and neither of both lets the child finish. Writes
the number of renames, or the signal that ended the child, negative.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

# No module here may compute with torch before the fork: a child would wait for threads that it does not have. pyarrow imports
# pandas with its first array, which each child would do again.
import pandas  # noqa: F401

import tasks.encode.compute  # noqa: F401
from storage.store import Store
from tasks.collect.steps import unique_images
from tasks.encode.recipes import decided, embeddings_recipe
from tasks.encode.reuse import plan_reuse
from tasks.encode.settings import EncodeSettings
from tasks.encode.steps import commit_embeddings, encode_shard, index_embeddings


def encode(root: Path, shard_size: int) -> None:
    """What the flow does, in one thread and without Prefect."""
    settings = decided(EncodeSettings(shard_size=shard_size, batch_size=16, loader_threads=2))
    store = Store(root)
    images = store.version("images")
    recipe = embeddings_recipe(settings, images.fingerprint)
    plans = plan_reuse(store, recipe, unique_images(images, ["image_id", "source"]), shard_size)
    shards = [
        encode_shard.fn(
            root, settings, recipe, index, index * shard_size, index * shard_size + plan.n_images, wait=True, plan=plan
        )
        for index, plan in enumerate(plans)
    ]
    commit_embeddings.fn(root, settings, recipe, [shard for shard in shards if shard is not None], images.rows)
    index_embeddings.fn(root, settings.index, recipe.fingerprint)


def count_renames(kill_at: int | None, before: bool) -> dict[str, int]:
    """Count what puts a file in its place, and die at one."""
    count = {"renames": 0}

    def counted(rename: Any) -> Any:
        def renamed(*given: Any, **named: Any) -> Any:
            count["renames"] += 1
            if before and count["renames"] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            result = rename(*given, **named)
            if count["renames"] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return renamed

    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    os.link = counted(os.link)
    return count


def main() -> None:
    for line in sys.stdin:
        told = json.loads(line)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            count = count_renames(told.get("renames"), told.get("before", False))
            if "seconds" in told:
                signal.setitimer(signal.ITIMER_REAL, told["seconds"])
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
            encode(Path(told["store"]), told["shard_size"])
            os.write(write_end, str(count["renames"]).encode())
            os._exit(0)
        os.close(write_end)
        _, status = os.waitpid(child, 0)
        said = os.read(read_end, 100).decode()
        os.close(read_end)
        print(said if os.WIFEXITED(status) and said else -(os.WTERMSIG(status) or 1), flush=True)


if __name__ == "__main__":
    main()
