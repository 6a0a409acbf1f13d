#!/usr/bin/env bash
# Polars: after `import polars`, Ctrl-C (SIGINT) no longer wakes a main thread that waits for a lock without a timeout, as in
# Event.wait() or Future.result(): KeyboardInterrupt comes only once the wait is over by itself. The import puts a handler with
# SA_RESTART in place of Python's, which has none. A wait with a timeout is woken as before, and
# signal.siginterrupt(signal.SIGINT, True) after the import cures the others, too. Seen on Linux; it is in issue
# 21739 of Polars, too. Here each wait ends after 3 s.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check polars==2.1.0
cat > "$folder/wait.py" <<'PYTHON'
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future

kind, setting = sys.argv[1:]
if setting != "no polars":
    import polars
if setting == "polars, siginterrupt":
    signal.siginterrupt(signal.SIGINT, True)
event, future = threading.Event(), Future()
waits = {"Event.wait()": event.wait, "Event.wait(10)": lambda: event.wait(10), "Future.result()": future.result}
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
for end in (threading.Timer(3, event.set), threading.Timer(3, future.set_result, (None,))):
    end.daemon = True
    end.start()
start = time.monotonic()
try:
    waits[kind]()
    print("no KeyboardInterrupt")
except KeyboardInterrupt:
    print("at once" if time.monotonic() - start < 2 else "only at the end of the wait")
PYTHON
"$folder/venv/bin/python" -c 'import sys, polars; print("Python", sys.version.split()[0], "Polars", polars.__version__)'
for kind in "Event.wait()" "Future.result()" "Event.wait(10)"; do
  for setting in "no polars" "polars" "polars, siginterrupt"; do
    found=$("$folder/venv/bin/python" "$folder/wait.py" "$kind" "$setting")
    echo "$kind, $setting: KeyboardInterrupt comes $found"
    expected="at once"
    if [ "$setting" = "polars" ] && [ "$kind" != "Event.wait(10)" ]; then expected="only at the end of the wait"; fi
    [ "$found" = "$expected" ] || { echo "this has changed"; exit 1; }
  done
done
