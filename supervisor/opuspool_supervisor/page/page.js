"use strict";
// Asks for api/status every second and draws it. All text goes in as text, never as HTML.

const EVERY_MS = 1000;
const TIMEOUT_MS = 4000;
const KINDS = {
  fault: ["segv", "abort", "bus", "ill", "fpe", "access_violation", "heap_corruption", "stack_overflow"],
  hang: ["hang", "heartbeat"],
  killed: ["killed"],
  exit: ["exit", "boot"],
  recycled: ["recycled_age", "recycled_requests", "recycled_memory"],
};
const NAMES = { fault: "memory fault, abort", hang: "hang", killed: "killed", exit: "exit, boot failure", recycled: "recycled" };
const kindOf = (reason) => Object.keys(KINDS).find((kind) => KINDS[kind].includes(reason)) || "exit";
const at = (id) => document.getElementById(id);
let before = null;

function element(name, text, cls) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (cls) made.className = cls;
  return made;
}

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function time(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}

const count = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;
const number = (value) => Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
const seconds = (value) => value === null ? "\u2013" : value < 1 ? `${+(value * 1000).toPrecision(2)} ms` : `${+value.toPrecision(2)} s`;

// The upper bound of the bucket in which the given part of the values lies; null where there is none.
function quantile(histogram, counts, part) {
  const total = counts.reduce((a, b) => a + b, 0);
  if (!total) return null;
  let seen = 0;
  for (let i = 0; i < counts.length; i++) {
    seen += counts[i];
    if (seen >= part * total) return histogram.bounds[Math.min(i, histogram.bounds.length - 1)];
  }
  return null;
}

function recentCounts(name, now) {
  const counts = now.timings[name].counts;
  if (!before) return counts;
  const since = counts.map((n, i) => n - before.timings[name].counts[i]);
  return since.some((n) => n > 0) ? since : counts;
}

// One reading apart; nothing where the daemon has restarted between.
function rate(now, key) {
  const span = before ? now.supervisor.uptime_seconds - before.supervisor.uptime_seconds : 0;
  if (span <= 0 || before.supervisor.pid !== now.supervisor.pid) return 0;
  return (now.counters[key] - before.counters[key]) / span;
}

function drawTiles(now) {
  const decode = now.timings.decode_seconds;
  const counts = recentCounts("decode_seconds", now);
  const recovery = now.timings.recovery_seconds;
  const restarts = Object.values(now.counters.worker_restarts).reduce((a, b) => a + b, 0);
  const tiles = [
    ["packets/s", number(rate(now, "packets_decoded"))],
    ["\u00d7 real time", number(rate(now, "audio_seconds"))],
    ["streams", number(now.streams)],
    ["queued", number(now.queue_depth)],
    ["in flight", number(now.in_flight)],
    ["lease p50 \u2264", seconds(quantile(decode, counts, 0.5))],
    ["lease p99 \u2264", seconds(quantile(decode, counts, 0.99))],
    ["recovery p99 \u2264", seconds(quantile(recovery, recovery.counts, 0.99))],
    ["restarts", number(restarts)],
    ["retried", number(now.counters.retries)],
    ["poison", number(now.counters.poison_packets)],
    ["quarantined", number(now.quarantine)],
  ];
  at("tiles").replaceChildren(...tiles.map(([name, value]) => {
    const tile = element("div");
    tile.append(element("dt", name), element("dd", value));
    return tile;
  }));
}

function rows(id, cells) {
  const body = document.querySelector(`#${id} tbody`);
  const heads = document.querySelectorAll(`#${id} th`);
  body.replaceChildren(...cells.map((row) => {
    const line = element("tr");
    row.forEach((cell, i) => {
      const made = element("td", cell instanceof Node ? undefined : cell, heads[i].className);
      if (cell instanceof Node) made.append(cell);
      line.append(made);
    });
    return line;
  }));
}

function marked(cls, text) {
  const made = element("span");
  made.append(element("span", undefined, `dot ${cls}`), text);
  return made;
}

