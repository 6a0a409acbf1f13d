"""The errors that a user is meant to read: one line that says what was wrong and what would be right."""

from __future__ import annotations


class PlaceprintError(Exception):
    """Work could not be done. The message is one line, without a traceback at the command line."""


class StoreError(PlaceprintError):
    """The store is missing, damaged, or cannot be written."""
