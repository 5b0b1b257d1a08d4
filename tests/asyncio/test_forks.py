"""What a fork does to a loop: nothing in the parent; in the child it is over, and another one can begin."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import warnings

import pytest
import support

import unio
import unio.asyncio

pytestmark = support.needs_fork


async def work(number: int) -> int:
    await asyncio.sleep(0)
    process = await asyncio.create_subprocess_exec("true")
    return number + await process.wait()


def work_on_a_loop(number: int) -> int:
    return unio.asyncio.run(work(number))


def test_a_loop_that_runs_is_over_in_the_child_which_may_have_another(run, pair) -> None:
    near, far = pair
    near.setblocking(False)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def in_child() -> None:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            sleep = asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="from which this one was forked"):
                loop.run_until_complete(sleep)
            sleep.close()
            assert work_on_a_loop(5) == 5
            loop.close()
            assert loop.is_closed()

        loop.add_reader(far, lambda: None)
        receiving = asyncio.ensure_future(loop.sock_recv(near, 8))
        await asyncio.sleep(0)
        support.in_child(in_child)
        far.sendall(b"hello")
        assert await receiving == b"hello"
        loop.remove_reader(far)
        assert await work(1) == 1

    run(main())


def test_a_loop_that_does_not_run_is_over_in_the_child_as_well(backend, monkeypatch) -> None:
    monkeypatch.setenv(unio.backends.VARIABLE, backend)
    loop = unio.asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))

    def in_child() -> None:
        sleep = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="from which this one was forked"):
            loop.run_until_complete(sleep)
        sleep.close()
        loop.close()
        assert work_on_a_loop(3) == 3

    support.in_child(in_child)
    assert loop.run_until_complete(work(7)) == 7
    loop.close()


def test_processes_of_a_pool_have_loops_of_their_own(run) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("fork")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads: that is the test
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                return await asyncio.gather(*(loop.run_in_executor(pool, work_on_a_loop, each) for each in range(4)))

    assert run(main()) == [0, 1, 2, 3]
