"""The worker's loop: take a lease, run its steps, send its results; single-threaded."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from selectors import EVENT_READ
from typing import TYPE_CHECKING

import zmq

from opuspool import digests, wire
from opuspool.exitcause import caught
from opuspool.exitcodes import ExitCode
from opuspool.frames import Port
from opuspool.ops import is_one
from opuspool.recorder import LEASE, OP, PROGRESS, RECORD
from opuspool.streamformat import FORMATS
from opuspool.wire import TOKEN, Action, Kind, Status, Step
from opuspool_workers import operations
from opuspool_workers.decoder import Decoder, ProtocolError
from opuspool_workers.lanes import Lanes
from opuspool_workers.operations import OP_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from selectors import BaseSelector

    from opuspool.parent import DeathSignal, ParentWatch
    from opuspool.recorder import FlightRecorder
    from opuspool_workers.checkpoint import Relocator
    from opuspool_workers.clients import Client, Clients
    from opuspool_workers.guard import GuardedBuffer
    from opuspool_workers.libopus import LibOpus

# As plain numbers: they are used for every packet, and members of an IntEnum are slow.
_DECODE = int(Action.DECODE)
_OK, _FAILED_OPS = int(Status.OK), int(Status.FAILED_OPS)


class LeaseRunner:
    """Runs leases on this worker's decoders.

    Attributes:
        decoders: the decoder of each stream that lives here.
        lanes: those of them that are lent to clients.
    """

    def __init__(
        self,
        lib: LibOpus,
        buffer: GuardedBuffer,
        relocator: Relocator | None,
        recorder: FlightRecorder,
    ) -> None:
        self.decoders: dict[int, Decoder] = {}
        self.lanes = Lanes(recorder, relocator)
        self._lib = lib
        self._buffer = buffer
        self._relocator = relocator
        self._words = recorder.words
        self._results: list[wire.Row] = []
        self._data = bytearray()
        self._actions: dict[int, Callable[[int, Step, bytes], None]] = {
            Action.OPEN: self._open,
            Action.RESTORE: self._restore,
            Action.REPLAY: self._replay,
            Action.CHECKPOINT: self._checkpoint,
            Action.CLOSE: self._close,
            Action.LEND: self._lend,
        }

    def run(self, lease: wire.Message) -> wire.Frames:
        """Run every step of a lease; returns the message with its results.

        Raises:
            ProtocolError, WireError: the lease cannot be run.
            OSError: Windows: an access violation inside libopus.
        """
        words = self._words
        actions = self._actions
        self._results = []
        self._data = bytearray()
        words[RECORD] = 0
        words[OP] = 0
        words[LEASE] = lease.tag
        for index, (row, payload) in enumerate(zip(lease.rows, lease.payloads(), strict=True)):
            words[RECORD] = index
            words[OP] = 0
            words[PROGRESS] += 1
            stream, _, count, _, action = row
            if action == _DECODE:
                if count == 1 and is_one(payload):
                    self._decode_one(index, stream, payload)
                else:
                    self._decode(index, stream, count, payload)
                continue
            run = actions.get(action)
            if run is None:
                raise ProtocolError(f"unknown action {action}")
            run(index, Step._make(row), payload)
        words[LEASE] = 0
        return wire.pack(Kind.RESULTS, self._results, [self._data], lease.tag)

    def _open(self, _index: int, step: Step, _payload: bytes) -> None:
        self._close(_index, step, _payload)
        fmt = FORMATS.get(step.format)
        if fmt is None:
            raise ProtocolError(f"unknown format {step.format}")
        self.decoders[step.stream] = Decoder(self._lib, fmt, self._buffer)

    def _restore(self, index: int, step: Step, payload: bytes) -> None:
        if self._relocator is None:
            raise ProtocolError("a checkpoint, but this worker cannot read checkpoints")
        self._open(index, step, payload)
        try:
            self.decoders[step.stream].import_state(self._relocator.unpack(payload))
        except ValueError as error:  # libopus was replaced on disk: the journal alone serves
            _say(f"checkpoint not used: {error}")

    def _replay(self, _index: int, step: Step, payload: bytes) -> None:
        decoder = self._decoder(step.stream)
        operations.run(decoder, payload, step.ops, self._words, None)

    def _decode_one(self, index: int, stream: int, payload: bytes) -> None:
        """As `_decode`, of one operation; done for every packet of a live stream."""
        decoder = self._decoder(stream)
        samples = decoder.run(OP_KINDS[payload[3]], payload[4:], payload[2])
        size = decoder.append_outcome(self._data, samples)
        status = _OK if samples >= 0 else _FAILED_OPS
        self._results.append((index, size, 1, status))

    def _decode(self, index: int, stream: int, count: int, payload: bytes) -> None:
        decoder, data = self._decoder(stream), self._data
        start = len(data)
        data += bytes(4 * count)
        outcomes = operations.run(decoder, payload, count, self._words, data)
        struct.pack_into(f"<{count}i", data, start, *outcomes)
        status = _OK if min(outcomes) >= 0 else _FAILED_OPS
        self._results.append((index, len(data) - start, count, status))

    def _checkpoint(self, index: int, step: Step, _payload: bytes) -> None:
        state = b""
        if self._relocator is not None:
            state = self._relocator.pack(self._decoder(step.stream).export_state())
        self._results.append((index, len(state), 0, _OK))
        self._data += state

    def _close(self, _index: int, step: Step, _payload: bytes) -> None:
        decoder = self.decoders.pop(step.stream, None)
        if decoder is not None:
            self.lanes.take_back(step.stream)
            decoder.close()

    def _lend(self, _index: int, step: Step, payload: bytes) -> None:
        (token,) = TOKEN.unpack(payload)
        self.lanes.lend(step.stream, token, self._decoder(step.stream))

    def _decoder(self, stream: int) -> Decoder:
        try:
            return self.decoders[stream]
        except KeyError:
            raise ProtocolError(f"stream {stream} does not live here") from None


class Server:
    """Serves the supervisor, and clients by their lanes, until told to stop or orphaned.

    Args:
        socket: to the supervisor.
        clients: those with lanes; None: there are none.
        selector: where both are waited for; what it finds has a function to call as its data.
        runner: runs what they send.
        watch: tells that the supervisor is gone.
        death_signal: armed while anything runs.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        clients: Clients | None,
        selector: BaseSelector,
        runner: LeaseRunner,
        watch: ParentWatch,
        death_signal: DeathSignal,
    ) -> None:
        self._socket = socket
        self._port = Port(socket)
        self._clients = clients
        self._selector = selector
        self._watch = watch
        self._runner = runner
        self._death_signal = death_signal
        self._orphaned = False
        self._unsure = True  # ZeroMQ tells of a message once, perhaps while another one is sent

    def run(self) -> ExitCode:
        """Serve; returns why it ended."""
        selector, clients = self._selector, self._clients
        selector.register(int(self._socket.getsockopt(zmq.FD)), EVENT_READ, self._may_be_read)
        for fd in self._watch.filenos():
            selector.register(fd, EVENT_READ, self._lose_parent)
        while True:
            waiting = self._unsure or (clients is not None and clients.waiting)
            for key, _ in selector.select(0 if waiting else None):
                key.data()
            if self._orphaned:
                return ExitCode.ORPHANED
            if self._unsure:
                self._unsure = self._port.waits()
                if self._unsure and not self._receive():
                    return ExitCode.OK
            if clients is not None:
                for client, message in clients.take():
                    self._answer(clients, client, message)

    def _may_be_read(self) -> None:
        self._unsure = True

    def _lose_parent(self) -> None:
        self._orphaned = True

    def _receive(self) -> bool:
        message = wire.parse(self._port.take())
        if message.kind is Kind.LEASE:
            self._send(self._run(self._runner.run, message))
        elif message.kind is Kind.PING:
            self._send(wire.pack_plain(Kind.PING))
        elif message.kind is Kind.REFUSE:
            self._runner.lanes.refuse(digests.unpack(message.data))
        elif message.kind is Kind.STOP:
            return False
        else:
            raise ProtocolError(f"unexpected {message.kind.name}")
        return True

    def _answer(self, clients: Clients, client: Client, message: wire.Message) -> None:
        """Do what a client asks for by its lane; what it may not ask for is passed over."""
        reply: wire.Frames | None = None
        if message.kind is Kind.REQUESTS and self._runner.lanes.takes(message):
            reply = self._run(self._runner.lanes.run, message)
        elif message.kind is Kind.PING:
            reply = wire.pack_plain(Kind.PING)
        if reply is not None:
            clients.answer(client, reply)

    def _run(
        self, run: Callable[[wire.Message], wire.Frames], message: wire.Message
    ) -> wire.Frames | None:
        if not self._death_signal.arm():
            self._death_signal.disarm()
            return None  # the parent's end will be seen where it is waited for
        try:
            reply = run(message)
        except OSError as error:
            _leave_at_once(error)
        self._death_signal.disarm()
        return reply

    def _send(self, message: wire.Frames | None) -> None:
        if message is not None:
            with suppress(zmq.Again):  # the supervisor has gone: seen where it is waited for
                self._port.send(message)


def _leave_at_once(error: OSError) -> None:
    """Windows: ctypes caught an access violation; the heap is not to be trusted any more."""
    _say(caught(error))
    os._exit(ExitCode.FAULT)


def _say(text: str) -> None:
    with suppress(OSError):  # nobody may be reading
        os.write(2, f"opuspool-worker: {text}\n".encode())
