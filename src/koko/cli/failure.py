"""How a command fails: with one sentence for its user."""

from __future__ import annotations


class Failure(Exception):
    """Why a command failed, in one sentence for its user."""
