"""A Flask application with pages and conversations that give their thread back."""

from __future__ import annotations

import os
import sys
import threading
import time

from flask import Flask, abort, g, request, session

from koko.adapters.flask import websocket
from koko.sync import Conn, Upgrader

app = Flask(__name__)
app.secret_key = "of a test"
torn_down: list[str] = []


@app.before_request
def remember() -> None:
    g.path = request.path


@app.teardown_request
def note(error: BaseException | None) -> None:
    torn_down.append(threading.current_thread().name)


@app.get("/")
def page() -> str:
    session["user"] = "ada"
    return f"{threading.active_count()}"


@app.get("/torn")
def torn() -> list[str]:
    return torn_down


@app.get("/talk/<room>", websocket=True)
@websocket(Upgrader(), thread=True)
def talk(conn: Conn, room: str) -> None:
    for message in conn:
        said = f"{session.get('user')} in {room} at {request.path}, {g.get('path')}: {message}"
        conn.send(said)


@app.get("/fails", websocket=True)
@websocket(Upgrader(), thread=True)
def fails(conn: Conn) -> None:
    conn.send(threading.current_thread().name)
    raise LookupError("on purpose")


@app.get("/held", websocket=True)
@websocket(Upgrader())
def held(conn: Conn) -> None:
    conn.send(f"{os.getpid()}")
    for message in conn:
        conn.send(message)


@app.get("/free", websocket=True)
@websocket(Upgrader(), thread=True)
def free(conn: Conn) -> None:
    try:
        conn.send(f"{os.getpid()}")
        conn.wait_closed()
    finally:
        time.sleep(0.2)
        sys.stderr.write(f"handler ended: {conn.ending}\n")


@app.get("/two", websocket=True)
@websocket(Upgrader(), thread=True, max_connections=2)
def two(conn: Conn) -> None:
    conn.send(conn.recv())


@app.get("/private", websocket=True)
def private() -> object:
    if "user" not in session:
        abort(401)
    return talk(room="private")
