"""How fast a service's images arrive: 2,000 and 20,000 of 50 KB from a loopback server that takes 30 ms for each answer.

Run it with: python benchmarks/collect.py [--many]. Appends to RESULTS.md. The server is a process of its own. A collection of
20 images comes before, which starts Prefect's own temporary server and imports what is needed: its time is given apart.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np

LATENCY_S = 0.030
IMAGE_BYTES = 50_000
RESULTS = Path(__file__).parent / "RESULTS.md"


def image(number: int) -> bytes:
    """A JPEG of 50 KB, different for every number: a real one, with its number and filler in a comment."""
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((256, 192)).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    comment = f"{number:08d}".encode() + b"." * (IMAGE_BYTES - len(data) - 12)
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def serve(n_images: int, port: multiprocessing.Queue[int]) -> None:
    """An OSF project with `n_images` files in ten folders, every answer after 30 ms."""
    template = image(0)
    at = template.index(b"00000000")

    def body(number: int) -> bytes:
        return template[:at] + f"{number:08d}".encode() + template[at + 8 :]

    def listing(path: str, query: dict[str, list[str]], origin: str) -> bytes:
        page = int(query.get("page", ["1"])[0])
        numbers = range(100 * (page - 1), min(100 * page, n_images))
        data = [
            {
                "id": str(number),
                "attributes": {
                    "kind": "file",
                    "materialized_path": f"/{['Egypt', 'France', 'Japan', 'Chile', 'Kenya'][number * 5 // n_images]}/{number}.jpg",
                    "size": IMAGE_BYTES,
                    "extra": {"hashes": {"sha256": hashlib.sha256(body(number)).hexdigest()}},
                },
                "links": {"download": f"{origin}/file/{number}"},
            }
            for number in numbers
        ]
        more = 100 * page < n_images
        return json.dumps(
            {
                "data": data,
                "meta": {"total": n_images},
                "links": {"next": f"{origin}{path}?page={page + 1}" if more else None},
            }
        ).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        origin = "http://{}:{}".format(*writer.get_extra_info("sockname"))
        while head := await reader.readuntil(b"\r\n\r\n"):
            target = urlsplit(head.split(b" ", 2)[1].decode())
            await asyncio.sleep(LATENCY_S)
            is_file = target.path.startswith("/file/")
            data = body(int(target.path[6:])) if is_file else listing(target.path, parse_qs(target.query), origin)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            await writer.drain()

    async def main() -> None:
        async def safely(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await answer(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(safely, "127.0.0.1", 0, backlog=512)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def started_server(n_images: int) -> tuple[multiprocessing.Process, str]:
    """The service in a process of its own, and its address."""
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(n_images, port), daemon=True)
    server.start()
    return server, f"http://127.0.0.1:{port.get()}"


def collect(n_images: int, store: Path) -> float:
    """Seconds of the flow, from its call to the committed tables."""
    from flows.collect import collect as flow
    from flows.settings import Settings
    from storage.store import Store

    server, address = started_server(n_images)
    source = {"kind": "osf", "project": "bench", "base_url": f"{address}/v2"}
    settings = Settings.model_validate(
        {"store": store, "collect": {"sources": [{**source, "requests_per_second": None, "connections": 8}]}}
    )
    started_s = time.perf_counter()
    fingerprint = flow(settings)
    seconds = time.perf_counter() - started_s
    server.terminate()
    if Store(store).version("images", fingerprint).rows != n_images:
        sys.exit("not every image arrived")
    return seconds


def sequential(n_images: int) -> float:
    """Images a second that one client gets that asks one after the other, the other side of the comparison."""
    import httpx

    server, address = started_server(n_images)
    with httpx.Client(base_url=address) as client:
        started_s = time.perf_counter()
        for number in range(200):
            client.get(f"/file/{number}").raise_for_status()
        seconds = time.perf_counter() - started_s
    server.terminate()
    return 200 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", action="store_true", help="20,000 images in place of 2,000")
    n_images = 20_000 if parser.parse_args().many else 2_000
    from flows.environment import quiet_terminal, use_store

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        use_store(store)
        quiet_terminal()
        start_s = time.perf_counter()
        collect(20, store)
        start_s = time.perf_counter() - start_s
        seconds = collect(n_images, store)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    alone = sequential(n_images)
    rate = n_images / seconds
    line = (
        f"| {datetime.now(UTC):%Y-%m-%d} | collect, {n_images:,} images of 50 KB at 30 ms | {os.cpu_count()} cores, {platform.machine()} "
        f"| {seconds:.1f} s, {rate:.0f} images/s, {megabytes:.0f} MB; before it, the start of Prefect and 20 images: {start_s:.1f} s "
        f"(one by one, not checked: {alone:.0f} images/s) | {rate / alone:.1f}x |"
    )
    print(line)
    with RESULTS.open("a") as stream:
        stream.write(line + "\n")


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
