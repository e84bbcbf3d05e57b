"""Running the app inside an event loop that is somebody else's: no signal handlers, port 0 welcome, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Final, Self

import uvicorn
from fastapi import FastAPI

from skillaudit.contract.errors import SettingsError, UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.query.access import is_loopback, split_listen, url_of

STOP_TIMEOUT_S: Final = 3
"""How long requests in work may go on once the server was told to stop."""
KEEP_ALIVE_S: Final = 15
CONNECTIONS_WAITING_MAX: Final = 256


class _Server(uvicorn.Server):
    """uvicorn without its hands on the process: signals are the command line's business."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class HttpServer:
    """Serves one app at `settings.http_listen`. `async with` starts and stops it.

    Off loopback an app without a token is refused (`SettingsError`) unless `http_allow_unauthenticated` is set: what
    is stored are other people's conversations.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._host, self._port = split_listen(settings.http_listen)
        exposed = not is_loopback(self._host) and not getattr(app.state, "has_token", False)
        if exposed and not settings.http_allow_unauthenticated:
            raise SettingsError(
                f"http_listen {settings.http_listen} is reachable from other machines and there is no token: "
                "set token_file, or http_allow_unauthenticated=1 behind something that authenticates"
            )
        self._app = app
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.url = ""
        """Where it really listens, once started."""

    def __repr__(self) -> str:
        """Where, and whether it runs."""
        state = "stopped" if self._task is None else "ended" if self._task.done() else "serving"
        return f"{type(self).__name__}({self.url or self._host!r}, {state})"

    async def start(self) -> str:
        """Listen; returns the address. `UnreachableError` where the port is taken."""
        listener = await self._bind()
        self.url = url_of(self._host, listener.getsockname()[1])
        self._server = _Server(_config(self._app))
        self._task = asyncio.create_task(self._run(self._server, listener), name="skillaudit-http")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({listening, self._task}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._task.done():
            await self._task
        return self.url

    async def wait(self) -> None:
        """Return when the server has ended, or raise what ended it."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Take no more requests, let those in work end (bounded), close; safe to call again."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_S + 2)
        if not done:
            self._server.force_exit = True
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1)

    async def _bind(self) -> socket.socket:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            listener = socket.create_server(
                (str(address[0]), int(address[1])), family=family, backlog=CONNECTIONS_WAITING_MAX
            )
        except OSError as exc:
            raise UnreachableError(f"can't listen at {self._host}:{self._port} (http_listen): {exc}") from exc
        listener.setblocking(False)
        # An answer is two small packets, and the second must not wait for the first one's acknowledgement (40 ms). What is
        # accepted inherits it; asyncio sets it by itself only where the listener's protocol was named, and it isn't here.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener

    @staticmethod
    async def _run(server: _Server, listener: socket.socket) -> None:
        with contextlib.closing(listener):
            await server.serve(sockets=[listener])

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        await self.stop()


async def serve(
    app: FastAPI,
    settings: Settings,
    *,
    stop: asyncio.Event,
    started: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until `stop` is set; `started` hears the address, port 0 resolved. Ends within seconds, in order."""
    async with HttpServer(app, settings) as server:
        started(server.url)
        stopping = asyncio.create_task(stop.wait())
        serving = asyncio.create_task(server.wait())
        try:
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
        finally:
            stopping.cancel()
            serving.cancel()


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )
