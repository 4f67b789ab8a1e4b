// The console: signs in, listens, and shows the newest picture.

import { Chart } from "./charts.js";
import { $, ask, bytes, cell, el, facts, fill, millis, none, number, percent, remember, span, text, time, whole, why } from "./dom.js";
import { journal, look, prepare, reset, see } from "./forms.js";
import { stream } from "./stream.js";

const POINTS_MAX = 180;
const SILENCE_MS = 5000;
const GIVEN_UP_MS = 15000;
const RETRY_MS = 3000;
const GLANCE_MS = 15000;

const charts = [
  new Chart({ title: "Requests a second", format: number, series: () => [
    { name: "answered", value: (point) => point.requests_per_s },
    { name: "errors (5xx)", value: (point) => point.errors_per_s },
    { name: "shed", value: (point) => point.shed_per_s },
  ] }),
  new Chart({ title: "Latency", format: millis, series: () => ["p50", "p95", "p99"].map((name) => ({ name, value: (point) => point.latency_ms[name] })) }),
  new Chart({ title: "Answered from cache", format: percent, max: 1, series: () => [["all", "total"], ["L1", "l1"], ["L2", "l2"]].map(([name, key]) => ({ name, value: (point) => point.hit_ratio[key] })) }),
  new Chart({ title: "Replica lag", format: millis, series: (points) => Object.keys(points.at(-1)?.lag_ms ?? {}).map((name) => ({ name, value: (point) => point.lag_ms[name] ?? null })) }),
];

let isIn = false;
// Whether it listens, and whether it was refused.
let isListening = false;
let isRefused = false;
let line = null;
let points = [];
let written = null;
let heard = 0;
let tried = 0;
// What audits have found as of the last picture, and how much was wrong when somebody acknowledged it.
let audited = null;
let answered = 0;

function hush() {
  isListening = false;
  line?.leave();
}

function door(why = "") {
  isIn = false;
  hush();
  $("console").hidden = true;
  $("door").hidden = false;
  text($("sign-in-error"), why);
  $("token").focus();
}

function enter() {
  isIn = true;
  heard = Date.now();
  reset();
  written = null;
  $("door").hidden = true;
  $("console").hidden = false;
  $("sentence").focus();
  listen();
}

async function signIn(event) {
  event.preventDefault();
  const token = $("token").value;
  try {
    const session = await ask("POST", "/console/session", { token });
    $("token").value = "";
    remember(session.csrf);
    enter();
  } catch (error) {
    const why = { 401: "This is none of ADMIN_TOKEN.", 429: `Too many wrong tokens came from this address. Try again in ${error.wait} s.` };
    door(why[error.status] ?? error.message);
  }
}

async function signOut() {
  await ask("DELETE", "/console/session").catch(() => null);
  remember("");
  door();
}

// A page that nobody sees does not listen. It is made at the first time, so that nobody who is not signed in starts a worker.
function listen() {
  if (document.hidden) return hush();
  [isListening, isRefused, tried] = [true, false, Date.now()];
  line ??= stream(hear);
  line.listen();
}

// A browser tries again by itself, but not where it was refused.
function hear(name, data) {
  if (!isListening) return;
  isRefused = name === "error" && data;
  if (name === "history") { points = JSON.parse(data); draw(); }
  else if (name === "picture") show(JSON.parse(data));
  else if (name === "over") door("The session is over.");
  else {
    linked("lost", "Not connected");
    if (isRefused) refused();
  }
}

// A stream does not tell why it was refused.
async function refused() {
  setTimeout(resume, RETRY_MS);
  const reason = await why("/console/events");
  if (reason && isRefused) linked("lost", `Not connected: ${reason}`);
}

// Another window may have been let in meanwhile, and this one with it.
async function resume() {
  if (!isIn || document.hidden || (isListening && !isRefused)) return;
  try {
    const session = await ask("GET", "/console/session");
    if (!isIn) return;
    if (!session.may_change) return door("The session is over.");
    listen();
  } catch {
    setTimeout(resume, RETRY_MS);
  }
}

function turned() {
  if (document.hidden) hush();
  else resume();
}

