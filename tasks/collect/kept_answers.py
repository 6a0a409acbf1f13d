"""What services answered, as it came: with it a table can be made again without the service."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from storage.atomic import write_bytes
from storage.s3_path import StorePath

_HIDDEN = "HIDDEN"


class KeptAnswers:
    """Compressed JSON files, one an answer: ``{"url": …, "body": …, "asked_at": …, "answer": <as it came>}``.

    Secrets of the request are in neither name nor content. ``zcat`` shows one, and DuckDB reads them all with
    ``read_json('listings/*/*/answers/*.json.gz')``.
    """

    def __init__(self, folder: StorePath) -> None:
        self.folder = folder

    def find(self, url: str, body: Any, secrets: Sequence[str]) -> Any:
        """An answer that is kept, parsed; or None. A file that was damaged is no answer."""
        try:
            return json.loads(gzip.decompress(self._path(url, body, secrets).read_bytes()))["answer"]
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
            return None

    def keep(self, url: str, body: Any, secrets: Sequence[str], answer: bytes, private: Sequence[str] = ()) -> Any:
        """Keep an answer; returns it, parsed, as it will be found.

        It stays as it came but for the request's secrets, which services like to repeat, and `private` members.
        """
        for secret in secrets:
            answer = answer.replace(secret.encode(), _HIDDEN.encode())
        parsed = json.loads(answer)
        if private and _drop(parsed, private):
            answer = json.dumps(parsed, ensure_ascii=False).encode()
        request = {"url": _without(url, secrets), "body": body, "asked_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        content = json.dumps(request)[:-1].encode() + b', "answer": ' + answer + b"}"
        write_bytes(self._path(url, body, secrets), gzip.compress(content, 6, mtime=0))
        return parsed

    def _path(self, url: str, body: Any, secrets: Sequence[str]) -> StorePath:
        request = json.dumps([_without(url, secrets), body], sort_keys=True)
        return self.folder / f"{hashlib.blake2b(request.encode(), digest_size=12).hexdigest()}.json.gz"


def _drop(value: Any, names: Sequence[str]) -> bool:
    """Take members of these names out of nested JSON, in place; whether there were any."""
    found = False
    if isinstance(value, dict):
        for name in [name for name in value if name in names]:
            del value[name]
            found = True
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found |= _drop(each, names)
    return found


def _without(url: str, secrets: Sequence[str]) -> str:
    """The address without parameters whose value is a secret, or stands for one."""
    parts = urlsplit(url)
    shown = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if value not in (*secrets, _HIDDEN)
    ]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(shown), ""))
