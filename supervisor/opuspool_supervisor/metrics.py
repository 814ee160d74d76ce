"""The metrics, rendered from a snapshot: nothing is counted here, every label is bounded."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from opuspool_supervisor.slots import SlotState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from opuspool_supervisor.monitor import Snapshot

HEALTHS = ("ok", "degraded", "down")

COUNTERS = {
    "accepted": ("requests_accepted", "Requests taken, whatever became of them."),
    "packets_decoded": ("packets_decoded", "Operations that gave PCM."),
    "audio_seconds": ("audio_seconds", "Seconds of audio decoded."),
    "spawns": ("worker_spawns", "Worker processes started."),
    "access_violations": ("access_violations", "Ends by a bad memory access, on any system."),
    "retries": ("retries", "Requests taken back from a dead worker and tried again."),
    "replayed_packets": ("replayed_packets", "Packets run again to rebuild decoders."),
    "poison_packets": ("poison_packets", "Packets given up because they killed their workers."),
    "quarantine_hits": ("quarantine_hits", "Packets refused because their digest is known."),
    "held_requests": ("held_requests", "Requests held back, of clients that keep killing."),
    "delayed_retries": (
        "delayed_retries",
        "Second attempts that waited for the retry budget.",
    ),
    "streams_moved": ("streams_moved", "Streams moved to another worker."),
    "streams_handed_over": ("streams_handed_over", "Streams taken over from another supervisor."),
    "streams_lent": ("streams_lent", "Streams whose clients took to sending to their workers."),
    "streams_returned": ("streams_returned", "Streams that clients have handed back."),
    "checkpoints": ("checkpoints", "Copies of decoder states kept."),
    "inexact_rebuilds": ("inexact_rebuilds", "Rebuilds that may not be bit for bit the same."),
    "canaries": ("canaries", "Known packets given to idle workers."),
    "protocol_errors": ("protocol_errors", "Messages that could not be read."),
    "refused_peers": ("refused_peers", "Peers turned away for their keys or their user."),
    "crash_reports": ("crash_reports", "Crash reports written."),
    "crash_report_errors": ("crash_report_errors", "Crash reports that could not be written."),
}
"""Counters of `status()` by name: the metric's name without prefix and suffix, and its help."""

GAUGES = {
    "streams": ("streams", "Open streams."),
    "queue_depth": ("queue_depth", "Requests that wait for a worker."),
    "in_flight": ("requests_in_flight", "Requests that a worker has in hand."),
    "clients": ("clients", "Connected clients."),
    "quarantine": ("quarantine_packets", "Digests in quarantine."),
    "retry_budget": (
        "retry_budget",
        "Second attempts of killers that may be made at once.",
    ),
}

TIMINGS = {
    "decode_seconds": "Seconds from a lease's making to its results.",
    "recovery_seconds": "Seconds from a worker's death until the last request it had is answered.",
}


class SnapshotCollector(Collector):
    """Renders the newest snapshot; nothing where there is none yet.

    Args:
        latest: gives it.
        now: a monotonic clock.
    """

    def __init__(self, latest: Callable[[], Snapshot | None], now: Callable[[], float]) -> None:
        self._latest = latest
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """All metrics of one scrape."""
        snapshot = self._latest()
        if snapshot is None:
            return
        report = snapshot.report
        age = self._now() - snapshot.at
        yield from _supervisor(report, age)
        yield from _counters(report["counters"])
        for key, (name, text) in GAUGES.items():
            yield GaugeMetricFamily(f"opuspool_{name}", text, report[key])
        yield from _workers(report)
        for key, text in TIMINGS.items():
            yield _histogram(key, text, report["timings"][key])


def registry(latest: Callable[[], Snapshot | None], now: Callable[[], float]) -> CollectorRegistry:
    """A registry of the daemon's own: its metrics, and its process's as the system tells them."""
    own = CollectorRegistry(auto_describe=False)
    own.register(SnapshotCollector(latest, now))
    ProcessCollector(registry=own)
    return own


def _supervisor(report: dict[str, Any], age: float) -> Iterator[Metric]:
    supervisor, ever, reload_ = report["supervisor"], report["ever"], report["reload"]
    info = InfoMetricFamily("opuspool_build", "Which version runs, with which libopus.")
    build = {
        "version": supervisor["version"],
        "libopus": report["libopus"]["version"] or "",
        "python": platform.python_version(),
    }
    info.add_metric([], build)
    yield info
    starts = "Starts of the daemon at this endpoint, kept over restarts."
    yield CounterMetricFamily("opuspool_supervisor_starts", starts, ever["supervisor_starts"])
    up = "Seconds since the daemon's start."
    yield GaugeMetricFamily("opuspool_uptime_seconds", up, supervisor["uptime_seconds"] + age)
    yield GaugeMetricFamily(
        "opuspool_loop_beat_age_seconds", "Seconds since the loop last came round.", age
    )
    ok = "Whether the last reload of the settings was taken."
    yield GaugeMetricFamily("opuspool_config_last_reload_successful", ok, float(reload_["ok"]))
    when = "Unix time of the last settings that were taken."
    yield GaugeMetricFamily(
        "opuspool_config_last_reload_success_timestamp_seconds", when, reload_["time"]
    )
    words = "Equations of the books that do not hold; each is a bug."
    yield GaugeMetricFamily("opuspool_books_unbalanced", words, len(report["unbalanced"]))
    health = GaugeMetricFamily("opuspool_health", "1 for what it is.", labels=["health"])
    for name in HEALTHS:
        health.add_metric([name], float(report["health"] == name))
    yield health


def _counters(counters: dict[str, Any]) -> Iterator[Metric]:
    for key, (name, text) in COUNTERS.items():
        yield CounterMetricFamily(f"opuspool_{name}", text, counters[key])
    by_label = (
        ("worker_restarts", "reason", "Ends of workers by cause."),
        ("requests", "outcome", "Answered requests by outcome."),
    )
    for key, label, text in by_label:
        family = CounterMetricFamily(f"opuspool_{key}", text, labels=[label])
        for value, number in counters[key].items():
            family.add_metric([value], number)
        yield family


def _workers(report: dict[str, Any]) -> Iterator[Metric]:
    for kind in ("workers", "spares"):
        states = [slot["state"] for slot in report[kind]]
        text = f"Slots of {kind} by state."
        family = GaugeMetricFamily(f"opuspool_{kind}", text, labels=["state"])
        for state in SlotState:
            family.add_metric([str(state)], states.count(str(state)))
        yield family
    rss = GaugeMetricFamily(
        "opuspool_worker_rss_bytes", "Resident memory of the slot's worker.", labels=["slot"]
    )
    for slot in (*report["workers"], *report["spares"]):
        rss.add_metric([str(slot["slot"])], slot["rss_bytes"])
    yield rss


def _histogram(name: str, text: str, value: dict[str, Any]) -> Metric:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, number in zip([*value["bounds"], None], value["counts"], strict=True):
        total += number
        buckets.append(("+Inf" if bound is None else str(float(bound)), total))
    return HistogramMetricFamily(f"opuspool_{name}", text, buckets=buckets, sum_value=value["sum"])
