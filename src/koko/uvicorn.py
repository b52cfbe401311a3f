"""The class that uvicorn takes: ``uvicorn app:app --ws koko.uvicorn:Protocol``."""

from koko.adapters.uvicorn import Protocol

__all__ = ["Protocol"]
