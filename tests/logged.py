"""What a server logged, without the lines about itself."""

from __future__ import annotations

import logging

import pytest

OF_THE_SERVER = ("listening on ", "closing", "closed within ")


def of_client(caplog: pytest.LogCaptureFixture, peer: str) -> list[str]:
    """Return what was said of one client; a port may have others, who mistook it for an old one."""
    return [line for line in of_clients(caplog) if f" {peer} " in line]


def of_clients(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return what was said of clients, at that level or above, as ``logger level message``."""
    return [
        f"{record.name} {record.levelname} {record.getMessage()}"
        for record in caplog.records
        if record.levelno >= level and not record.getMessage().startswith(OF_THE_SERVER)
    ]
