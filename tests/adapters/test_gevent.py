"""What gevent's patches change under us."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.adapters.conftest import STARTUP

pytestmark = pytest.mark.integration("gevent")

WRITE = """
from gevent import monkey
monkey.patch_all()
import gevent, socket
from koko.sync.transport import PlainStream
ours, theirs = socket.socketpair()
with ours, theirs, gevent.Timeout(5):
    stream = PlainStream(ours)
    while stream.write([bytes(1 << 20)]):
        pass
    assert stream.pending and not stream.flush()
"""


def test_a_write_to_a_full_socket_of_gevent_does_not_wait() -> None:
    subprocess.run([sys.executable, "-c", WRITE], check=True, timeout=STARTUP)
