"use strict";
const runs = JSON.parse(document.getElementById("runs").textContent);
const COLOURS = ["#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#be185d", "#65a30d", "#7c3aed", "#b45309"];
const WIDTH = 640, HEIGHT = 250, LEFT = 58, RIGHT = 12, TOP = 10, BOTTOM = 34;

const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const finite = (values) => values.filter((value) => Number.isFinite(value) && value > 0);

function micros(us) {
  if (us == null) return "–";
  if (us >= 1e6) return `${(us / 1e6).toPrecision(3)} s`;
  if (us >= 1e3) return `${(us / 1e3).toPrecision(3)} ms`;
  return `${us.toPrecision(3)} µs`;
}
const count = (value) => (value == null ? "–" : Math.round(value).toLocaleString("en-US"));

// One series for each target and phase, with its rounds; a colour of its own.
function seriesOf(run) {
  const all = new Map();
  for (const target of run.targets) {
    for (const phase of target.phases) {
      const name = run.targets.length > 1 ? `${target.name}: ${phase.name}` : phase.name;
      if (!all.has(name)) all.set(name, { name, colour: COLOURS[all.size % COLOURS.length], parts: [] });
      all.get(name).parts.push(phase);
    }
  }
  return [...all.values()];
}

// Where each phase stands on the time axis: as they ran, without the preparations between. Those that ran at once, or in
// the same round at two targets, are laid over each other.
function placed(run) {
  const at = new Map();
  let end = 0;
  for (const target of run.targets) {
    let clock = 0, last = null;
    for (const phase of [...target.phases].sort((a, b) => a.begun_seconds - b.begun_seconds)) {
      const together = last && phase.begun_seconds < last.begun_seconds + 0.5 * Math.min(last.seconds, phase.seconds);
      const start = together ? at.get(last) : clock;
      at.set(phase, start);
      clock = Math.max(clock, start + phase.seconds);
      last = phase;
    }
    end = Math.max(end, clock);
  }
  return { at, end: end || 1 };
}

const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);
const logarithmic = (low, high, from, to) => {
  const scale = linear(Math.log10(low), Math.log10(high), from, to);
  return (value) => scale(Math.log10(Math.max(value, low)));
};

function decades(low, high) {
  const ticks = [];
  const steps = Math.log10(high / low) > 3 ? [1] : [1, 2, 5];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const step of steps) {
      const tick = step * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}

function evenly(high) {
  const step = 10 ** Math.floor(Math.log10(high || 1));
  const fine = [0.1, 0.2, 0.5, 1, 2].map((part) => part * step).find((width) => high / width <= 6) || step;
  return Array.from({ length: Math.floor(high / fine + 1.001) }, (_, at) => at * fine);
}

function frame(xTicks, yTicks, x, y, xName, body) {
  let svg = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img">`;
  for (const [value, label] of yTicks) {
    svg += `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}"/>`;
    svg += `<text x="${LEFT - 6}" y="${y(value) + 4}" text-anchor="end">${escaped(label)}</text>`;
  }
  for (const [value, label] of xTicks) {
    svg += `<line class="grid" x1="${x(value)}" x2="${x(value)}" y1="${TOP}" y2="${HEIGHT - BOTTOM}"/>`;
    svg += `<text x="${x(value)}" y="${HEIGHT - BOTTOM + 14}" text-anchor="middle">${escaped(label)}</text>`;
  }
  svg += `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 4}" text-anchor="middle">${escaped(xName)}</text>`;
  return `${svg}${body}</svg>`;
}

// A line through the points that there are: in a moment without answers there is nothing to be drawn.
function line(points, x, y, classes, colour) {
  let path = "", pen = "M";
  for (const [at, value] of points) {
    if (value == null || !Number.isFinite(value)) continue;
    path += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  }
  // A path of one point shows nothing without a width.
  if (!path.includes("L")) path = path.replace(/M([\d.]+) ([\d.]+)/g, (_, a, b) => `M${a - 1} ${b}L${+a + 1} ${b}`);
  const stroke = colour ? ` style="stroke:${colour}"` : "";
  return path ? `<path class="line ${classes}"${stroke} d="${path}"/>` : "";
}

