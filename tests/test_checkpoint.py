"""A stream goes on in another process as if it had never moved; damaged checkpoints are refused."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import faults
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opuspool_workers import libopus
from opuspool_workers.checkpoint import Module, Relocator, _mappings, _module
from opuspool_workers.decoder import Decoder
from opuspool_workers.guard import GuardedBuffer
from recordings import generated_streams, real_streams, speech_packets
from reference import all_libopus, real_libopus, version

from opuspool.ops import Op, OpKind, pack_gain
from opuspool.streamformat import StreamFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="checkpoints need /proc")

PACKET, LOST, FEC, GAIN = OpKind.PACKET, OpKind.LOST, OpKind.FEC, OpKind.GAIN
LOSS = Op(LOST, b"")

PROGRAM = """
import json, sys
from hashlib import blake2b
from opuspool.ops import OpKind
from opuspool.streamformat import FORMATS
from opuspool_workers import libopus
from opuspool_workers.checkpoint import Relocator
from opuspool_workers.decoder import Decoder
from opuspool_workers.guard import GuardedBuffer

before = Relocator.snapshot()
lib = libopus.load(sys.argv[1])
buffer = GuardedBuffer(48000 * 12 // 100 * 8)
relocator = Relocator.create(before)
answers = []
for code, checkpoint, cut, operations in json.load(sys.stdin):
    decoder = Decoder(lib, FORMATS[code], buffer)
    if checkpoint:
        decoder.import_state(relocator.unpack(bytes.fromhex(checkpoint)))
    sounds = []
    for index, (kind, packet) in enumerate(operations):
        if index == cut:
            checkpoint = relocator.pack(decoder.export_state()).hex()
        samples = decoder.run(OpKind(kind), bytes.fromhex(packet))
        assert samples >= 0, samples
        sounds.append(blake2b(decoder.pcm(samples), digest_size=8).hexdigest())
    answers.append([checkpoint, sounds, decoder.final_range()])
    decoder.close()
json.dump(answers, sys.stdout)
"""
"""Runs histories; in each notes the checkpoint before the operation `cut`, and each one's PCM."""


class Case(NamedTuple):
    """A history of a stream, and the operation before which it moves."""

    name: str
    fmt: StreamFormat
    operations: list[Op]
    cut: int


class Answer(NamedTuple):
    """What a process made of a case."""

    checkpoint: str
    sounds: list[str]
    final_range: int


def in_a_process(
    library: Path, environment: dict[str, str], cases: list[tuple[Case, str, int]]
) -> list[Answer]:
    """Run the cases from a checkpoint ("": a fresh decoder) and an operation on."""
    rows: list[Any] = [
        [
            case.fmt.code,
            checkpoint,
            case.cut if start == 0 else -1,
            [[op.kind, op.packet.hex()] for op in case.operations[start:]],
        ]
        for case, checkpoint, start in cases
    ]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(library)],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [Answer(*row) for row in json.loads(process.stdout)]


def cases() -> Iterator[Case]:
    """Every mode, mono and stereo, both types of samples, losses and FEC around the move."""
    formats = [StreamFormat(rate, 1, "float32") for rate in (16000, 48000)]
    formats += [StreamFormat(48000, 2, "int16"), StreamFormat(8000, 2, "float32")]
    for at, stream in enumerate([*generated_streams(), *real_streams()]):
        operations = [Op(PACKET, packet) for packet in stream.packets[:80]]
        yield Case(stream.name, formats[at % len(formats)], operations, len(operations) // 2)

    packets = speech_packets(3, bitrate=32000, fec=True, loss_percent=30)
    before, after = ([Op(PACKET, packet) for packet in part] for part in (packets[:50], packets))
    fec = [Op(FEC, packets[51]), *after[51:]]
    gain = Op(GAIN, pack_gain(-700))
    for dtype in ("float32", "int16"):
        for name, operations, cut in (
            ("after a loss", [*before, LOSS, *after[51:]], 51),
            ("amid losses", [*before, *[LOSS] * 9, *after[59:]], 55),
            ("before a loss", [*before, LOSS, *after[51:]], 50),
            ("before FEC", [*before, *fec], 50),
            ("after FEC", [*before, *fec], 51),
            ("after a loss and before FEC", [*before[:-1], LOSS, *fec], 50),
            ("after a gain", [gain, *before, *after[50:]], 40),
            ("before anything", before, 0),
            ("after one packet", before, 1),
        ):
            yield Case(f"{name}, {dtype}", StreamFormat(16000, 1, dtype), operations, cut)


@pytest.mark.parametrize("path", all_libopus(), ids=version)
@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "behind the faulting one"])
def test_the_rest_of_a_stream_is_the_same_in_another_process(path: Path, wrapped: bool) -> None:
    """Bit for bit as in the decoder that went on; the library lies elsewhere there."""
    environment = faults.environment(real=path) if wrapped else {}
    library = faults.faulting_libopus() if wrapped else path
    histories = list(cases())
    there = in_a_process(library, environment, [(case, "", 0) for case in histories])
    moved = [
        (case, answer.checkpoint, case.cut) for case, answer in zip(histories, there, strict=True)
    ]
    here = in_a_process(library, environment, moved)
    for case, whole, rest in zip(histories, there, here, strict=True):
        assert rest.sounds == whole.sounds[case.cut :], case.name
        assert rest.final_range == whole.final_range, case.name


