// Counts the token down, keeps calling, sends bursts and draws what came back. The page never sees
// a token: it knows only when the present one ends, and eight digits of its hash.

const BURST = 25;
const POLL_EVERY = 2000; // milliseconds
const FIRE_AT = 1; // seconds left: well inside the refresh buffer, and the token still works
const STRIP = 8; // tokens on show
const ROWS = 6; // bursts on show
const CELL = 12; // pixels a dot takes, its gap included

const byId = (id) => document.getElementById(id);
const dashboard = byId("dashboard");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const state = {
  expiresAt: 0, // Unix seconds, by the server's clock
  lifetime: 15, // seconds
  clockAhead: 0, // server's clock minus this one, seconds
  tokens: [], // {number, expiresAt, used: null while it is the present one, else 0..1 or more}
  armed: false,
  busy: false,
  signedIn: true,
  silent: false, // the last call came back without an answer to use
};

const now = () => Date.now() / 1000 + state.clockAhead;
const left = () => state.expiresAt - now();
const seconds = (value) => `${value.toFixed(1)} s`;
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : noun.endsWith("sh") ? "es" : "s"}`;

// -- calling the server -----------------------------------------------------------------------

async function call(path) {
  const began = performance.now();
  try {
    const response = await fetch(path, { cache: "no-store" });
    const body = response.ok ? await response.json() : null;
    return { status: response.status, body, took: performance.now() - began };
  } catch {
    return { status: 0, body: null, took: performance.now() - began };
  }
}

async function readStats() {
  const asked = Date.now();
  const { body } = await call("/api/stats");
  if (body) {
    state.clockAhead = body.now - (asked + Date.now()) / 2000;
    state.lifetime = body.access_token_lifetime;
  }
  return body;
}

async function poll() {
  if (!byId("keep").checked || state.armed || state.busy || document.hidden || !state.signedIn) return;
  const answer = await call("/api/me");
  state.silent = answer.status !== 200;
  if (answer.status === 401) signedOut();
  else if (answer.status === 200) learn(answer.body.expires_at);
}

function signedOut() {
  state.signedIn = false;
  disarm();
  settlePresent();
  state.expiresAt = 0;
  drawStrip();
  write("title", "Signed out.");
  byId("lead").hidden = true;
  byId("gone").hidden = false;
  byId("send").disabled = byId("arm").disabled = true;
}

// -- the tokens, one after another ------------------------------------------------------------

// Answers overtake each other: only a later end is news.
function learn(expiresAt) {
  if (expiresAt === null || expiresAt <= state.expiresAt) return;
  settlePresent();
  state.tokens.push({ number: state.tokens.length + 1, expiresAt, used: null });
  state.expiresAt = expiresAt;
  drawStrip();
}

// The newest token is the present one no more: note how much of its life it was used.
function settlePresent() {
  const present = state.tokens.at(-1);
  if (present) present.used ??= 1 - left() / state.lifetime;
}

function drawStrip() {
  const shown = state.tokens.slice(-STRIP);
  const empty = Array.from({ length: STRIP - shown.length }, () => null);
  byId("strip").replaceChildren(...empty.map(emptyItem), ...shown.map(tokenItem));
  if (state.signedIn) write("tally", tally(state.tokens.filter((token) => token.used !== null)));
}

function tally(replaced) {
  if (replaced.length === 0) return "This is the first token since you opened the page.";
  const early = replaced.filter((token) => token.used < 1).length;
  const all = early === replaced.length;
  const when = all ? (early === 1 ? "before it ran out" : "each before it ran out") : `${early} of them before they ran out`;
  return `${count(replaced.length, "token")} replaced, ${when}.`;
}

function tokenItem(token) {
  const item = make("li", token.used === null ? "live" : token.used >= 1 ? "late" : "");
  const used = make("div", "used");
  used.style.transform = `scaleX(${Math.min(1, token.used ?? 0)})`;
  const bar = make("div", "bar");
  bar.append(used);
  item.append(bar, make("span", "label", tokenLabel(token)));
  return item;
}

function tokenLabel(token) {
  if (token.used === null) return "now";
  return token.used < 1 ? `${seconds((1 - token.used) * state.lifetime)} left` : "ran out";
}

function emptyItem() {
  const item = make("li", "none");
  item.setAttribute("aria-hidden", "true");
  item.append(make("div", "bar"), make("span", "label", "\u00a0"));
  return item;
}

// -- the countdown ----------------------------------------------------------------------------

function tick() {
  const remaining = Math.max(0, left());
  const share = Math.min(1, remaining / state.lifetime);
  byId("ring").style.strokeDasharray = `${share * 100} 100`;
  write("seconds", state.signedIn ? String(Math.ceil(remaining)) : "–");
  write("state", describe(remaining, share));
  const live = byId("strip").querySelector(".live .used");
  if (live) live.style.transform = `scaleX(${1 - share})`;
  if (state.armed) tickArmed(remaining);
}

function describe(remaining, share) {
  if (!state.signedIn) return "Signed out.";
  if (state.silent) return "No answer just now. Trying again.";
  if (remaining === 0) return "It has run out. The next request brings a new one.";
  if (share <= 0.25) return "In its last quarter: the next request brings a new one.";
  return "Fresh: requests read it from the cookie and ask nobody.";
}

function run() {
  tick();
  if (calm.matches) setTimeout(run, 500);
  else requestAnimationFrame(run);
}

// -- bursts -----------------------------------------------------------------------------------

function tickArmed(remaining) {
  if (remaining <= FIRE_AT) {
    disarm();
    burst();
  } else {
    write("arm", `Waiting ${Math.ceil(remaining - FIRE_AT)} s`);
  }
}

function disarm() {
  state.armed = false;
  byId("arm").setAttribute("aria-pressed", "false");
  write("arm", "Send 25 as it runs out");
}

function arm() {
  if (state.armed) return disarm();
  state.armed = true;
  byId("arm").setAttribute("aria-pressed", "true");
}

async function burst() {
  if (state.busy) return;
  state.busy = true;
  disarm();
  byId("send").disabled = true;
  const before = await readStats();
  const began = performance.now();
  const answers = await Promise.all(Array.from({ length: BURST }, () => request(began)));
  const after = await readStats();
  show(sum(answers, before, after));
  byId("send").disabled = !state.signedIn;
  state.busy = false;
}

async function request(began) {
  const known = state.expiresAt;
  const { status, body } = await call("/api/work");
  const at = performance.now() - began;
  return { status, at, known, expiresAt: body?.expires_at ?? null, token: body?.token ?? null };
}

function sum(answers, before, after) {
  const arrived = answers.toSorted((one, other) => one.at - other.at);
  for (const answer of arrived) answer.renewed = answer.expiresAt > answer.known;
  arrived.forEach((answer) => learn(answer.expiresAt));
  if (arrived.every((answer) => answer.status === 401)) signedOut();
  return {
    arrived,
    at: new Date(),
    refreshes: before && after ? after.refreshes - before.refreshes : null,
    tokens: new Set(arrived.map((answer) => answer.token).filter(Boolean)),
    failed: arrived.filter((answer) => answer.status !== 200),
    median: arrived[Math.floor(arrived.length / 2)].at,
    slowest: arrived.at(-1).at,
  };
}

function headline({ arrived, refreshes }) {
  const asked = count(arrived.length, "request");
  return refreshes === null ? asked : `${asked} · ${count(refreshes, "refresh")}`;
}

function detail({ arrived, failed, tokens, median, slowest }) {
  const good = arrived.length - failed.length;
  const outcome = failed.length
    ? `${good} answered, ${failed.length} failed (${[...new Set(failed.map(reason))].join(", ")}).`
    : `All answered, ${tokens.size === 1 ? `with one token, ${[...tokens][0]}` : `with ${tokens.size} tokens`}.`;
  return `${outcome} Median ${Math.round(median)} ms, slowest ${Math.round(slowest)} ms.`;
}

const reason = ({ status }) =>
  ({ 0: "no answer", 401: "signed out", 503: "try later" })[status] ?? `status ${status}`;

// -- drawing a burst --------------------------------------------------------------------------

function show(result) {
  const row = make("li");
  const head = make("p", "result");
  const time = make("time", "", result.at.toLocaleTimeString());
  time.dateTime = result.at.toISOString();
  head.append(make("strong", "", headline(result)), time);
  const plot = make("div", "plot");
  plot.setAttribute("aria-hidden", "true");
  const axis = make("p", "axis");
  axis.setAttribute("aria-hidden", "true");
  axis.append(make("span", "", "0 ms"), make("span", "", `${Math.round(result.slowest)} ms`));
  row.append(head, make("p", "detail", detail(result)), plot, axis);
  byId("timeline").prepend(row);
  [...byId("timeline").children].slice(ROWS).forEach((old) => old.remove());
  byId("empty").hidden = true;
  byId("legend").hidden = false;
  layOut(plot, result);
  new ResizeObserver(() => layOut(plot, result)).observe(plot);
  write("announce", `${headline(result)}. ${detail(result)}`);
}

// Dots stand where their answer arrived in time; those of one moment are stacked.
function layOut(plot, { arrived, slowest }) {
  const cells = Math.max(8, Math.floor(plot.clientWidth / CELL));
  if (plot.dataset.cells === String(cells)) return;
  const again = "cells" in plot.dataset;
  plot.dataset.cells = String(cells);
  const heights = new Map();
  const dots = arrived.map((answer, index) => {
    const cell = Math.round((answer.at / slowest) * (cells - 1));
    const height = heights.get(cell) ?? 0;
    heights.set(cell, height + 1);
    const dot = make("span", `dot ${outcome(answer)}`);
    dot.style.left = `${(cell / (cells - 1)) * 100}%`;
    dot.style.bottom = `${height * CELL}px`;
    dot.style.animationDelay = `${index * 18}ms`;
    if (again) dot.style.animation = "none";
    return dot;
  });
  const refreshes = marks(arrived, slowest, cells);
  const room = refreshes.length ? 26 : 8; // pixels above the dots; a mark's label needs more
  plot.style.height = `${Math.max(4, ...heights.values()) * CELL + room}px`;
  plot.replaceChildren(...refreshes, ...dots);
}

function outcome({ status, renewed }) {
  if (status === 200) return renewed ? "renewed" : "";
  return status === 503 ? "later" : "failed";
}

// A refresh is marked where the first answer with its token arrived.
function marks(arrived, slowest, cells) {
  const first = new Map();
  for (const answer of arrived) {
    if (answer.renewed && !first.has(answer.token)) first.set(answer.token, answer.at);
  }
  return [...first.values()].map((at) => {
    const share = Math.round((at / slowest) * (cells - 1)) / (cells - 1);
    const mark = make("span", share < 0.3 ? "mark early" : "mark");
    mark.style.left = `calc(${share * 100}% - 11px)`;
    mark.append(make("span", "", "refresh"));
    return mark;
  });
}

// -- small helpers ----------------------------------------------------------------------------

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function write(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

// -- begin ------------------------------------------------------------------------------------

byId("send").addEventListener("click", burst);
byId("arm").addEventListener("click", arm);
document.addEventListener("visibilitychange", poll);
await readStats();
write("lifetime", String(state.lifetime));
learn(Number(dashboard.dataset.expiresAt));
setInterval(poll, POLL_EVERY);
run();
