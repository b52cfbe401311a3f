"""The configuration of a gunicorn whose clients are told goodbye."""

from koko.adapters.gunicorn import post_worker_init

__all__ = ["post_worker_init"]
