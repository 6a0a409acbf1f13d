#!/usr/bin/env python3
"""For Docker's HEALTHCHECK: exit code 0 when what runs in this container answers, else 1.

``PLACEPRINT_HEALTH_URL`` says whom to ask: of a server ``…/api/ready``, which also looks whether its database answers, and which
needs no password; of a worker ``…/health``, which fails once it asks for work no more. Where it is not set nothing answers:
a command that comes to its end by itself is healthy as long as it runs.
"""

import os
import sys
import urllib.request

TIMEOUT_S = 4


def main() -> int:
    url = os.environ.get("PLACEPRINT_HEALTH_URL")
    if not url:
        return 0
    # Not by a proxy that the environment may name for the outside: this is the same container.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            sys.stdout.write(f"{url}: {answer.status}\n")
    except OSError as error:
        sys.stdout.write(f"{url}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
