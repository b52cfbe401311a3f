"""A first hour: a FastAPI application, as it runs already, gets Koko by a flag and nothing else."""

from __future__ import annotations

from koko.sync import dial
from tests.adapters.conftest import PATIENCE
from tests.first_hours.reader import Reader
from tests.frameworks.served import is_koko


def main() -> None:
    with Reader("fastapi.md") as reader:
        reader.types("pip install fastapi uvicorn koko")
        reader.writes("main.py")
        with reader.starts("uvicorn main:app") as site:
            chat(site)
            assert not is_koko(port(site))
        with reader.starts("uvicorn main:app --ws koko.uvicorn:Protocol") as site:
            chat(site)
            assert is_koko(port(site))


def chat(site: str) -> None:
    room = f"ws://{site}/chat/kitchen?token=token-of-"
    with dial(f"{room}ada", proxy=None) as ada, dial(f"{room}bob", proxy=None) as bob:
        ada.send("hello")
        assert [conn.recv(PATIENCE) for conn in (ada, bob)] == ["ada: hello"] * 2


def port(site: str) -> int:
    return int(site.rpartition(":")[2])


if __name__ == "__main__":
    main()
