"""The class that uvicorn takes: ``uvicorn app:app --ws koko.uvicorn:Protocol``."""

from koko.adapters._environment import SettingError, give_up, tell_of_mistaken

# What our worker for gunicorn reads, and uvicorn's own options of that meaning.
_OF_GUNICORN = {
    "KOKO_COMPRESSION": "--ws-per-message-deflate",
    "KOKO_PING_INTERVAL": "--ws-ping-interval",
    "KOKO_PING_TIMEOUT": "--ws-ping-timeout",
    "KOKO_READ_LIMIT": "--ws-max-size",
}

try:
    from koko.adapters.uvicorn import Protocol
except SettingError as error:
    give_up(error)
tell_of_mistaken(_OF_GUNICORN)

__all__ = ["Protocol"]
