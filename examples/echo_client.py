"""A client on threads: one tells the server the time each second, one shows what comes back.

python examples/echo_client.py [URL]    ws://127.0.0.1:8765 by default; Ctrl-C says goodbye
"""

import sys
import threading
import time
from contextlib import suppress

from koko import CloseError
from koko.sync import Conn, dial


def tell_the_time(conn: Conn) -> None:
    with suppress(CloseError):  # the receiver hears how it ended, too
        while True:
            conn.send(time.strftime("%H:%M:%S"))
            time.sleep(1)


url = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765"
# At the end of the block the connection is closed with 1000, and the peer's answer awaited.
with dial(url) as conn, suppress(KeyboardInterrupt):
    threading.Thread(target=tell_the_time, args=[conn], daemon=True).start()
    for message in conn:
        print(message, flush=True)
print(conn.ending)