def addresses(library: Path, environment: dict[str, str]) -> list[int]:
    """Where the libraries lie in a new process, by a checkpoint that it makes."""
    case = Case("", StreamFormat(), [LOSS], 0)
    checkpoint = in_a_process(library, environment, [(case, "", 0)])[0].checkpoint
    data = bytes.fromhex(checkpoint)
    count = struct.unpack_from("<4sII", data)[1]
    return [struct.unpack_from("<16sQQ", data, 12 + 32 * index)[1] for index in range(count)]


def test_the_library_lies_elsewhere_in_each_process() -> None:
    """Else the tests above would show nothing."""
    if Path("/proc/sys/kernel/randomize_va_space").read_text().strip() == "0":
        pytest.skip("this system does not randomize addresses")
    assert addresses(real_libopus(), {}) != addresses(real_libopus(), {})


@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "behind the faulting one"])
def test_a_checkpoint_names_the_library_and_the_one_that_it_wraps(wrapped: bool) -> None:
    environment = faults.environment() if wrapped else {}
    library = faults.faulting_libopus() if wrapped else real_libopus()
    assert len(addresses(library, environment)) == 1 + wrapped


def test_a_library_that_was_there_before_is_known_by_its_name() -> None:
    """As with LD_PRELOAD; else the pointers into it would stay as they are."""
    library = real_libopus()
    environment = {"LD_PRELOAD": str(library)}
    history = Case("", StreamFormat(), [Op(PACKET, packet) for packet in speech_packets(1)], 25)
    (whole,) = in_a_process(library, environment, [(history, "", 0)])
    (rest,) = in_a_process(library, environment, [(history, whole.checkpoint, 25)])
    assert rest.sounds == whole.sounds[25:]


def test_a_library_whose_file_has_another_name_is_seen_too(tmp_path: Path) -> None:
    library = tmp_path / "speech codec"
    library.write_bytes(real_libopus().read_bytes())
    assert len(addresses(library, {})) == 1


# ---- in one process -------------------------------------------------------------------------


@cache
def lib() -> libopus.LibOpus:
    return libopus.load()


@cache
def relocator() -> Relocator:
    """A relocator as a worker has it; other tests have loaded other libraries into this process."""
    path = lib().path
    return Relocator([_module(path, *_mappings()[path])])


@cache
def state_of(channels: int) -> bytes:
    """The state of a decoder after a second of speech."""
    decoder = Decoder(lib(), StreamFormat(16000, channels), GuardedBuffer(15360))
    for packet in speech_packets(1, channels=channels):
        decoder.run(PACKET, packet)
    state = decoder.export_state()
    decoder.close()
    return state


def here() -> Module:
    (module,) = relocator()._by_identity.values()
    return module


def test_where_libraries_cannot_be_told_there_is_no_relocator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lib()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Relocator.create(Relocator.snapshot()) is None


def elsewhere(distance: int, *, identity: bytes | None = None, longer: int = 0) -> Relocator:
    """A relocator of a process in which the library lies at a distance from here."""
    module = here()
    start = module.start + distance
    end = module.end + distance + longer
    return Relocator([Module(identity or module.identity, start, end)])


@pytest.mark.parametrize("channels", [1, 2])
def test_in_the_same_process_nothing_changes(channels: int) -> None:
    state = state_of(channels)
    assert relocator().unpack(relocator().pack(state)) == state


@pytest.mark.parametrize("distance", [0x1000, -0x1000, 1 << 40, -(1 << 40)])
def test_only_words_that_point_into_the_library_are_shifted(distance: int) -> None:
    """There and back again; in between, only a few words differ, each by the distance."""
    state = state_of(2)
    moved = elsewhere(distance).unpack(relocator().pack(state))
    count = len(state) // 8
    pairs = zip(*(struct.unpack_from(f"<{count}Q", it) for it in (state, moved)), strict=True)
    differences = [there - here for here, there in pairs if here != there]
    assert 1 <= len(differences) <= 7
    assert set(differences) == {distance}
    assert relocator().unpack(elsewhere(distance).pack(moved)) == state


