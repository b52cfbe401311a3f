"""A first hour: a new Django project, with Channels, is served by uvicorn on Koko."""

from __future__ import annotations

from urllib.request import ProxyHandler, build_opener

from koko.sync import dial
from tests.adapters.conftest import PATIENCE
from tests.first_hours.reader import Reader
from tests.frameworks.served import is_koko


def main() -> None:
    with Reader("django.md") as reader:
        reader.types("pip install django channels uvicorn koko")
        reader.types("django-admin startproject mysite .")
        reader.writes("mysite/consumers.py", "mysite/asgi.py", "mysite/settings.py")
        reader.types("python manage.py migrate")
        with reader.starts("uvicorn mysite.asgi:application --ws koko.uvicorn:Protocol") as site:
            assert is_koko(int(site.rpartition(":")[2]))
            pages_and_a_chat(site)


def pages_and_a_chat(site: str) -> None:
    opener = build_opener(ProxyHandler({}))
    with opener.open(f"http://{site}/admin/login/", timeout=PATIENCE) as answer:
        assert b"Django administration" in answer.read()
    url, of_its_page = f"ws://{site}/chat/kitchen", {"Origin": f"http://{site}"}
    with (
        dial(url, headers=of_its_page, proxy=None) as one,
        dial(url, headers=of_its_page, proxy=None) as other,
    ):
        one.write_json({"text": "hello"})
        for conn in (one, other):
            assert conn.read_json() == {"name": "a guest", "text": "hello"}


if __name__ == "__main__":
    main()