function edges(places, x) {
  return [...new Set(places.at.values())].filter((start) => start > 0)
    .map((start) => `<line class="edge" x1="${x(start)}" x2="${x(start)}" y1="${TOP}" y2="${HEIGHT - BOTTOM}"/>`).join("");
}

function timeScale(places) {
  const x = linear(0, places.end, LEFT, WIDTH - RIGHT);
  return [x, evenly(places.end).map((tick) => [tick, String(+tick.toPrecision(3))])];
}

function overTime(all, places, bounds) {
  const [x, xTicks] = timeScale(places);
  const y = logarithmic(bounds.low, bounds.high, HEIGHT - BOTTOM, TOP);
  const yTicks = decades(bounds.low, bounds.high).map((tick) => [tick, micros(tick)]);
  let body = edges(places, x);
  for (const series of all) for (const phase of series.parts) {
    const points = (member) => phase.timeline.map((moment) => [places.at.get(phase) + moment.seconds, moment[member]]);
    body += line(points("p99_us"), x, y, "p99", series.colour) + line(points("p50_us"), x, y, "", series.colour);
  }
  return frame(xTicks, yTicks, x, y, "seconds (solid: p50, dashed: p99; preparations left out)", body);
}

function byPercentile(all, bounds) {
  const nines = (percent) => 1 / Math.max(1 - percent / 100, 1e-5);
  const x = logarithmic(1, 1e5, LEFT, WIDTH - RIGHT), y = logarithmic(bounds.low, bounds.high, HEIGHT - BOTTOM, TOP);
  const xTicks = [[1, "0"], [2, "50"], [10, "90"], [100, "99"], [1000, "99.9"], [1e4, "99.99"], [1e5, "max"]];
  const yTicks = decades(bounds.low, bounds.high).map((tick) => [tick, micros(tick)]);
  let body = "";
  for (const series of all) for (const phase of series.parts) {
    const points = phase.curve.map(([percent, us]) => [nines(percent), us]);
    body += line(points, x, y, series.parts.length > 1 ? "thin" : "", series.colour);
  }
  return frame(xTicks, yTicks, x, y, "percentile", body);
}

function throughput(all, places, high) {
  const [x, xTicks] = timeScale(places);
  const y = linear(0, high, HEIGHT - BOTTOM, TOP);
  const yTicks = evenly(high).map((tick) => [tick, count(tick)]);
  let body = edges(places, x);
  for (const series of all) for (const phase of series.parts) {
    const points = (member) => phase.timeline.map((moment) => [places.at.get(phase) + moment.seconds, moment[member]]);
    body += line(points("per_second"), x, y, "", series.colour);
    if (phase.failed > 0) body += line(points("failed_per_second"), x, y, "bad p99");
  }
  return frame(xTicks, yTicks, x, y, "seconds (solid: answered a second, red: failed a second)", body);
}

function legend(all) {
  const entry = (series) => `<span><i style="background:${series.colour}"></i>${escaped(series.name)}</span>`;
  return `<div class="legend">${all.map(entry).join("")}</div>`;
}

