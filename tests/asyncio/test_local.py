"""Local sockets: connections to a path, servers at one, and the paths that they leave behind."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MakePath = Callable[[str], Path]

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("this Python has no AF_UNIX", allow_module_level=True)

abstract = pytest.mark.skipif(sys.platform not in ("linux", "android"), reason="only Linux has abstract names")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


async def say(text: bytes, path: object = None, **options: object) -> bytes:
    """What a server answers."""
    reader, writer = await asyncio.open_unix_connection(path, **options)  # type: ignore[arg-type]
    writer.write(text)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_clients_connect_to_a_path(run, short_path: MakePath) -> None:
    async def main() -> None:
        path = short_path("here")
        for form in (path, str(path), os.fsencode(path)):
            server = await asyncio.start_unix_server(echo, form)
            assert await asyncio.gather(*(say(b"hello\n", form) for _ in range(10))) == [b"hello\n"] * 10
            server.close()
            await server.wait_closed()

    run(main())


def test_a_socket_of_the_programs_serves_or_is_connected(run, short_path: MakePath, resources) -> None:
    path = str(short_path("here"))
    listening = resources.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(path)
    client = resources.enter_context(socket.socket(socket.AF_UNIX))

    async def main() -> None:
        server = await asyncio.start_unix_server(echo, sock=listening)
        client.connect(path)
        assert await say(b"hello\n", sock=client) == b"hello\n"
        server.close()

    run(main())


@abstract
def test_abstract_names_are_no_files(run) -> None:
    async def main() -> None:
        for name in (f"\0unio-{os.getpid()}", b"\0unio-%d" % os.getpid()):
            server = await asyncio.start_unix_server(echo, name)
            assert await say(b"hello\n", name) == b"hello\n"
            server.close()
            await server.wait_closed()

    run(main())


def test_a_server_takes_the_place_of_one_that_is_gone(run, short_path: MakePath) -> None:
    path = short_path("here")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def main() -> None:
        server = await asyncio.start_unix_server(echo, path)
        assert await say(b"hello\n", path) == b"hello\n"
        server.close()

    run(main())


def test_what_is_no_socket_keeps_its_path(run, short_path: MakePath) -> None:
    path = short_path("here")
    path.write_text("content")

    async def main() -> None:
        with pytest.raises(OSError, match=r"Address .* is already in use"):
            await asyncio.start_unix_server(echo, path)
        assert path.read_text() == "content"
        with pytest.raises(OSError, match=r"."):
            await asyncio.start_unix_server(echo, short_path("no") / "directory")

    run(main())


def test_the_path_goes_with_its_server_if_that_is_wanted(run, short_path: MakePath) -> None:
    async def main() -> None:
        path = short_path("here")
        for goes in (True, False):
            server = await asyncio.start_unix_server(echo, path, cleanup_socket=goes)  # type: ignore[call-arg]
            assert path.is_socket()
            server.close()
            await server.wait_closed()
            assert path.exists() != goes
        server = await asyncio.start_unix_server(echo, path)
        server.close()
        assert path.exists() != (sys.version_info >= (3, 13))

    run(main())


def test_a_path_that_is_another_servers_by_now_stays(run, short_path: MakePath) -> None:
    async def main() -> None:
        path = short_path("here")
        first = await asyncio.start_unix_server(echo, path, cleanup_socket=True)  # type: ignore[call-arg]
        path.rename(short_path("there"))
        second = await asyncio.start_unix_server(echo, path)
        first.close()
        assert await say(b"hello\n", path) == b"hello\n"
        second.close()
        for left in ("here", "there"):
            short_path(left).unlink(missing_ok=True)

    run(main())


def test_a_path_that_was_removed_already_is_no_error(run, short_path: MakePath) -> None:
    async def main() -> None:
        path = short_path("here")
        server = await asyncio.start_unix_server(echo, path, cleanup_socket=True)  # type: ignore[call-arg]
        path.unlink()
        server.close()
        await server.wait_closed()

    run(main())


def test_nobody_at_a_path_is_an_error(run, short_path: MakePath) -> None:
    path = short_path("here")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await say(b"", short_path("there"))
        with pytest.raises(ConnectionRefusedError):
            await say(b"", path)

    run(main())


def test_contradictions_are_refused(run, short_path: MakePath, resources) -> None:
    path = str(short_path("here"))
    inet = resources.enter_context(socket.socket())
    datagram = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        connect, serve = loop.create_unix_connection, loop.create_unix_server
        for ask in (connect, serve):
            with pytest.raises(ValueError, match=r"no.* sock"):
                await ask(asyncio.Protocol)
            with pytest.raises(ValueError, match="at the same time"):
                await ask(asyncio.Protocol, path, sock=inet)
            for sock in (inet, datagram):
                with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected"):
                    await ask(asyncio.Protocol, sock=sock)
            for option in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
                with pytest.raises(ValueError, match=option):
                    await ask(asyncio.Protocol, path, **{option: 1})
        with pytest.raises(ValueError, match="server_hostname"):
            await connect(asyncio.Protocol, path, ssl=True)
        with pytest.raises(ValueError, match="server_hostname"):
            await connect(asyncio.Protocol, path, server_hostname="x")
        with pytest.raises(TypeError, match="ssl"):
            await serve(asyncio.Protocol, path, ssl=True)  # type: ignore[arg-type]

    run(main())


def test_a_server_may_be_started_later(run, short_path: MakePath) -> None:
    async def main() -> None:
        path = short_path("here")
        server = await asyncio.start_unix_server(echo, path, start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        assert await say(b"hello\n", path) == b"hello\n"
        server.close()

    run(main())