// The title of a page that nobody sees says how it is all the same, and its session is in use.
async function glance() {
  if (!isIn || !document.hidden) return;
  const status = await ask("GET", "/admin/status").catch(() => null);
  if (status) title(status);
}

function linked(kind, words) {
  $("link").className = `link ${kind}`;
  text($("link"), words);
  $("state").classList.toggle("old", kind === "lost");
}

function draw() {
  charts.forEach((chart) => chart.draw(points));
}

function show(picture) {
  heard = Date.now();
  see(picture);
  const { status, point } = picture;
  linked("live", "Live");
  if (point && point.at > (points.at(-1)?.at ?? 0)) {
    points = [...points, point].slice(-POINTS_MAX);
    draw();
  }
  head(status);
  state(status);
  news(status);
  tiles(status);
  nodes(status);
  routes(picture);
  figures(status);
  if (picture.journal !== written) {
    written = picture.journal;
    journal().catch(() => (written = null));
  }
}

function head(status) {
  text($("region"), status.region);
  text($("mode"), status.mode);
  $("mode").className = `chip ${status.mode}`;
  text($("version"), `${status.version}, up ${span(status.uptime_s)}`);
}

function title({ summary, region }) {
  const words = `${{ ok: "", warning: "⚠ ", critical: "✖ " }[summary.level]}${region} – Mainstay console`;
  if (document.title !== words) document.title = words;
}

// Of several that come and go, the one that does most often; and they are well when the last of them is.
function flaps(one, other) {
  const down = one.well_s === null || other.well_s === null;
  return { times: Math.max(one.times, other.times), well_s: down ? null : Math.min(one.well_s, other.well_s) };
}

// One line for all of which the same is said. The first word of a sentence about a node is its name.
function together(degraded) {
  const groups = new Map();
  for (const one of degraded) {
    const [name, ...rest] = one.detail.split(" ");
    const key = [one.level, one.reason, Boolean(one.flapping), ...rest].join(" ");
    const known = groups.get(key);
    if (known) {
      known.names.push(name);
      if (known.flapping) known.flapping = flaps(known.flapping, one.flapping);
    } else groups.set(key, { ...one, names: [name], rest: rest.join(" ").replace(/\.$/, "") });
    const group = groups.get(key);
    if (one.for_s > group.for_s) Object.assign(group, { for_s: one.for_s, since: one.since });
  }
  const plural = (rest) => rest.replace(/^does /, "do ").replace(/^is /, "are ").replace(/^follows /, "follow ").replace(/^answers, and receives or replays /, "answer, and receive or replay ");
  return [...groups.values()].map((group) => {
    const { names, rest, reason } = group;
    const kind = reason.startsWith("repli") ? "replicas" : "nodes";
    return names.length === 1 ? group : { ...group, detail: `${names.length} ${kind} ${plural(rest)}: ${names.join(", ")}.` };
  });
}

const often = (flapping) => (flapping ? `Comes and goes, ${flapping.times} times within 5 minutes: ` : "");

function state(status) {
  const { summary, health, degraded } = status;
  $("state").className = `state ${summary.level}`;
  text($("sentence"), summary.sentence);
  title(status);
  const unknown = status.nodes.length > 0 ? "How old the data is, is not known. " : status.mode === "regional" ? "No database is configured. " : "";
  const age = status.data_age_ms === null ? unknown : `Data is at most ${millis(status.data_age_ms)} old. `;
  const health_ = `/health/edge says ${health.status}. `;
  text($("under"), `${age}${health_}${status.mode[0].toUpperCase()}${status.mode.slice(1)} since ${time(status.mode_since)} UTC.`);
  fill($("degraded"), together(degraded).map(({ level, detail, since, for_s, flapping, advice, reason }) => el("li", { class: level },
    el("span", { class: "mark", "aria-hidden": "true" }, level === "critical" ? "✖" : "⚠"),
    el("span", {}, el("strong", {}, often(flapping), detail), " ", el("code", { class: "soft" }, reason)),
    el("span", { class: "soft" }, `For ${span(for_s)}, since ${time(since)} UTC${flapping && flapping.well_s !== null ? `, well for ${span(flapping.well_s)}` : ""}`),
    el("span", {}, advice))));
}