def test_the_edges_of_the_library_are_its_first_and_last_byte() -> None:
    module = here()
    words = [module.start - 1, module.start, module.end - 1, module.end]
    moved = elsewhere(0x10000).unpack(relocator().pack(struct.pack("<4Q", *words)))
    shifted = [module.start - 1, module.start + 0x10000, module.end - 1 + 0x10000, module.end]
    assert list(struct.unpack("<4Q", moved)) == shifted


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 12])
def test_a_state_may_end_amid_a_word(size: int) -> None:
    state = bytes(range(size))
    assert elsewhere(0x1000).unpack(relocator().pack(state)) == state


def test_pointers_stand_at_the_same_few_places_in_every_stream() -> None:
    """Nothing else in a state looks like a pointer: 7 places are all that a decoder has."""
    places: set[int] = set()
    for stream in [*generated_streams(), *real_streams()]:
        decoder = Decoder(lib(), StreamFormat(48000, 2), GuardedBuffer(46080))
        for packet in stream.packets[:15]:
            decoder.run(PACKET, packet)
            state = decoder.export_state()
            words = memoryview(state[: len(state) // 8 * 8]).cast("Q")
            places |= {at for at, word in enumerate(words) if here().start <= word < here().end}
        decoder.close()
    assert 1 <= len(places) <= 7


# ---- what is refused ------------------------------------------------------------------------


def test_the_checkpoint_of_another_library_is_refused() -> None:
    checkpoint = elsewhere(0x1000, identity=b"another, or newer").pack(state_of(1))
    with pytest.raises(ValueError, match="another libopus"):
        relocator().unpack(checkpoint[:12] + b"another library!" + checkpoint[28:])


def test_the_checkpoint_of_a_library_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="another size"):
        relocator().unpack(elsewhere(0x1000, longer=0x1000).pack(state_of(1)))


def test_a_checkpoint_that_names_no_library_is_refused() -> None:
    """Its pointers would be taken as they are."""
    with pytest.raises(ValueError, match="another libopus"):
        relocator().unpack(Relocator([]).pack(state_of(1)))


def test_a_checkpoint_that_names_a_library_twice_is_refused() -> None:
    checkpoint = relocator().pack(state_of(1))
    module = checkpoint[12:44]
    twice = struct.pack("<4sII", b"OCP1", 2, len(state_of(1))) + module * 2 + state_of(1)
    with pytest.raises(ValueError, match="another libopus"):
        relocator().unpack(twice)


def test_a_word_in_two_libraries_at_once_is_shifted_once() -> None:
    """Only a damaged checkpoint can say that they overlap; twice, the word could overflow."""
    top = (1 << 64) - 0x2000
    low = [Module(b"a" * 16, 0, 0x1000), Module(b"b" * 16, 0, 0x1000)]
    high = [Module(module.identity, top, top + 0x1000) for module in low]
    checkpoint = Relocator(high).pack(struct.pack("<Q", top + 8))
    assert Relocator(low).unpack(checkpoint) == struct.pack("<Q", 8)


def accepts_or_says_why(checkpoint: bytes) -> None:
    """Any error but ValueError would kill a worker."""
    with suppress(ValueError):
        assert len(relocator().unpack(checkpoint)) < len(checkpoint)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_checkpoint(data: bytes) -> None:
    for checkpoint in (data, b"OCP1" + data):
        with pytest.raises(ValueError, match="checkpoint"):
            relocator().unpack(checkpoint)


@given(st.integers(0, 44 + 18228 - 1))
def test_a_cut_checkpoint_is_refused(size: int) -> None:
    checkpoint = relocator().pack(state_of(1))
    for damaged in (checkpoint[: size % len(checkpoint)], checkpoint + bytes(size + 1)):
        with pytest.raises(ValueError, match="checkpoint"):
            relocator().unpack(damaged)


@given(st.dictionaries(st.integers(0, 60), st.integers(0, 255), max_size=8))
def test_a_damaged_head_is_taken_or_refused_and_nothing_else(changes: dict[int, int]) -> None:
    checkpoint = bytearray(relocator().pack(state_of(2)))
    for at, value in changes.items():
        checkpoint[at] = value
    accepts_or_says_why(bytes(checkpoint))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=4))
def test_any_list_of_libraries_is_taken_or_refused(rows: list[tuple[int, int]]) -> None:
    size = here().end - here().start
    modules = b"".join(
        struct.pack(
            "<16sQQ",
            here().identity if identity else bytes(16),
            start,
            min(start + size, 2**64 - 1),
        )
        for identity, start in rows
    )
    state = struct.pack("<3Q", here().start, 0, 2**64 - 1)
    accepts_or_says_why(struct.pack("<4sII", b"OCP1", len(rows), len(state)) + modules + state)