function drawWorkers(now) {
  const row = (slot, spare) => [
    spare ? `${slot.slot} spare` : `${slot.slot}`,
    marked(slot.state, slot.state.toLowerCase()),
    slot.pid === null ? "\u2013" : `${slot.pid}`,
    number(slot.generation), number(slot.restarts), number(slot.streams),
    `${(slot.rss_bytes / 1e6).toFixed(1)} MB`, time(slot.uptime_seconds),
  ];
  rows("workers", [...now.workers.map((w) => row(w, false)), ...now.spares.map((s) => row(s, true))]);
}

function drawCauses(now) {
  const start = now.counters.worker_restarts, ever = now.ever.worker_restarts;
  const seen = Object.keys(start).filter((reason) => start[reason] || ever[reason]);
  rows("causes", seen.map((reason) =>
    [marked(kindOf(reason), reason), number(start[reason]), number(ever[reason])]));
  at("ever").textContent = (seen.length ? "" : "None. ") +
    `Ever: since ${now.ever.since.slice(0, 10)}, ${count(now.ever.supervisor_starts, "start")} of the daemon.`;
}

function drawEnds(now) {
  rows("ends", now.history.ends.slice(0, 15).map((end) => [
    time(end.ago_seconds), `${end.slot}`, marked(kindOf(end.reason), end.reason), end.cause,
    end.pid === null ? "\u2013" : `${end.pid}`]));
}

function drawChart(now) {
  const width = 600, base = 120;
  const totals = new Map(now.history.minutes.map((minute) => {
    const kinds = {};
    for (const [reason, n] of Object.entries(minute.reasons)) {
      kinds[kindOf(reason)] = (kinds[kindOf(reason)] || 0) + n;
    }
    return [minute.ago, kinds];
  }));
  const most = Math.max(1, ...[...totals.values()].map((kinds) => Object.values(kinds).reduce((a, b) => a + b, 0)));
  const step = width / 60;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${base + 1}`, preserveAspectRatio: "none", role: "img",
    "aria-label": "Restarts of workers by minute and cause over the last hour" });
  chart.append(svg("line", { x1: 0, x2: width, y1: base + .5, y2: base + .5 }));
  for (const [ago, kinds] of totals) {
    let y = base;
    for (const kind of Object.keys(KINDS)) {
      const tall = (kinds[kind] || 0) / most * base;
      y -= tall;
      if (!tall) continue;
      const bar = svg("rect", { x: width - (ago + 1) * step + 1, y, width: step - 2, height: tall, class: kind });
      bar.append(svg("title", {}, `${kinds[kind]} ${NAMES[kind]}, ${ago} min ago`));
      chart.append(bar);
    }
  }
  at("chart").replaceChildren(chart);
  at("most").textContent = totals.size ? `at most ${count(most, "restart")} a minute` : "none";
  at("legend").replaceChildren(...Object.keys(KINDS).map((kind) => {
    const item = element("li");
    item.append(marked(kind, NAMES[kind]));
    return item;
  }));
}

function draw(now) {
  at("health").textContent = now.draining ? "draining" : now.health;
  at("health").className = `pill ${now.health}`;
  document.title = `opuspool: ${now.health}`;
  at("about").textContent = `version ${now.supervisor.version}, process ${now.supervisor.pid}, up ` +
    `${time(now.supervisor.uptime_seconds)}; ${now.libopus.version || "no libopus yet"}; ` +
    count(now.clients, "client");
  const trouble = [now.boot_error, ...now.unbalanced];
  if (now.age_seconds > 5) trouble.push(`The daemon's loop last came round ${time(now.age_seconds)} ago.`);
  complain(trouble.filter(Boolean).join("\n"));
  drawTiles(now);
  drawWorkers(now);
  drawChart(now);
  drawCauses(now);
  drawEnds(now);
  before = now;
}

function complain(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

async function poll() {
  try {
    const answer = await fetch("api/status", { signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (answer.ok) draw(await answer.json());
    else complain("The daemon is starting.");
  } catch (error) {
    at("health").textContent = "no answer";
    at("health").className = "pill down";
    complain(`The daemon does not answer: what is shown here is old. (${error.message})`);
  }
  setTimeout(poll, document.hidden ? 5 * EVERY_MS : EVERY_MS);
}

poll();