const wrongs = ({ unacknowledged }) => Object.values(unacknowledged).reduce((sum, wrong) => sum + wrong, 0);

function news({ audit }) {
  audited = audit;
  const wrong = wrongs(audit);
  $("acknowledge").hidden = wrong === 0;
  text($("acknowledge"), `Acknowledge ${whole(wrong)} wrong ${wrong === 1 ? "answer" : "answers"}`);
  // A picture that was made before the order knows of nothing new.
  if (audit.wrong > answered) text($("acknowledged"), "");
}

async function acknowledge() {
  const { wrong, unacknowledged: seen } = audited;
  answered = wrong;
  $("acknowledge").disabled = true;
  try {
    const { acknowledged } = await ask("POST", "/admin/audit/acknowledge", { seen });
    const routes = Object.entries(acknowledged).map(([route, wrong]) => `${whole(wrong)} at ${route}`);
    $("acknowledge").hidden = true;
    text($("acknowledged"), `Acknowledged: ${routes.join(", ") || "nothing was left"}.`);
    // The focus was on what has gone.
    $("sentence").focus();
  } catch (error) {
    text($("acknowledged"), error.message);
  } finally {
    $("acknowledge").disabled = false;
  }
}

function tiles({ traffic, data_age_ms }) {
  const { latency_ms: latency, hit_ratio: hits } = traffic;
  text($("window"), traffic.window_s ? `last ${span(traffic.window_s)}` : "");
  const tile = (name, value, kind = "") => el("div", {}, el("dt", {}, name), el("dd", kind ? { class: kind } : {}, value));
  fill($("tiles"), [
    tile("Requests / s", number(traffic.requests_per_s)),
    tile("Errors / s", number(traffic.errors_per_s), traffic.errors_per_s > 0 ? "c" : ""),
    tile("p50", millis(latency.p50)),
    tile("p95", millis(latency.p95)),
    tile("p99", millis(latency.p99)),
    tile("From cache", percent(hits.total)),
    tile("From L1", percent(hits.l1)),
    tile("From L2", percent(hits.l2)),
    tile("Stale / s", number(traffic.stale_per_s)),
    tile("Shed / s", number(traffic.shed_per_s), traffic.shed_per_s > 0 ? "c" : ""),
    tile("Data age", millis(data_age_ms)),
  ]);
}

function nodes({ nodes, upstreams = [], peers = [] }) {
  const breaker = (state) => cell(state.replace("_", " "), state === "closed" ? "" : "w");
  const row = (name, condition, kind, state, ...rest) => el("tr", {}, el("th", { scope: "row" }, name), cell(condition, kind), breaker(state), ...rest);
  const databases = nodes.map((node) => {
    const reason = node.ineligible ?? (node.role === "primary" && !node.writable ? "read only" : null);
    const [condition, kind] = !node.up ? ["down", "c"] : reason ? [reason.replaceAll("_", " "), "w"] : ["up", "o"];
    return row(node.name, condition, kind, node.breaker, cell(millis(node.lag_ms), "n"), cell(millis(node.latency_ms), "n"),
      cell(whole(node.reads_served), "n"), cell(whole(node.reads_failed), node.reads_failed ? "n w" : "n"),
      cell(`${node.connections_idle} idle of ${node.connections}`, "n"), cell(node.lsn ? `${node.timeline ?? "?"}:${node.lsn}` : "–", "t mono"));
  });
  const others = upstreams.map((node) => row(node.id, node.breaker === "closed" ? "up" : "let alone", node.breaker === "closed" ? "o" : "w", node.breaker,
    cell("–", "n"), cell(millis(node.latency_ms), "n"), cell(whole(node.answered), "n"), cell(whole(node.failed), node.failed ? "n w" : "n"), cell("–", "n"), cell(node.endpoint, "mono")));
  const pulled = peers.map((peer) => el("tr", {}, el("th", { scope: "row" }, peer.peer), cell(peer.state, peer.state === "failing" ? "c" : "o"),
    cell("–"), cell(peer.complete_ago_ms === null ? "–" : millis(peer.complete_ago_ms), "n"), cell("–", "n"), cell(whole(peer.entries), "n"), cell("–", "n"), cell("–", "n"), cell(peer.failure ?? bytes(peer.bytes))));
  const all = [...databases, ...others, ...pulled];
  fill($("nodes"), all.length ? all : [none(9, "There is no database and no upstream.")]);
}

