"""Running inside somebody's event loop: addresses, exposure, an orderly end within seconds."""

import asyncio
import signal
import time

import httpx
import pytest

from skillaudit.contract.errors import SettingsError, UnreachableError
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.settings import Settings
from skillaudit.query.access import is_loopback, read_token, split_listen, url_of
from skillaudit.query.server import HttpServer, create_app, serve

HERE = Settings(http_listen="127.0.0.1:0")


async def test_port_0_takes_a_free_one_and_says_which():
    """Two servers, two addresses."""
    app = create_app(MemoryStorage())
    async with HttpServer(app, HERE) as one, HttpServer(app, HERE) as other:
        assert one.url != other.url
        async with httpx.AsyncClient() as http:
            for server in (one, other):
                assert (await http.get(server.url + "/livez")).is_success
        assert "serving" in repr(one)
    assert "ended" in repr(one)


async def test_a_taken_port_is_an_error_not_an_exit():
    """The library would end the process."""
    async with HttpServer(create_app(MemoryStorage()), HERE) as server:
        taken = Settings(http_listen=server.url.removeprefix("http://"))
        with pytest.raises(UnreachableError, match="http_listen"):
            await HttpServer(create_app(MemoryStorage()), taken).start()


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "audit.example:0"])
def test_off_loopback_a_token_is_needed(listen):
    """Or the word of somebody who stands in front."""
    settings = Settings(http_listen=listen)
    with pytest.raises(SettingsError, match="token_file"):
        HttpServer(create_app(MemoryStorage()), settings)
    HttpServer(create_app(MemoryStorage(), token="word"), settings)
    allowed = Settings(http_listen=listen, http_allow_unauthenticated=True)
    HttpServer(create_app(MemoryStorage()), allowed)


async def test_every_interface_is_reached_by_loopback():
    """The address that is reported is one that can be asked."""
    settings = Settings(http_listen="0.0.0.0:0")
    async with HttpServer(create_app(MemoryStorage(), token="word"), settings) as server:
        assert server.url.startswith("http://127.0.0.1:")
        async with httpx.AsyncClient() as http:
            assert (await http.get(server.url + "/livez")).is_success


class Slow(MemoryStorage):
    """A reader that answers when it is told to."""

    def __init__(self):
        super().__init__()
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def positions(self):
        self.asked.set()
        await self.answer.wait()
        return {}


async def test_requests_in_work_are_answered_before_the_end():
    """Told to stop, it lets them end, and takes no more."""
    reader, stop, url = Slow(), asyncio.Event(), asyncio.Queue()
    serving = asyncio.create_task(serve(create_app(reader), HERE, stop=stop, started=url.put_nowait))
    async with httpx.AsyncClient(base_url=await url.get()) as http:
        asking = asyncio.create_task(http.get("/api/v1/positions"))
        await reader.asked.wait()
        stop.set()
        reader.answer.set()
        assert (await asking).is_success
        await asyncio.wait_for(serving, 5)
        with pytest.raises(httpx.ConnectError):
            await http.get("/livez")


async def test_an_answer_that_never_comes_does_not_keep_it():
    """Within seconds it ends all the same."""
    reader, stop, url = Slow(), asyncio.Event(), asyncio.Queue()
    serving = asyncio.create_task(serve(create_app(reader), HERE, stop=stop, started=url.put_nowait))
    async with httpx.AsyncClient(base_url=await url.get()) as http:
        asking = asyncio.create_task(http.get("/api/v1/positions"))
        await reader.asked.wait()
        begun = time.monotonic()
        stop.set()
        await serving
        assert time.monotonic() - begun < 15
        await asyncio.wait({asking})
        assert asking.exception() is not None or asking.result().status_code >= 500


async def test_signals_stay_the_hosts():
    """Handlers are as they were while it serves."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with HttpServer(create_app(MemoryStorage()), HERE):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("127.0.0.1:8765", ("127.0.0.1", 8765)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_listen_addresses(listen, expected):
    """Host and port."""
    assert split_listen(listen) == expected


@pytest.mark.parametrize("listen", ["", "8765", "127.0.0.1", ":8765", "h:x", "h:70000", "h:-1", "h:²"])
def test_listen_addresses_that_are_none(listen):
    """Refused by name."""
    with pytest.raises(SettingsError, match="http_listen"):
        split_listen(listen)


def test_loopback_and_urls():
    """Names that only this machine reaches, and how to ask them."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "")))
    assert url_of("::", 1) == "http://[::1]:1"
    assert url_of("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert url_of("fd00::1", 1) == "http://[fd00::1]:1"
    assert url_of("audit.example", 1) == "http://audit.example:1"


def test_the_tokens_file(tmp_path):
    """One word; no file set, no token."""
    assert read_token(None) is None
    path = tmp_path / "token"
    path.write_text("word\n")
    assert read_token(path) == "word"
    for text in ("", "\n", "two words", "é"):
        path.write_text(text)
        with pytest.raises(SettingsError, match="token_file"):
            read_token(path)
    with pytest.raises(SettingsError, match="token_file"):
        read_token(tmp_path / "none")
