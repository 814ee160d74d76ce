"""`AsyncPool`: the same names, awaited, from any number of tasks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from killing import check_books, pids, stopped
from recordings import speech_packets
from reference import golden

import opuspool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, None]], None]

PACKETS = speech_packets(1.0)
EXAMPLE = Path(__file__).parents[1] / "examples" / "speech.opus"


def _asyncio(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def _uvloop(main: Coroutine[Any, Any, None]) -> None:
    uvloop = pytest.importorskip("uvloop")
    uvloop.run(main)


class _UnwatchingLoop(asyncio.SelectorEventLoop):
    """Cannot watch descriptors, as Windows's usual loop."""

    def add_reader(self, *_: object) -> None:
        raise NotImplementedError


def _unwatching(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_UnwatchingLoop) as runner:
        runner.run(main)


RUNNERS: dict[str, Run] = {"asyncio": _asyncio, "uvloop": _uvloop, "unwatching": _unwatching}


@pytest.fixture(params=RUNNERS)
def run(request: pytest.FixtureRequest) -> Run:
    return RUNNERS[request.param]


def test_a_hundred_tasks_share_a_pool(run: Run) -> None:
    """Each stream decodes as if it were alone."""

    async def main() -> None:
        expected = golden(PACKETS)
        async with opuspool.AsyncPool(workers=2) as pool:

            async def speak() -> bool:
                async with pool.stream() as stream:
                    pcm = [await stream.decode(packet) for packet in PACKETS]
                return np.array_equal(np.concatenate(pcm), expected)

            assert all(await asyncio.gather(*[speak() for _ in range(100)]))
            check_books(await pool.status())

    run(main())


def test_a_cancelled_call_leaves_the_stream_usable(run: Run) -> None:
    """The packet counts as decoded, and the next one comes out right."""

    async def main() -> None:
        expected = golden(PACKETS).reshape(len(PACKETS), -1)
        async with opuspool.AsyncPool(workers=1) as pool, pool.stream() as stream:

            async def cancel_one(packet: bytes) -> None:
                worker = pids(await pool.status())[0]
                with stopped(worker):  # else the call might be complete as soon as it is sent
                    task = asyncio.ensure_future(stream.decode(packet))
                    await asyncio.sleep(0)  # the call is under way
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task

            for index, packet in enumerate(PACKETS):
                if index % 3 == 1:
                    await cancel_one(packet)
                else:
                    assert np.array_equal(await stream.decode(packet), expected[index])
            check_books(await pool.status())

    run(main())


def test_a_timeout_of_asyncio_leaves_the_stream_usable(run: Run) -> None:
    """`asyncio.timeout` cancels; the pool does not mind."""

    async def main() -> None:
        async with opuspool.AsyncPool(workers=1) as pool, pool.stream() as stream:
            await stream.decode(PACKETS[0])
            worker = pids(await pool.status())[0]
            with stopped(worker), pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await stream.decode(PACKETS[1])
            assert (await stream.decode(PACKETS[2])).shape == (320,)

    run(main())


def test_files_utterances_and_errors(run: Run) -> None:
    """As in `Pool`."""

    async def main() -> None:
        async with opuspool.AsyncPool(workers=2) as pool:
            assert np.array_equal(await pool.decode(PACKETS), golden(PACKETS))
            assert len(await pool.decode_file(EXAMPLE)) > 9 * 16000
            async with pool.stream() as stream:
                with pytest.raises(opuspool.InvalidPacketError):
                    await stream.decode(b"")
                assert (await stream.decode_many(PACKETS[:2])).shape == (640,)
            with pytest.raises(opuspool.StreamClosedError):
                await stream.decode(PACKETS[0])
            with pytest.raises(ValueError, match="sample_rate"):
                await pool.decode(PACKETS, sample_rate=1)
        with pytest.raises(opuspool.PoolClosedError):
            await pool.decode(PACKETS)

    run(main())


def test_a_pool_that_is_not_open_says_so() -> None:
    """Before `async with`."""

    async def main() -> None:
        with pytest.raises(opuspool.PoolClosedError, match="async with"):
            await opuspool.AsyncPool().decode(PACKETS)

    asyncio.run(main())
