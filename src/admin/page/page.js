"use strict";
// What is shown comes from /live, once a second. Rates are what came between two answers. Text goes in as text only.

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const SAMPLES_MAX = 121;
const LATENCY_MS = 5000;
const SVG = "http://www.w3.org/2000/svg";
const WORST_FIRST = ["refused", "suspended", "lapsed", "serving_by_grace", "serving", "unknown"];

const samples = [];
const longest = new Map();
let heardAt = null;

const at = (id) => document.getElementById(id);
const write = (id, text) => { at(id).textContent = text; };
const sum = (counts) => Object.values(counts ?? {}).reduce((all, one) => all + one, 0);

function rate(before, after, count) {
  const span = after.uptime_ms - before.uptime_ms;
  return span > 0 ? Math.max(0, (count(after) - count(before)) * 1000 / span) : 0;
}

const answered = (status) => status.requests.ok ?? 0;
const failed = (status) => sum(status.requests) - answered(status);
const over = (name, words) => (status) =>
  status.upstreams.reduce((all, one) => all + words.reduce((part, word) => part + (one[name][word] ?? 0), 0), 0);
const hits = over("decrypts", ["hit"]);
const misses = over("decrypts", ["miss", "coalesced"]);
const failures = over("decrypts", ["failed"]);
const attempts = (status) => status.upstreams.reduce((all, one) => all + sum(one.attempts), 0);

function latencySince(before, after) {
  const counts = after.latency.counts.map((count, place) => count - (before?.latency.counts[place] ?? 0));
  return { bounds: after.latency.bounds_us, counts };
}

/** As the daemon works it out: within two bounds, as if they were spread evenly there. */
function percentile({ bounds, counts }, percent) {
  const all = counts.at(-1) ?? 0;
  if (all <= 0) return null;
  const rank = all * percent / 100;
  let low = 0;
  let below = 0;
  for (let place = 0; place < bounds.length; place += 1) {
    const within = counts[place];
    if (within > below && within >= rank) return low + (bounds[place] - low) * (rank - below) / (within - below);
    low = bounds[place];
    below = within;
  }
  return low;
}

function micros(value) {
  if (value === null) return "–";
  if (value < 1000) return `${Math.round(value)} µs`;
  if (value < 10_000) return `${(value / 1000).toFixed(1)} ms`;
  return value < 1e6 ? `${Math.round(value / 1000)} ms` : `${(value / 1e6).toFixed(1)} s`;
}

