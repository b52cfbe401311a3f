"""A chat in Flask, with its page.

python examples/flask_chat.py           PORT=8080 in the environment; then open it twice

In production: gunicorn --threads 8 --chdir examples flask_chat:app, with one worker, because a
message reaches the visitors of its own process only; or --worker-class gevent. docs/flask.md
says more.
"""

import os
import sys
import threading

try:
    from flask import Flask
except ModuleNotFoundError:
    sys.exit("this example needs Flask: pip install flask")

from koko.adapters.flask import websocket
from koko.sync import Conn, Upgrader, broadcast

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
@websocket(upgrader, thread=True, max_connections=1000)
def chat(conn: Conn, room: str) -> None:
    with lock:
        rooms.setdefault(room, set()).add(conn)
    try:
        for message in conn:
            with lock:
                present = list(rooms[room])
            # Those that still have no room for it after a second are closed with 1013.
            broadcast(present, str(message), slow="close", timeout=1)
    finally:
        with lock:
            rooms[room].discard(conn)
            if not rooms[room]:
                del rooms[room]


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8080")))
