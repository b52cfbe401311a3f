"""A Django project in one file: pages, and conversations that use the database."""

from __future__ import annotations

import os
import threading

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse
from django.urls import path

from koko.adapters.django import websocket
from koko.sync import Conn, Upgrader

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("SITE_DATABASE", ":memory:"),
            "CONN_MAX_AGE": None,
        }
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    WSGI_APPLICATION=f"{__name__}.application",
)


def open_files() -> int:
    """Tell how often this process has its database open."""
    name = settings.DATABASES["default"]["NAME"]
    held = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(each) and os.readlink(each) == name for each in held)


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{open_files()}")


@websocket(Upgrader(), thread=True)
def query(conn: Conn, request: HttpRequest, number: int) -> None:
    with connection.cursor() as cursor:
        for _ in conn:
            cursor.execute("SELECT %s + 1", [number])
            conn.send(f"{cursor.fetchone()[0]} {threading.current_thread().name[:5]}")
    assert connections["default"].connection is not None


urlpatterns = [path("", page), path("query/<int:number>", query)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line([__file__, "runserver", "--noreload", "127.0.0.1:0"])
