"""The chaos soak: a real daemon, good and bad clients, and faults from the matrix for some time.

    .venv/bin/python tests/soak/chaos.py --seconds 60 --seed 1

Then one line a promise (P1 to P8 of the fault matrix), from the clients' scores and the daemon's
books. Exit code 0 only if all are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import faults  # noqa: E402  after the path is set
import psutil  # noqa: E402

import opuspool  # noqa: E402

HERE = Path(__file__).parent
WORKER_SIGNALS = (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGBUS)


@dataclass
class Client:
    """A client process and where its score stands."""

    script: str
    log: Path
    process: subprocess.Popen[bytes]


class Soak:
    """One soak: what runs, and what has been done to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.endpoint = f"ipc://{folder}/d/pool.sock"
        self.faults: Counter[str] = Counter()
        self.scores: list[dict[str, Any]] = []
        self.restarts = 0
        self.orphans = 0
        self._logs = 0
        self._settings = folder / "config.toml"
        self._settings.write_text(
            f'[supervisor]\nendpoint = "{self.endpoint}"\nlog_level = "warning"\nhttp = ""\n'
            "[health]\ncanary_seconds = 1.0\n[quarantine]\nttl_seconds = 20.0\n"
            "[recycle]\nmemory_bytes = 80000000\n"
        )
        self._environment = {**os.environ, **faults.environment(self._folder("tokens"))}
        self._environment["XDG_STATE_HOME"] = str(folder)
        self._log = (folder / "daemon.log").open("ab")
        self.daemon = self._start_daemon()
        self.clients = [self._start("speaker.py") for _ in range(3)]
        self.clients.append(self._start("vandal.py"))
        self._actions = {
            self.kill_worker: 12,
            self.stop_worker: 2,
            self.babble: 2,
            self.kill_client: 1,
            self.stop_daemon: 1,
            self.kill_daemon: 1,
        }

    # Faults

    def strike(self) -> None:
        """One fault, by weight."""
        actions, weights = zip(*self._actions.items(), strict=True)
        action = self.rng.choices(actions, weights)[0]
        if action():
            self.faults[action.__name__] += 1

    def kill_worker(self) -> bool:
        """A signal to a random worker or spare."""
        return self._signal_worker(self.rng.choice(WORKER_SIGNALS))

    def stop_worker(self) -> bool:
        """SIGSTOP; nobody sends SIGCONT, the supervisor must notice."""
        return self._signal_worker(signal.SIGSTOP)

    def babble(self) -> bool:
        """Random bytes at the front socket."""
        with socket.socket(socket.AF_UNIX) as raw, suppress(OSError):
            raw.settimeout(1)
            raw.connect(self.endpoint.removeprefix("ipc://"))
            raw.sendall(self.rng.randbytes(self.rng.randrange(1, 100_000)))
            return True
        return False

    def kill_client(self) -> bool:
        """`kill -9` of a good client; another takes its place."""
        index = self.rng.randrange(3)
        self._end(self.clients[index], kill=True)
        self.clients[index] = self._start("speaker.py")
        return True

    def stop_daemon(self) -> bool:
        """SIGSTOP for a second or two."""
        self.daemon.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.5, 2.5))  # the length is the fault
        self.daemon.send_signal(signal.SIGCONT)
        return True

    def kill_daemon(self) -> bool:
        """`kill -9`; all its workers must go, then it is started again."""
        workers = psutil.Process(self.daemon.pid).children()
        self.daemon.kill()
        self.daemon.wait()
        _, alive = psutil.wait_procs(workers, timeout=1)
        self.orphans += sum(p.status() != psutil.STATUS_ZOMBIE for p in alive if p.is_running())
        self.daemon = self._start_daemon()
        self.restarts += 1
        return True

    # Life

    def status(self) -> dict[str, Any]:
        """The daemon's status, by a client of its own."""
        with opuspool.Pool(self.endpoint) as pool:
            return pool.status(timeout=20)

    def size(self) -> tuple[int, int]:
        """The daemon's memory (bytes) and descriptors."""
        process = psutil.Process(self.daemon.pid)
        return process.memory_info().rss, process.num_fds()

    def end_clients(self) -> None:
        """Let the clients finish what they are at."""
        for client in self.clients:
            self._end(client, kill=False)

    def stop(self) -> int:
        """End the daemon; returns its exit code."""
        self.daemon.terminate()
        code = self.daemon.wait(20)
        self._log.close()
        return code

    def abandon(self) -> None:
        """End everything, whatever it is at."""
        for client in self.clients:
            client.process.kill()
            client.process.wait()
        self.daemon.send_signal(signal.SIGCONT)
        self.stop()

    def log_tail(self) -> str:
        """The last lines of the daemon's log."""
        return (self.folder / "daemon.log").read_text(errors="replace")[-4000:]

    def _signal_worker(self, number: int) -> bool:
        try:
            workers = psutil.Process(self.daemon.pid).children()
            os.kill(self.rng.choice(workers).pid, number)
        except (psutil.Error, OSError, IndexError):
            return False
        return True

    def _start_daemon(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "opuspool_supervisor", "--config", str(self._settings)],
            stderr=self._log,
            env=self._environment,
        )

    def _start(self, script: str) -> Client:
        self._logs += 1
        log = self.folder / f"score-{self._logs}.json"
        path = os.pathsep.join((str(HERE), str(HERE.parent)))
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), self.endpoint, str(log), str(self._logs)],
            stdin=subprocess.PIPE,
            env={**self._environment, "PYTHONPATH": path},
        )
        return Client(script, log, process)

    def _end(self, client: Client, *, kill: bool) -> None:
        if kill:
            client.process.kill()
        client.process.communicate(timeout=120)
        if client.log.exists():
            score = json.loads(client.log.read_text())
            good = client.script == "speaker.py"
            self.scores.append({**score, "good": good, "code": client.process.returncode})

    def _folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        return path


