"""`opuspool doctor`: whether decoding works here, and what to do where it does not."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from opuspool.cli import messages, settings
from opuspool.cli.options import config_option, endpoint_option
from opuspool.errors import OpusPoolError, WorkerBootError

if TYPE_CHECKING:
    from collections.abc import Callable

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


_EPILOG = """Exit codes: 0 decoding works, 1 it does not.

\b
Examples:
  opuspool doctor
  opuspool doctor --endpoint ipc:///run/opuspool/pool.sock
"""

_OK, _MISSING, _INFO = "ok", "missing", "info"


@click.command(epilog=_EPILOG)
@endpoint_option
@config_option
def doctor(*, endpoint: str | None, config: str | None) -> int:
    """Check this machine: versions, libopus, a test decode, the daemon."""
    _versions()
    works = _decoding(config)
    _daemon(endpoint, config)
    return 0 if works else 1


def _say(mark: str, what: str, text: str) -> None:
    click.echo(f"{mark:<8} {what + ':':<10} {text}")


def _versions() -> None:
    _say(_OK, "python", f"{platform.python_version()} on {platform.platform()}")
    for package, more in (
        ("opuspool", None),
        ("pyzmq", _zmq),
        ("numpy", None),
        ("pyogg", None),
        ("soundfile", _sndfile),
    ):
        _package(package, more)


def _package(package: str, more: Callable[[], str] | None) -> None:
    """Say which version is installed; `more` says what the package itself has loaded."""
    try:
        found = [version(package), *([more()] if more else [])]
    except (PackageNotFoundError, ImportError, OSError) as error:
        reason = "" if isinstance(error, PackageNotFoundError) else f"{error}; "
        _say(_MISSING, package, f"{reason}pip install --force-reinstall {package}")
    else:
        _say(_OK, package, ", ".join(found))


def _zmq() -> str:
    import zmq

    ipc = "has ipc" if zmq.has("ipc") else "no ipc here, so tcp is used"
    return f"libzmq {zmq.zmq_version()}, {ipc}"


def _sndfile() -> str:
    import soundfile

    return f"libsndfile {soundfile.__libsndfile_version__}"


def _decoding(config: str | None) -> bool:
    """Decode the tone in a pool of our own; say how that went."""
    try:
        from opuspool.pool import Pool

        with Pool(workers=1, spares=0, config=settings.quiet(config)) as pool:
            problem = _wrong_with(pool)
            libopus = pool.status()["libopus"]
    except (OpusPoolError, ImportError, OSError) as error:
        _say(_MISSING, "decoding", f"DOES NOT WORK: {messages.describe(error)}")
        if isinstance(error, WorkerBootError):
            _say(_INFO, "to mend", _mend())
        return False
    _say(_OK, "libopus", f"{libopus['version']} ({libopus['path']})")
    if problem:
        _say(_MISSING, "decoding", f"DOES NOT WORK: {problem}")
        _say(_INFO, "to mend", _mend())
        return False
    _say(_OK, "decoding", "works")
    return True


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
    try:
        from opuspool import config as configs
        from opuspool.cli.reach import check_reachable
        from opuspool.pool import Pool

        loaded = configs.load(config)
        address = endpoint or loaded.supervisor.endpoint
        check_reachable(address)
        with Pool(address, config=loaded) as pool:
            _say(_OK, "daemon", f"answers, health {pool.status()['health']}")
    except (OpusPoolError, ImportError, OSError) as error:
        _say(_INFO, "daemon", f"{messages.describe(error)} (only needed to share one pool)")
