"""The lifespan of an ASGI application: its startup and its shutdown."""

from __future__ import annotations

import asyncio
from typing import Any

from koko.misuse import WrongKindError
from koko.testing._application import Application, Event, call
from koko.testing._limit import LEAVE


class Lifespan:
    """Runs the lifespan of an application in a task of its own.

    An application that raises at this scope before it says anything has no lifespan, as the
    specification has it.

    Attributes:
        state: what the startup leaves for the scopes of connections.
    """

    def __init__(self, app: Application, timeout: float | None) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._timeout = timeout
        self._asked: asyncio.Queue[Event] = asyncio.Queue()
        self._said: asyncio.Queue[Event | None] = asyncio.Queue()  # None: the task has ended
        self._task: asyncio.Task[None]
        self._lives = False  # it has a lifespan

    async def startup(self) -> None:
        """Run the startup.

        Raises:
            TimeoutError: the application did not finish in time.
            RuntimeError: it said that it failed, and raised nothing itself.
        """
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._said.put_nowait(None))
        await self._pass("startup")

    async def shutdown(self) -> None:
        """Run the shutdown; waits as ``startup``, and raises what was raised since that as well."""
        if not self._task.done():
            await self._pass("shutdown")
        error = self._failure()
        if error is not None and self._lives:
            raise error

    async def cancel(self) -> None:
        """End it; who does not let itself be cancelled is left."""
        self._task.cancel()
        await asyncio.wait([self._task], timeout=LEAVE)

    async def _pass(self, name: str) -> None:
        self._asked.put_nowait({"type": f"lifespan.{name}"})
        try:
            async with asyncio.timeout(self._timeout):
                said = await self._said.get()
                if said is None or said["type"].endswith(".failed") or name == "shutdown":
                    await asyncio.wait([self._task])
        except TimeoutError:
            await self.cancel()
            late = f"the application did not finish its {name} within {self._timeout:g} s"
            raise TimeoutError(late) from None
        except BaseException:
            await self.cancel()
            raise
        if said is not None:
            self._lives = True
            self._check(said)
        elif isinstance(error := self._failure(), WrongKindError):
            raise error

    def _check(self, said: Event) -> None:
        """Raise what the application raised in its lifespan, or what it said instead."""
        if error := self._failure():
            raise error
        if said["type"].endswith(".failed"):
            raise RuntimeError(f"{said['type']}: {said.get('message', '')}")

    def _failure(self) -> BaseException | None:
        task = self._task
        return task.exception() if task.done() and not task.cancelled() else None

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        await call(self._app, scope, self._asked.get, self._say)

    async def _say(self, event: Event) -> None:
        self._said.put_nowait(event)
