"""A FastAPI application of every kind of endpoint. Nothing in it knows of Koko."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    Request,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
    status,
)
from fastapi.responses import JSONResponse

ENDS: list[str] = []  # how conversations ended, as their endpoints were told


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"greeting": "hello", "subscribers": set()}


app = FastAPI(lifespan=lifespan)
router = APIRouter(prefix="/api")


@app.get("/ends")
async def ends() -> list[str]:
    return ENDS


# Dependencies


async def by_token(token: Annotated[str | None, Query()] = None) -> str:
    if token != "good":
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "bad token")
    return "ada"


async def by_header(authorization: Annotated[str | None, Header()] = None) -> str:
    if authorization is None:
        challenge = {"WWW-Authenticate": "Bearer"}
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "log in first", challenge)
    return authorization.removeprefix("Bearer ")


async def session() -> AsyncIterator[str]:
    """What a conversation holds, and gives back at its end."""
    yield "session"
    ENDS.append("given back")


@app.websocket("/greeted")
async def greeted(
    websocket: WebSocket, user: Annotated[str, Depends(by_token)], times: int = 1
) -> None:
    await websocket.accept()
    await websocket.send_text(f"{websocket.state.greeting} {user}" * times)
    await websocket.close()


@router.websocket("/items/{item}")
async def items(
    websocket: WebSocket,
    item: int,
    user: Annotated[str, Depends(by_header)],
    kept: Annotated[str, Depends(session)],
) -> None:
    await websocket.accept()
    async for wanted in websocket.iter_json():
        await websocket.send_json({"item": item, "user": user, "wanted": wanted, "kept": kept})


@app.websocket("/late")
async def late(websocket: WebSocket) -> None:
    """Refuse what is open already, by an exception as from any helper."""
    await websocket.accept()
    await websocket.receive_text()
    raise WebSocketException(status.WS_1003_UNSUPPORTED_DATA, "no such thing")


@app.websocket("/denied")
async def denied(websocket: WebSocket) -> None:
    await websocket.send_denial_response(
        JSONResponse({"detail": "full"}, 503, {"Retry-After": "30"})
    )


@app.websocket("/shut")
async def shut(websocket: WebSocket) -> None:
    await websocket.close(code=4001)


# Conversations


@app.websocket("/asks")
async def asks(websocket: WebSocket) -> None:
    """Receive as most do, and learn how it ended."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_bytes(await websocket.receive_bytes())
    except WebSocketDisconnect as end:
        ENDS.append(f"asks: {end.code} {end.reason}".strip())


@app.websocket("/chooses")
async def chooses(websocket: WebSocket) -> None:
    chosen = next((name for name in ("v2", "v1") if name in websocket["subprotocols"]), None)
    await websocket.accept(subprotocol=chosen, headers=[(b"x-served-by", b"a")])
    await websocket.send_json({"chosen": chosen, "url": str(websocket.url.path)})
    await websocket.close(4000, "that was all")


@app.websocket("/ticks")
async def ticks(websocket: WebSocket) -> None:
    """Send and never receive."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text("tick")
            await asyncio.sleep(0.01)
    except WebSocketDisconnect as end:
        ENDS.append(f"ticks: {end.code}")


@app.websocket("/fails")
async def fails(websocket: WebSocket, late: bool = False, status: int = 0) -> None:
    if late or status:
        await websocket.accept()
    if status:
        raise HTTPException(status)
    raise LookupError("after accept" if late else "before accept")


# From a request to those who listen


@app.websocket("/news")
async def news(websocket: WebSocket) -> None:
    await websocket.accept()
    websocket.state.subscribers.add(websocket)
    await websocket.send_text("subscribed")
    async for _ in websocket.iter_text():
        pass
    websocket.state.subscribers.discard(websocket)


async def tell(subscribers: set[WebSocket], text: str) -> None:
    for subscriber in list(subscribers):
        await subscriber.send_text(text)


@app.get("/publish")
async def publish(request: Request, text: str, later: BackgroundTasks) -> str:
    later.add_task(tell, request.state.subscribers, text)
    return "accepted"


app.include_router(router)
