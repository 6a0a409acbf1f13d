#!/usr/bin/env python3
"""Process 1 of a container: ``supervise COMMAND…`` runs the command, hands SIGTERM on, and ends when the command has ended.

A Prefect worker that gets SIGTERM kills its flow runs, and the server shows them as running for ever. So the flow runs get it first:
they tell the server that they crashed, and can be retried. tini, which knows nothing of them, could not do that.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

# How long flow runs may take to say that they stop. compose.yaml's stop_grace_period is longer.
FLOW_RUNS_S = 30.0
# How long the worker then has to tell of those that did not say so themselves.
REPORT_S = 2.0


def flow_runs() -> set[int]:
    """The processes below this one in which a worker, or ``placeprint serve``, runs flows."""
    parents: dict[int, int] = {}
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if b"prefect.engine" in (process / "cmdline").read_bytes().split(b"\0"):
                found.add(int(process.name))

    def below(process: int) -> bool:
        return process == os.getpid() or (process in parents and below(parents[process]))

    return {process for process in found if below(process)}


def stop_flow_runs() -> None:
    """Tell them, each once and also those that begin meanwhile, and wait until they have ended."""
    told: set[int] = set()
    deadline = time.monotonic() + FLOW_RUNS_S
    while (running := flow_runs()) and time.monotonic() < deadline:
        for process in running - told:
            with suppress(OSError):
                os.kill(process, signal.SIGTERM)
        told |= running
        time.sleep(0.1)
    if told:
        time.sleep(REPORT_S)


def supervise(words: list[str]) -> int:
    """Run a command; its exit code, or of one that a signal ended 128 and its number."""
    # Until it runs there is nothing to stop: a signal that comes before waits.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    command = os.posix_spawnp(words[0], words, os.environ, setsigmask=())

    def hand_on(number: int, _frame: object) -> None:
        stop_flow_runs()
        with suppress(ProcessLookupError):
            os.kill(command, number)

    for number in signals:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    while True:
        process, status = os.wait()  # of orphans too, which process 1 has to bury
        if process == command:
            stop_flow_runs()
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