function routes({ routes, hot }) {
  const asked = routes.map(({ route, requests_per_s, errors_per_s, hit_ratio }) => el("tr", {},
    el("td", { class: "mono wide" }, route), cell(number(requests_per_s), "n"), cell(number(errors_per_s), errors_per_s > 0 ? "n c" : "n"), cell(percent(hit_ratio), "n")));
  fill($("routes"), asked.length ? asked : [none(4, "Nothing was asked within the last minute.")]);
  const kept = hot.map(({ path, hits, age_s, bytes: size }) => el("tr", {},
    el("td", { class: "wide" }, el("button", { type: "button", class: "plain", "data-path": path, title: "Look at this entry" }, path)), cell(whole(hits), "n"), cell(span(age_s), "n"), cell(bytes(size), "n")));
  fill($("hot"), kept.length ? kept : [none(4, "Nothing is cached here.")]);
}

function figures({ cache, bus, audit, settings, routes }) {
  const lookups = (layer) => Object.entries(cache.lookups[layer] ?? {}).map(([name, count]) => `${whole(count)} ${name}`).join(", ");
  fill($("cache"), facts([
    ["Entries", `${whole(cache.entries)}, ${bytes(cache.bytes)} of ${bytes(cache.bytes_max)}`],
    ["Fills", `${whole(cache.fills_running)} of ${whole(cache.fills_max)} under way`],
    ["L1 lookups", lookups("L1")],
    ["L2 lookups", settings.has_redis ? lookups("L2") : "no Redis"],
    ["Fences", `${whole(cache.tags)} of ${whole(cache.tags_max)} tags`],
    ["Routes", whole(routes)],
  ]));
  const wrong = wrongs(audit) > 0;
  fill($("changes"), facts([
    ["Heard", bus.heard_ago_ms === null ? "nobody is to tell" : `${millis(bus.heard_ago_ms)} ago${bus.silent ? ", which is too long" : ""}`],
    ["Caught up", bus.caught_up ? "yes" : "not yet"],
    ["Told", el("code", {}, bus.told ?? "–")],
    ["Through", el("code", {}, bus.through ?? "–")],
    ["Audited", `${whole(audit.checked)} cached answers compared with the primary`],
    ["Wrong", el("span", { class: wrong ? "c" : "" }, audit.wrong ? `${whole(audit.wrong)}, ${wrong ? `${whole(wrongs(audit))} not acknowledged` : "all acknowledged"}: look for mainstay::audit in the log` : "none")],
  ]));
}

function watch() {
  const silent = Date.now() - heard;
  if (!isListening || isRefused || silent <= SILENCE_MS) return;
  linked("lost", `No news for ${span(silent / 1000)}`);
  // A connection whose other end is gone without a word looks as if it were quiet.
  if (silent > GIVEN_UP_MS && Date.now() - tried > GIVEN_UP_MS) listen();
}

$("charts").append(...charts.map((chart) => chart.figure));
$("sign-in").addEventListener("submit", signIn);
$("sign-out").addEventListener("click", signOut);
$("acknowledge").addEventListener("click", acknowledge);
$("hot").addEventListener("click", ({ target }) => {
  if (!target.dataset.path) return;
  $("entry-path").value = target.dataset.path;
  look();
  $("entry-path").focus();
});
prepare();
document.addEventListener("visibilitychange", turned);
// The worker is not told when a window goes. One that is kept for a way back comes again.
addEventListener("pagehide", hush);
addEventListener("pageshow", ({ persisted }) => persisted && resume());
setInterval(watch, 1000);
setInterval(glance, GLANCE_MS);
ask("GET", "/console/session").then((session) => (session.may_change ? enter() : door()), (error) => door(error.message));
