"""What a worker answers by a lane when nobody waits for it any more: it is passed over."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING, cast

import pytest

from opuspool import calls, wire
from opuspool.calls import Call, StreamState
from opuspool.exchange import Exchange
from opuspool.lane import Lane
from opuspool.lanesocket import LaneSocket, unix_socket
from opuspool.streamformat import StreamFormat
from opuspool.wire import Kind, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opuspool.channel import Channel

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="lanes are Unix sockets")

WORKER, TOKEN, FOREVER = 7, 0xA11CE << 40, 1e12
PCM = (320).to_bytes(4, "little") + bytes(1280)


class Supervisor:
    """In place of a channel: takes everything, and says nothing."""

    def send(self, _frames: wire.Frames) -> bool:
        return True


class Scene:
    """A client's exchange with one stream, which is lent, and the worker's end of its lane.

    Attributes:
        exchange: the client's.
        stream: uses the lane.
        lane: the client's end.
    """

    def __init__(self, path: Path) -> None:
        self._listening = unix_socket()
        self._listening.bind(str(path))
        self._listening.listen()
        self._channel = cast("Channel", Supervisor())
        self.exchange = Exchange(Lane, Lane.close)
        self.stream = StreamState(1, StreamFormat())
        self._tell(WORKER, Status.LANE, str(path).encode())
        self.lane = self.exchange.lanes[WORKER]
        self._worker = LaneSocket(self._listening.accept()[0], 1 << 20)
        self._send(wire.pack_plain(Kind.PING))
        first = self.call()
        self._tell(first.number, Status.OK, PCM, count=1)
        self._tell(1, Status.LENT, wire.LENDING.pack(WORKER, TOKEN, 100, 10, 60_000))

    def _tell(self, number: int, status: Status, payload: bytes, count: int = 0) -> None:
        """The supervisor says something."""
        row = (number, len(payload), count, int(status))
        self.exchange.take(wire.parse(wire.pack(Kind.ANSWERS, [row], [payload])))

    def _send(self, frames: wire.Frames) -> list[Call]:
        """The worker says something; returns calls that are complete by it."""
        self._worker.send(frames)
        complete: list[Call] = []
        assert self.lane.wait(10)
        for message, due in self.lane.receive(time.monotonic()):
            complete += self.exchange.take_batch(self.lane, message, due)
        return complete

    def call(self) -> Call:
        """A call, sent."""
        call = Call(self.stream, calls.packed(b"\x48packet"), 1, 0, time.monotonic() + 60)
        self.exchange.outbox.append(call)
        assert self.exchange.send(self._channel) == []
        return call

    def recall(self) -> None:
        """The supervisor wants the stream back."""
        self._tell(1, Status.RECALL, wire.TOKEN.pack(TOKEN))

    def answer(self, call: Call, batch: int, payload: bytes = PCM) -> list[Call]:
        """The worker answers a call; returns calls that are complete by it."""
        row = (call.number, len(payload), 1, int(Status.OK))
        return self._send(wire.pack(Kind.ANSWERS, [row], [payload], batch))

    def close(self) -> None:
        """Close all sockets."""
        self.exchange.drop_lanes()
        self._worker.close()
        self._listening.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with closing(Scene(tmp_path / "lane")) as made:
        assert made.stream.lane is made.lane
        yield made


def test_an_answer_completes_its_call(scene: Scene) -> None:
    call = scene.call()
    assert scene.answer(call, call.batch) == [call]
    assert call.pcm().shape == (320,)
    assert call.pcm().flags.writeable
    assert len(scene.exchange) == scene.stream.pending == 0
    assert scene.stream.log.packets == 2


@pytest.mark.parametrize("recalled", [False, True], ids=["lent", "recalled"])
def test_an_answer_after_the_deadline_completes_nothing(scene: Scene, recalled: bool) -> None:
    """What was executed stands in the log, if the stream is still there."""
    call = scene.call()
    batch = call.batch
    assert scene.exchange.expired(FOREVER, FOREVER) == [call]
    if recalled:
        scene.recall()
    assert scene.answer(call, batch) == []
    assert len(scene.exchange) == scene.stream.pending == 0
    assert scene.stream.log.packets == (1 if recalled else 2)


def test_a_call_that_was_handed_back_is_the_supervisors_to_answer(scene: Scene) -> None:
    call = scene.call()
    batch = call.batch
    scene.recall()
    assert scene.answer(call, batch) == []
    assert len(scene.exchange) == scene.stream.pending == 1
    assert call.status is None


def test_an_answer_after_the_end_is_passed_over(scene: Scene) -> None:
    call = scene.call()
    assert scene.exchange.take_all() == [call]
    assert scene.answer(call, 1) == []
    assert call.status is None


@pytest.mark.parametrize("payload", [PCM[:-4], PCM + bytes(4), b"", bytes(3)], ids=len)
def test_an_answer_that_cannot_be_sends_the_stream_back(scene: Scene, payload: bytes) -> None:
    call = scene.call()
    assert scene.answer(call, call.batch, payload) == []
    assert scene.stream.lane is None
    assert len(scene.exchange) == 1
    assert call.status is None
