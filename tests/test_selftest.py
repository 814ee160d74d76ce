"""The self-test passes with every real libopus, and finds one that decodes wrongly."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
from opuspool_workers import libopus, selftest
from opuspool_workers.guard import GuardedBuffer
from opuspool_workers.selftest import SelfTestError
from reference import ReferenceDecoder, all_libopus, version

from opuspool import toc
from opuspool.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from ctypes import c_void_p
    from pathlib import Path

    from opuspool_workers.libopus import LibOpus


def declared(path: Path) -> LibOpus:
    return libopus._declare(ctypes.CDLL(str(path)), str(path))


@cache
def lib() -> LibOpus:
    return declared(all_libopus()[0])


def check(library: LibOpus) -> None:
    selftest.check(library, GuardedBuffer(46080))


@pytest.mark.parametrize("path", all_libopus(), ids=version)
def test_every_real_libopus_passes(path: Path) -> None:
    check(declared(path))


@pytest.mark.parametrize("path", all_libopus(), ids=version)
def test_the_known_values_are_those_of_the_reference(path: Path) -> None:
    for known in selftest._KNOWN:
        reference = ReferenceDecoder(16000, 1, library=path)
        assert reference.decode(known.packet).size == 320
        assert reference.final_range == known.final_range


def test_both_of_libopus_decoders_are_tried() -> None:
    found = {toc.words(known.packet).split()[0] for known in selftest._KNOWN}
    assert found == {"SILK", "CELT"}


def one_bit(state: int, packet: bytes, *rest: int) -> int:
    """Read one bit of the packet wrongly."""
    return lib().decode_float(state, packet[:9] + bytes([packet[9] ^ 1]) + packet[10:], *rest)


def too_short(*arguments: object) -> int:
    return lib().decode_float(*arguments) - 1


def refuse(*_: object) -> int:
    return -3


WRONG: dict[str, Callable[..., int]] = {
    "a bit": one_bit,
    "a sample": too_short,
    "everything": refuse,
}


@pytest.mark.parametrize("decode", WRONG.values(), ids=WRONG)
def test_a_libopus_that_decodes_wrongly_is_found(decode: Callable[..., int]) -> None:
    with pytest.raises(SelfTestError, match="decodes a known SILK packet") as caught:
        check(replace(lib(), decode_float=decode))
    assert lib().path in str(caught.value)
    assert "[workers] libopus" in str(caught.value)


def test_one_that_only_fails_at_celt_is_found_too() -> None:
    def decode(state: int, packet: bytes, *rest: int) -> int:
        use = one_bit if packet[0] >= 0x80 else lib().decode_float
        return use(state, packet, *rest)

    with pytest.raises(SelfTestError, match="CELT"):
        check(replace(lib(), decode_float=decode))


@pytest.mark.parametrize("decode", [lib().decode_float, refuse], ids=["passes", "fails"])
def test_its_decoders_are_destroyed_however_it_ends(decode: Callable[..., int]) -> None:
    alive: list[int | None] = []

    def create(*arguments: object) -> int | None:
        alive.append(lib().create(*arguments))
        return alive[-1]

    def destroy(state: c_void_p) -> None:
        alive.remove(state.value)
        lib().destroy(state)

    counting = replace(lib(), create=create, destroy=destroy, decode_float=decode)
    try:
        check(counting)
    except SelfTestError:
        assert decode is refuse
    assert alive == []


FAILING = """
import runpy, sys
from opuspool_workers import selftest
selftest._KNOWN = tuple(known._replace(final_range=1) for known in selftest._KNOWN)
from opuspool_workers import __main__
sys.exit(__main__.main())
"""


@pytest.mark.skipif(os.name != "posix", reason="descriptors are inherited")
def test_a_worker_whose_libopus_fails_it_says_so_and_leaves() -> None:
    """Before it connects to anybody."""
    settings = (
        b'{"endpoint": "tcp://127.0.0.1:1", "identity": "77", "recorder_fd": 2, "fault_fd": 2,'
        b' "libopus": "", "socket": "", "own_directory": false, "curve": {}}\n'
    )
    command, pipe = [sys.executable, "-c", FAILING], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write(settings)
        worker.stdin.flush()  # and not closed: its supervisor lives
        said = worker.stderr.read()
    assert worker.returncode == ExitCode.SELF_TEST
    assert said.startswith(b"opuspool-worker: ")
    assert b"decodes a known SILK packet" in said
