"""An echo in Django, in one file.

python examples/django_echo.py          PORT=8080 in the environment; then open it

In production: gunicorn --threads 8 --chdir examples django_echo:application; docs/django.md says
more.
"""

import os
import sys

try:
    from django.conf import settings
except ModuleNotFoundError:
    sys.exit("this example needs Django: pip install django")

from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from koko.adapters.django import websocket
from koko.sync import Conn, Upgrader

PAGE = """<!doctype html>
<title>Django echo</title>
<form><input name="text" autofocus> <output>connecting</output></form>
<script>
  const form = document.querySelector("form"), output = form.querySelector("output");
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/echo/loud");
  socket.onopen = () => output.value = "open";
  socket.onmessage = event => output.value = event.data;
  form.onsubmit = event => { event.preventDefault(); socket.send(form.text.value); };
</script>
"""

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this example",
    WSGI_APPLICATION=f"{__name__}.application",
)


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(PAGE)


@websocket(Upgrader(compression=True), thread=True, max_connections=1000)
def echo(conn: Conn, request: HttpRequest, voice: str) -> None:
    for message in conn:
        conn.send(message.upper() if voice == "loud" else message)


urlpatterns = [path("", page), path("echo/<str:voice>", echo)]
application = get_wsgi_application()

if __name__ == "__main__":
    port = os.environ.get("PORT", "8080")
    execute_from_command_line([__file__, "runserver", "--noreload", port])