function phases(target) {
  const head = ["", "answered", "a second", "p50", "p90", "p99", "p99.9", "p99.99", "max", "failed", "remote", "CPU/call", "MiB"];
  let rows = `<tr>${head.map((name) => `<th>${name}</th>`).join("")}</tr>`;
  for (const phase of target.phases) {
    const kind = phase.offered_per_second != null ? `open, ${count(phase.offered_per_second)}/s` : `CLOSED, ${phase.callers} callers`;
    const latency = phase.latency_us || {};
    const name = `${phase.name}${phase.round > 1 ? ` #${phase.round}` : ""} [${kind}]`;
    const cells = [name, count(phase.answered), count(phase.per_second),
      ...["p50", "p90", "p99", "p999", "p9999", "max"].map((at) => micros(latency[at])), count(phase.failed),
      count(phase.remote_calls), micros(phase.cpu_us_per_call), phase.rss_bytes == null ? "–" : (phase.rss_bytes / 1048576).toFixed(1)];
    rows += `<tr>${cells.map((cell) => `<td>${escaped(cell)}</td>`).join("")}</tr>`;
    const more = [...Object.entries(phase.errors).map(([code, times]) => `${times} × ${code}`),
      ...Object.entries(phase.figures).map(([figure, value]) => `${figure}: ${+value.toFixed(3)}`)];
    if (more.length) rows += `<tr><td class="detail" colspan="${head.length}">${more.map(escaped).join(" · ")}</td></tr>`;
  }
  return `<section class="wide"><h2>${escaped(target.name)} <code>${escaped(target.face)} ${escaped(target.address)}</code></h2><table>${rows}</table></section>`;
}

function ratios(comparison) {
  const number = (value) => (value >= 100 ? count(value) : value.toPrecision(3));
  const row = (ratio) => `<tr><td>${escaped(ratio.phase)}, ${escaped(ratio.measure)}</td><td>${number(ratio.of)}</td><td>${number(ratio.to)}</td>`
    + `<td>${ratio.median.toFixed(2)}</td><td>${ratio.least.toFixed(2)} to ${ratio.most.toFixed(2)}</td><td>${ratio.noisy ? '<span class="wrong">too noisy to judge</span>' : ""}</td></tr>`;
  return `<section class="wide"><h2>${escaped(comparison.of)} ÷ ${escaped(comparison.to)}, ${comparison.rounds} rounds in turns</h2><table>`
    + `<tr><th></th><th>${escaped(comparison.of)}</th><th>${escaped(comparison.to)}</th><th>ratio</th><th>least to most</th><th></th></tr>`
    + `${comparison.ratios.map(row).join("")}</table></section>`;
}

// All runs have the same scales: side by side, they are to be compared by eye.
const everything = runs.flatMap((run) => run.targets.flatMap((target) => target.phases));
const latencies = finite(everything.flatMap((phase) =>
  [...phase.timeline.flatMap((moment) => [moment.p50_us, moment.p99_us]), ...phase.curve.map(([, us]) => us)]));
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const most = (values) => values.reduce((a, b) => Math.max(a, b), 0);
const bounds = latencies.length ? { low: least(latencies) / 1.2, high: most(latencies) * 1.2 } : { low: 1, high: 1000 };
const rates = finite(everything.flatMap((phase) => phase.timeline.flatMap((moment) => [moment.per_second, moment.failed_per_second])));
const fastest = rates.length ? most(rates) * 1.05 : 1;

document.getElementById("page").innerHTML = runs.map((run) => {
  const all = seriesOf(run), places = placed(run);
  const plot = (name, svg) => `<section><h2>${name}</h2>${svg}${legend(all)}</section>`;
  const verdict = run.wrong ? `<span class="wrong">${run.wrong} plaintexts were wrong</span>` : `${count(run.verified)} answers were verified, none was wrong`;
  return `<div class="run"><h1>bench ${escaped(run.scenario)}</h1>`
    + `<p>${escaped(run.at.slice(0, 19).replace("T", " "))} UTC · ${escaped(run.machine.model)}, ${escaped(run.machine.split)} · kmsproxy ${escaped(run.version)} · ${verdict}</p>`
    + `<p><code>${escaped(run.command.join(" "))}</code></p>`
    + run.notes.map((note) => `<p class="note">${escaped(note)}</p>`).join("")
    + plot("Latency over time", overTime(all, places, bounds)) + plot("Latency by percentile", byPercentile(all, bounds))
    + plot("Throughput", throughput(all, places, fastest))
    + (run.comparison ? ratios(run.comparison) : "") + run.targets.map(phases).join("") + "</div>";
}).join("");
