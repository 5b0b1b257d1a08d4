"""Handlers of signals, and Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
import support

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process that is sent such a signal")

MINE = signal.SIGUSR1 if sys.platform != "win32" else signal.SIGTERM


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers = {sig: signal.getsignal(sig) for sig in (MINE, signal.SIGINT)}
    yield
    for sig, handler in handlers.items():
        assert signal.getsignal(sig) in (handler, signal.SIG_DFL), sig
        signal.signal(sig, handler)


async def came(event: asyncio.Event) -> None:
    await event.wait()
    event.clear()


def test_a_handler_is_called_for_each_signal_with_its_arguments(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        event, said = asyncio.Event(), []

        def handle(*arguments: object) -> None:
            assert asyncio.get_running_loop() is loop
            said.append(arguments)
            event.set()

        loop.add_signal_handler(MINE, handle, "a", 1)
        for count in range(1, 4):
            signal.raise_signal(MINE)
            await came(event)
            assert said == [("a", 1)] * count
        assert loop.remove_signal_handler(MINE)
        assert not loop.remove_signal_handler(MINE)
        assert signal.getsignal(MINE) is signal.SIG_DFL

    run(main())


@posix
def test_a_signal_from_outside_wakes_a_loop_that_waits(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        loop.add_signal_handler(MINE, event.set)
        for _ in range(3):
            sender = await asyncio.create_subprocess_exec("kill", "-USR1", str(os.getpid()))
            await came(event)
            await sender.wait()
        loop.remove_signal_handler(MINE)

    run(main())


@posix
def test_a_signal_to_another_thread_is_handled_by_the_loop(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        loop.add_signal_handler(MINE, event.set)
        await loop.run_in_executor(None, lambda: signal.pthread_kill(threading.get_ident(), MINE))
        await came(event)

    run(main())


def test_another_handler_takes_the_place_of_the_one_before(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = asyncio.Event(), asyncio.Event()
        loop.add_signal_handler(MINE, first.set)
        loop.add_signal_handler(MINE, second.set)
        signal.raise_signal(MINE)
        await came(second)
        assert not first.is_set()

    run(main())


def test_a_closed_loop_gives_the_signals_back(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(MINE, print)
        loop.add_signal_handler(signal.SIGINT, print)
        assert signal.getsignal(MINE) is not signal.SIG_DFL

    run(main())
    assert signal.getsignal(MINE) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_can_not_be_handled_is_refused(run) -> None:
    async def handler() -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="coroutines"):
            loop.add_signal_handler(MINE, handler)
        with pytest.raises(TypeError, match="int"):
            loop.add_signal_handler("SIGTERM", print)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="invalid"):
            loop.add_signal_handler(12345, print)
        with pytest.raises(ValueError, match="invalid"):
            loop.remove_signal_handler(12345)
        if sys.platform != "win32":
            with pytest.raises(RuntimeError, match="cannot be caught"):
                loop.add_signal_handler(signal.SIGKILL, print)
        assert not loop.remove_signal_handler(MINE)

    run(main())


def test_only_the_main_thread_adds_handlers(run) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="main thread"):
            asyncio.get_running_loop().add_signal_handler(MINE, print)

    support.Background(run, main()).result()


def test_a_handler_that_raises_is_reported_and_the_loop_goes_on(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported = asyncio.Event()
        loop.set_exception_handler(lambda *_: reported.set())
        loop.add_signal_handler(MINE, lambda: 1 / 0)
        signal.raise_signal(MINE)
        await reported.wait()

    run(main())


def test_ctrl_c_cancels_the_main_task_and_is_raised(run) -> None:
    ended = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert ended == [True]


@posix
def test_ctrl_c_wakes_a_loop_that_waits_for_nothing(run) -> None:
    async def main() -> None:
        sender = await asyncio.create_subprocess_shell(f"sleep 0.05; kill -INT {os.getpid()}")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await sender.wait()

    with pytest.raises(KeyboardInterrupt):
        run(main())


def test_a_handler_of_ctrl_c_is_called_instead(run) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        loop.add_signal_handler(signal.SIGINT, event.set)
        signal.raise_signal(signal.SIGINT)
        await came(event)
        return "went on"

    assert run(main()) == "went on"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@support.needs_fork
def test_a_forked_child_has_its_signals_for_itself(run) -> None:
    def in_child() -> None:
        assert signal.getsignal(MINE) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    async def main() -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        loop.add_signal_handler(MINE, event.set)
        loop.add_signal_handler(signal.SIGINT, event.set)
        support.in_child(in_child)
        assert not event.is_set()
        signal.raise_signal(MINE)
        await came(event)

    run(main())
