"""The interactive prompt of ``placeprint search``: one query after another, answered by an encoder that stays loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from storage.errors import PlaceprintError

HELP = "A text, or the path of an image, then Enter. Ctrl-C clears the line, Ctrl-D or .quit ends."


def prompt(ask: Callable[[str], None], say: Callable[[str], None], complain: Callable[[PlaceprintError], None]) -> bool:
    """Read and answer queries until the end, at a terminal or from standard input; returns whether all were answered.

    Parameters
    ----------
    ask
        Answers a query.
    say
        Prints a line.
    complain
        Prints an error; the prompt goes on.
    """
    say(HELP)
    all_answered = True
    for query in _typed() if sys.stdin.isatty() else _piped():
        try:
            ask(query)
        except KeyboardInterrupt:  # of a query that takes too long
            continue
        except PlaceprintError as error:
            all_answered = False
            complain(error)
    return all_answered


def _piped() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def _typed() -> Iterator[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    while True:
        try:
            line = session.prompt("search> ").strip()
        except KeyboardInterrupt:  # of the line
            continue
        except EOFError:
            return
        if line in (".quit", ".exit"):
            return
        if line:
            yield line
