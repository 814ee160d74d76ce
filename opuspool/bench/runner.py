"""The process of one rival: opens it, does the loads that it is told, closes it at end of input.

Each rival has a client process of its own, so that their memory and CPU time can be told apart, and
so that nothing of it is left when the input ends, even in the middle of a load.
"""

from __future__ import annotations

import _thread
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from opuspool.bench import usage
from opuspool.bench.check import check
from opuspool.bench.loads import LOADS
from opuspool.bench.messages import Answer, Cell, Order, Start
from opuspool.bench.rivals import RIVALS
from opuspool.bench.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.bench.rival import Rival

__all__ = ["main"]

_decoder = msgspec.json.Decoder(Start | Order)


def main() -> None:
    """Serve standard input."""
    answers = _own_stdout()
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(messages, busy), daemon=True).start()
    start = _decoder.decode(messages.get())
    if not isinstance(start, Start):
        raise TypeError("the first message opens a rival")
    rival = RIVALS[start.rival](start.setup)
    with suppress(KeyboardInterrupt):  # the input has ended in the middle of something
        busy.set()
        opened = _answer(answers, lambda: _open(rival, check_pcm=start.check))
        if opened:
            _serve(rival, messages, answers, busy)


def _serve(
    rival: Rival, messages: queue.SimpleQueue[bytes], answers: BinaryIO, busy: threading.Event
) -> None:
    try:
        while True:
            busy.clear()
            if not (line := messages.get()):
                return
            busy.set()
            order = _decoder.decode(line)
            if isinstance(order, Order):
                _answer(answers, partial(_measure, rival, order))
    finally:
        busy.clear()
        rival.close()


def _answer(answers: BinaryIO, run: Callable[[], Answer]) -> bool:
    try:
        answer = run()
    except Exception as error:  # noqa: BLE001  told to whoever started us
        answer = Answer(error=f"{type(error).__name__}: {error}")
    answers.write(msgspec.json.encode(answer) + b"\n")
    answers.flush()
    return answer.error is None


def _own_stdout() -> BinaryIO:
    """Standard output for answers alone: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _read(messages: queue.SimpleQueue[bytes], busy: threading.Event) -> None:
    for line in sys.stdin.buffer:
        messages.put(line)
    messages.put(b"")
    if not busy.is_set():
        return  # the main thread takes the empty message
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _open(rival: Rival, *, check_pcm: bool) -> Answer:
    rival.open()
    if check_pcm:
        check(rival)
    return Answer()


def _measure(rival: Rival, order: Order) -> Answer:
    load = LOADS[order.load]
    processes = rival.processes()
    before = usage.cpu_seconds(processes)
    window = Window(order.seconds)
    rival.run(load, window)
    after = usage.cpu_seconds(processes)
    thousands = len(window.calls) * load.packets / 1000
    cpu = {role: (after[role] - before[role]) / thousands for role in after}
    return Answer(cell=Cell(window.timings(load), cpu, usage.memory_mb(processes)))


if __name__ == "__main__":
    main()
