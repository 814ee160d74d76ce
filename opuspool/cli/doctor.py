"""`opuspool doctor`: whether decoding works here, and what to do where it does not."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from opuspool.cli import messages
from opuspool.cli.options import config_option, endpoint_option
from opuspool.errors import OpusPoolError, WorkerBootError

if TYPE_CHECKING:
    from opuspool.pool import Pool

__all__ = ["doctor"]

_TONE_HZ = 500
_TONE = (
    # Six packets of 20 ms, SILK at 8 kb/s: a tone of 500 Hz, RMS 0.35. Made with libopus 1.3.1.
    "08849dae4faa618018a129d4aaa3bb04bbb1e1525d1ed0",
    "08ac402e0ca27b63f4bfe1967b9a2d7f788a545babe0",
    "08a7f0276af2538412d890f0",
    "08a7f0276aedb3c7d986ea0a65647b6b2b811340",
    "08a7f0276aedb3c7d98585ff250a27d4582d",
    "08a7f0276aedb3c7d9858789c193e2fc8920",
)


@click.command(epilog="Exit codes: 0 decoding works, 1 it does not.")
@endpoint_option
@config_option
def doctor(*, endpoint: str | None, config: str | None) -> int:
    """Check this machine: versions, libopus, a test decode, the daemon."""
    _versions()
    works = _decoding(config)
    _daemon(endpoint, config)
    return 0 if works else 1


def _say(what: str, text: str) -> None:
    click.echo(f"{what + ':':<10} {text}")


def _versions() -> None:
    import soundfile
    import zmq

    _say("python", f"{platform.python_version()} on {platform.platform()}")
    _say("opuspool", _version("opuspool"))
    ipc = "has ipc" if zmq.has("ipc") else "no ipc here, so tcp is used"
    _say("pyzmq", f"{_version('pyzmq')}, libzmq {zmq.zmq_version()}, {ipc}")
    _say("numpy", _version("numpy"))
    _say("pyogg", _version("pyogg"))
    _say("soundfile", f"{_version('soundfile')}, libsndfile {soundfile.__libsndfile_version__}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"missing; install it: pip install {package}"


def _decoding(config: str | None) -> bool:
    """Decode the tone in a pool of our own; say how that went."""
    from opuspool.pool import Pool

    try:
        with Pool(workers=1, spares=0, config=config) as pool:
            problem = _wrong_with(pool)
            libopus = pool.status()["libopus"]
    except (OpusPoolError, OSError) as error:
        _say("decoding", f"DOES NOT WORK: {messages.describe(error)}")
        if isinstance(error, WorkerBootError):
            _say("to mend", _mend())
        return False
    _say("libopus", f"{libopus['version']} ({libopus['path']})")
    _say("decoding", f"DOES NOT WORK: {problem}" if problem else "works")
    if problem:
        _say("to mend", _mend())
    return not problem


def _wrong_with(pool: Pool) -> str | None:
    """What is wrong with the decoded tone, if anything."""
    import numpy as np

    pcm = pool.decode([bytes.fromhex(packet) for packet in _TONE], 16_000)
    if pcm.shape != (1920,):
        return f"the test packets gave {len(pcm)} samples, not 1920"
    steady = pcm[640:]  # after the decoder has settled
    level = float(np.sqrt(np.mean(np.square(steady))))
    pitch = int(np.abs(np.fft.rfft(steady)).argmax()) * 16_000 / len(steady)
    if abs(pitch - _TONE_HZ) > 25 or not 0.3 < level < 0.4:
        return f"the test tone of {_TONE_HZ} Hz came out as {pitch:.0f} Hz with level {level:.2f}"
    return None


def _mend() -> str:
    """The command that brings a libopus that works."""
    if platform.system() == "Linux":
        return "apt install libopus0 (Fedora: dnf install opus), or pip install 'opuspool[av]'"
    if platform.system() == "Darwin":
        return "brew install opus, or pip install 'opuspool[av]'"
    return "pip install --force-reinstall pyogg, or pip install 'opuspool[av]'"


def _daemon(endpoint: str | None, config: str | None) -> None:
    """Say whether a daemon answers; a pool of one's own needs none."""
    from opuspool import config as configs
    from opuspool.cli.reach import check_reachable
    from opuspool.pool import Pool

    try:
        settings = configs.load(config)
        address = endpoint or settings.supervisor.endpoint
        check_reachable(address)
        with Pool(address, config=settings) as pool:
            _say("daemon", f"answers, health {pool.status()['health']}")
    except (OpusPoolError, OSError) as error:
        _say("daemon", f"{messages.describe(error)} (only needed to share one pool)")