def promises(soak: Soak, before: tuple[int, int], status: dict[str, Any]) -> dict[str, str | None]:
    """Each promise, with what breaks it; None: it is kept."""
    good = [score for score in soak.scores if score["good"]]
    counts: Counter[str] = Counter()
    for score in good:
        counts.update(score["counts"])
    failures = {kind: n for kind, n in counts.items() if kind not in {"ok", "wrong"}}
    vandal = next(score for score in soak.scores if not score["good"])
    unanswered = {k: n for k, n in vandal["counts"].items() if ": " not in k}
    rss, fds = soak.size()
    grown = rss > before[0] + 150_000_000 or fds > before[1] + 60
    crashed = [score["code"] for score in soak.scores if score["code"] not in {0, -9}]
    worst = max((score["worst_seconds"] for score in good), default=0.0)
    return {
        f"P1 {sum(counts.values())} requests of good clients, each answered once and right": (
            f"wrong: {counts['wrong']}, clients' exit codes: {crashed}"
            if counts["wrong"] or crashed or not counts["ok"]
            else None
        ),
        f"P2 good clients' failures: {sum(failures.values())}; worst call {worst:.2f} s": (
            f"{failures} {[f for s in good for f in s['failures']][:5]}" if failures else None
        ),
        f"P3 bad client: {sum(vandal['counts'].values())} packets, killers refused alone": (
            f"{unanswered} {vandal['failures'][:5]}" if unanswered else None
        ),
        f"P4 {status['counters']['spawns']} starts since the last of {soak.restarts} restarts": (
            None if status["counters"]["spawns"] < 2000 else "a storm"
        ),
        "P5 health is ok at the end": None if status["health"] == "ok" else status["health"],
        "P6 no orphan after a second": None if not soak.orphans else f"{soak.orphans} left",
        f"P7 memory {before[0] >> 20} -> {rss >> 20} MB, descriptors {before[1]} -> {fds}": (
            "grown" if grown else None
        ),
        "P8 the books balance": ", ".join(status["unbalanced"]) or None,
    }


def run(seconds: float, seed: int, folder: Path) -> bool:
    """Run one soak and print what came of it."""
    soak = Soak(folder, seed)
    soak.status()
    before = soak.size()
    end = time.monotonic() + seconds
    told = 0.0
    try:
        while time.monotonic() < end:
            soak.strike()
            time.sleep(soak.rng.uniform(0.1, 1.2))  # the faults' rhythm
            if time.monotonic() - told > 10:
                told = time.monotonic()
                sys.stderr.write(f"{end - told:.0f} s to go, faults so far: {dict(soak.faults)}\n")
        soak.end_clients()
        _await_health(soak)
    except BaseException:
        sys.stderr.write(soak.log_tail())
        soak.abandon()
        raise
    status = soak.status()
    kept = promises(soak, before, status)
    code = soak.stop()
    for words, fault in kept.items():
        print(f"{'BROKEN' if fault else 'kept  '} {words}{f': {fault}' if fault else ''}")
    print(f"faults: {dict(soak.faults)}; restarts by cause: {_nonzero(status)}; exit code {code}")
    return not any(kept.values()) and code == 0


def _await_health(soak: Soak) -> None:
    deadline = time.monotonic() + 40
    while soak.status()["health"] != "ok" and time.monotonic() < deadline:
        time.sleep(0.2)


def _nonzero(status: dict[str, Any]) -> dict[str, int]:
    return {k: n for k, n in status["counters"]["worker_restarts"].items() if n}


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule (default: random)")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.seconds:g} s", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    good = False
    try:
        good = run(arguments.seconds, seed, folder)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    finally:
        if good:
            shutil.rmtree(folder)
        else:
            print(f"the daemon's log, crash reports and scores are in {folder}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
