"""The class that uvicorn takes: ``uvicorn app:app --ws koko.uvicorn:Protocol``."""

from koko.adapters._environment import SettingError, give_up

try:
    from koko.adapters.uvicorn import Protocol
except SettingError as error:
    give_up(error)

__all__ = ["Protocol"]