function short(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (value >= 1e4) return `${Math.round(value / 1000)} k`;
  return value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} d`;
}

const ago = (status, time) => (time ? `${span(Math.max(0, (Date.parse(status.at) - Date.parse(time)) / 1000))} ago` : "never");

function drawn(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The next of 1, 2, 5, 10, … that nothing is above. */
function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** Lines over the last two minutes, the newest on the right. */
function chart(id, lines, label, least = 1) {
  const chartElement = at(id);
  const width = chartElement.clientWidth || 400;
  const height = chartElement.clientHeight || 120;
  const left = 46;
  const top = ceiling(Math.max(0, ...lines.flatMap((line) => line.values.filter((value) => value !== null))) || least);
  const x = (place, count) => width - 2 - (count - 1 - place) * (width - left - 4) / (SAMPLES_MAX - 1);
  const y = (value) => height - 8 - (value / top) * (height - 18);
  const parts = [0, 0.5, 1].flatMap((part) => [
    drawn("line", { class: "grid", x1: left, x2: width, y1: y(part * top), y2: y(part * top) }),
    drawn("text", { x: left - 6, y: y(part * top) + 4, "text-anchor": "end" }, part === 0 ? "0" : label(part * top)),
  ]);
  for (const { kind, values } of lines) {
    let path = "";
    values.forEach((value, place) => {
      if (value === null) return;
      const begins = path === "" || values[place - 1] === null;
      path += `${begins ? "M" : "L"}${x(place, values.length).toFixed(1)} ${y(value).toFixed(1)}`;
    });
    parts.push(drawn("path", { class: kind, d: path || "M0 0" }));
  }
  chartElement.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chartElement.replaceChildren(...parts);
}

const pairs = () => samples.slice(1).map((after, place) => [samples[place], after]);
const rates = (count) => pairs().map(([before, after]) => rate(before, after, count));

/** The latest sample that is at least so old, or the oldest. */
function before(status, age) {
  return samples.findLast((sample) => sample.uptime_ms <= status.uptime_ms - age) ?? samples[0];
}

function latencies(percent) {
  return samples.slice(1).map((status) => {
    const earlier = samples.findLast((sample) => sample.uptime_ms <= status.uptime_ms - LATENCY_MS) ?? samples[0];
    return percentile(latencySince(earlier, status), percent);
  });
}

function cell(content, kind) {
  const element = document.createElement("td");
  if (kind) element.className = kind;
  if (content instanceof Element) element.append(content);
  else element.textContent = content;
  return element;
}

function rows(id, all, none) {
  const heads = [...at(id).parentElement.querySelectorAll("th")].map((one) => one.textContent);
  const lines = all.length ? all : [[cell(none, "none")]];
  if (!all.length) lines[0][0].colSpan = heads.length;
  at(id).replaceChildren(...lines.map((cells) => {
    const row = document.createElement("tr");
    // Where there is no room for heads, each cell has its own.
    if (all.length) cells.forEach((one, place) => { one.dataset.label = heads[place]; });
    row.append(...cells);
    return row;
  }));
}

function bar(part, kind) {
  const element = drawn("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none" });
  element.append(
    drawn("rect", { class: "track", width: 100, height: 8, rx: 2 }),
    drawn("rect", { class: kind, width: Math.max(0, Math.min(100, part * 100)), height: 8, rx: 2 }),
  );
  return element;
}

function labelled(text, element) {
  const whole = document.createElement("span");
  whole.append(text, element);
  return whole;
}

function pill(text, kind) {
  const element = document.createElement("span");
  element.className = kind;
  element.textContent = text;
  return element;
}

function lease(upstream, key) {
  const name = `${upstream.name}/${key.key}`;
  longest.set(name, Math.max(longest.get(name) ?? 0, key.lease_left_ms));
  const part = longest.get(name) > 0 ? key.lease_left_ms / longest.get(name) : 0;
  const serving = key.lease === "serving";
  const kind = serving ? (part < 0.4 ? "warn" : "good") : (key.lease === "unknown" ? "" : "bad");
  const words = key.refusal && key.lease === "refused" ? `refused: ${key.refusal}` : key.lease.replaceAll("_", " ");
  const left = key.lease_left_ms > 0
    ? labelled(`${(key.lease_left_ms / 1000).toFixed(1)} s`, bar(part, kind || "warn")) : "–";
  return [cell(key.key, "key"), cell(pill(words, kind), "why"), cell(left), cell(String(key.entries), "number"),
    cell(upstream.name)];
}

function head(status) {
  write("version", status.version);
  write("uptime", span(status.uptime_ms / 1000));
  write("memory", status.memory);
  const { entries, capacity, evictions } = status.cache;
  write("cache", `${entries} of ${capacity} DEKs${evictions ? `, ${evictions} thrown out` : ""}`);
  write("log", status.log ?? "–");
  write("started", status.started_at.replace("T", " "));
  const ready = status.obstacles.length === 0;
  write("state", ready ? "ready" : status.obstacles.join("; "));
  at("state").className = `pill ${ready ? "good" : "bad"}`;
  const words = [];
  for (const state of WORST_FIRST.slice(0, 3)) {
    const keys = status.upstreams.flatMap((upstream) => upstream.keys).filter((key) => key.lease === state).length;
    if (keys > 0) words.push(`${keys} ${keys === 1 ? "key" : "keys"} ${state}`);
  }
  const silent = status.upstreams.filter((upstream) => upstream.health === "silent").map((upstream) => upstream.name);
  if (silent.length) words.push(`silent: ${silent.join(", ")}`);
  write("closed", words.join("; "));
  at("closed").hidden = words.length === 0;
}

function charts(status) {
  const recent = before(status, LATENCY_MS);
  const failing = rate(recent, status, failed);
  write("rate", short(rate(recent, status, (one) => sum(one.requests))));
  write("failing", failing > 0 ? `${short(failing)}/s refused or failed` : "");
  write("total", `${answered(status)} answered, ${failed(status)} not`);
  chart("traffic", [{ kind: "first", values: rates(answered) }, { kind: "third", values: rates(failed) }], short);

  const [hit, missed, lost] = [hits, misses, failures].map((count) => rate(recent, status, count));
  const all = hit + missed + lost;
  write("ratio", all > 0 ? `${(Math.floor(hit * 1000 / all) / 10).toFixed(1)} %` : "–");
  write("decrypted", `${hits(status)} hits, ${misses(status)} misses`);
  chart("decrypts", [{ kind: "first", values: rates(hits) }, { kind: "second", values: rates(misses) },
    { kind: "third", values: rates(failures) }], short);

  const since = latencySince(recent, status);
  for (const percent of [50, 90, 99]) write(`p${percent}`, micros(percentile(since, percent)));
  chart("latency", [{ kind: "first", values: latencies(50) }, { kind: "second", values: latencies(99) }], micros, 1000);

  write("asked", short(rate(recent, status, attempts)));
  chart("attempts", [{ kind: "first", values: rates(attempts) }], short);
}

function quotas(status) {
  const recent = before(status, LATENCY_MS);
  const all = status.upstreams.flatMap((upstream) => upstream.quotas.map((quota) => {
    const taken = (one) => sum(one.upstreams.find((other) => other.name === upstream.name)?.quotas
      .find((other) => other.quota === quota.quota)?.taken);
    const used = rate(recent, status, taken);
    const part = quota.limit > 0 ? used / quota.limit : 0;
    const kind = part > 0.9 ? "bad" : part > 0.7 ? "warn" : "good";
    const use = quota.limit > 0 ? labelled(`${short(used)}/s`, bar(part, kind)) : `${short(used)}/s`;
    return [cell(`${upstream.name}, ${quota.quota}`), cell(use), cell(quota.limit > 0 ? `${quota.limit}/s` : "none known", "number"),
      cell(String(sum(quota.waiting)), "number"), cell(String(sum(quota.turned_away)), "number")];
  }));
  rows("quotas", all, "no quota: nothing is asked over the network");
  const waiting = status.upstreams.flatMap((one) => one.quotas).reduce((count, quota) => count + sum(quota.waiting), 0);
  write("waiting", waiting > 0 ? `${waiting} waiting` : "");
}

function tables(status) {
  const keys = status.upstreams.flatMap((upstream) => upstream.keys.map((key) => ({ upstream, key })));
  keys.sort((one, other) => WORST_FIRST.indexOf(one.key.lease) - WORST_FIRST.indexOf(other.key.lease));
  rows("leases", keys.slice(0, 100).map(({ upstream, key }) => lease(upstream, key)), "nobody has used a key yet");

  const refusals = status.upstreams.flatMap((upstream) => upstream.refusals);
  refusals.sort((one, other) => Date.parse(other.at) - Date.parse(one.at));
  rows("refusals", refusals.slice(0, 20).map((one) => [cell(ago(status, one.at)), cell(String(one.times), "number"),
    cell(one.caller), cell(one.action), cell(one.key ? `${one.key}: ${one.why}` : one.why, "why")]), "none since the start");

  rows("upstreams", status.upstreams.map((one) => {
    const kinds = { answering: "good", silent: "bad" };
    const health = pill(one.credentials ? one.health : "no credentials", one.credentials ? kinds[one.health] ?? "" : "bad");
    const failure = one.failure ? `${one.failure}, ${ago(status, one.failed_at)}` : "none";
    return [cell(one.name), cell(health), cell(ago(status, one.answered_at)), cell(failure, "why")];
  }), "none");

  rows("listeners", status.listeners.map((one) => [cell(one.name), cell(one.address, "key"),
    cell(`${one.connections} of ${one.max_connections}`, "number"), cell(String(one.in_flight), "number")]), "none");
}

function show(status) {
  // Another daemon has other counts.
  if (samples.length && samples.at(-1).uptime_ms >= status.uptime_ms) samples.length = 0;
  samples.push(status);
  if (samples.length > SAMPLES_MAX) samples.shift();
  head(status);
  charts(status);
  quotas(status);
  tables(status);
}

function trouble(text) {
  at("trouble").hidden = text === "";
  write("trouble", text);
}

async function look() {
  try {
    const answer = await fetch("/live", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    show(await answer.json());
    heardAt = Date.now();
    trouble("");
  } catch (error) {
    const since = heardAt === null ? "" : ` for ${span((Date.now() - heardAt) / 1000)}: what is shown is from before`;
    trouble(`kmsproxy does not answer${since} (${error.message})`);
    write("state", "no answer");
    at("state").className = "pill bad";
  }
  setTimeout(look, EVERY_MS);
}

look();
