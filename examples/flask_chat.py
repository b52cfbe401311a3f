"""A chat in Flask, page and all: python examples/flask_chat.py [PORT], then open it twice.

In earnest: gunicorn --worker-class gthread --threads 100 --chdir examples flask_chat:app
(a thread for each visitor), or --worker-class gevent.
"""

import sys
import threading

from flask import Flask

from koko import Kind, PreparedMessage
from koko.adapters.flask import websocket
from koko.sync import Conn, Upgrader

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Flask chat</title>
<h1>Room {room}</h1>
<ul id="said"></ul>
<form><input name="text" autocomplete="off" autofocus> <output>connecting</output></form>
<script>
  const form = document.querySelector("form"), state = form.querySelector("output");
  const socket = new WebSocket(location.href.replace("http", "ws") + "/chat");
  socket.onopen = () => state.value = "open";
  socket.onclose = event => state.value = `closed (${{event.code}} ${{event.reason}})`;
  socket.onmessage = event => {{
    const item = document.createElement("li");
    item.textContent = event.data;
    document.querySelector("#said").append(item);
  }};
  form.onsubmit = event => {{
    event.preventDefault();
    socket.send(form.text.value);
    form.text.value = "";
  }};
</script>
"""

app = Flask(__name__)
upgrader = Upgrader(compression=True, read_limit=4096)  # pages of other sites are refused
lock = threading.Lock()
rooms: dict[str, set[Conn]] = {}


@app.get("/<room>")
def page(room: str) -> str:
    return PAGE.format(room="".join(filter(str.isalnum, room)))


@app.get("/<room>/chat", websocket=True)
@websocket(upgrader)
def chat(conn: Conn, room: str) -> None:
    with lock:
        rooms.setdefault(room, set()).add(conn)
    try:
        for message in conn:
            tell(room, str(message))
    finally:
        with lock:
            rooms[room].discard(conn)
            if not rooms[room]:
                del rooms[room]


def tell(room: str, text: str) -> None:
    message = PreparedMessage(Kind.TEXT, text)  # encoded once for all
    with lock:
        present = list(rooms[room])
    for conn in present:
        try:
            conn.write_prepared(message, timeout=1)
        except Exception:
            conn.abort()  # gone, or too slow for this room


if __name__ == "__main__":
    app.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
