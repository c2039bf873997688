// The page's life: listen to the daemon, keep the lists fresh, draw what has changed.

import * as account from "./account.js";
import { EquityChart } from "./chart.js";
import { byId, el, empty, forget, render } from "./dom.js";
import { clause, moment, momentSeconds } from "./format.js";
import * as learning from "./learning.js";
import * as summary from "./summary.js";

const LISTS_PERIOD_MS = 2_000;
const CURVE_PERIOD_MS = 60_000;
const RECONNECT_MS = 3_000;
const SILENCE_MS = 6_000;
const DAY = 86_400_000;
const RANGES = [["1 d", DAY], ["7 d", 7 * DAY], ["30 d", 30 * DAY], ["90 d", 90 * DAY], ["All", Infinity]];

const page = {
  status: null, source: null, heardAt: 0, connected: false,
  points: [], range: Infinity, curveAt: -Infinity,
  listsAt: -Infinity, listsFor: null, modelsFor: null,
  choice: null, models: new Map(),
};
const chart = new EquityChart(byId("chart"), byId("readout"));

listen();
setInterval(watch, 1_000);

function listen() {
  page.source?.close();
  const source = new EventSource("/api/events");
  page.source = source;
  source.addEventListener("status", (event) => {
    page.heardAt = performance.now();
    page.status = JSON.parse(event.data);
    setConnected(true);
    draw();
    refresh();
  });
  source.addEventListener("error", () => {
    setConnected(false);
    // A refusal closes the source for good; anything else it retries by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RECONNECT_MS);
  });
}

/** A stream that is open and silent is not a connection. */
function watch() {
  if (page.connected && performance.now() - page.heardAt > SILENCE_MS) {
    setConnected(false);
    listen();
  }
}

function setConnected(connected) {
  page.connected = connected;
  const known = page.status ? `Showing what was known at ${momentSeconds(page.status.now)} UTC.` : "";
  byId("connection").hidden = connected;
  render("connection", connected ? "" : known, () => (connected ? [] : [
    el("b", {}, page.status ? "Connection to the daemon lost." : "The daemon does not answer."), ` ${known} Trying again…`]));
  document.body.classList.toggle("disconnected", !connected && page.status !== null);
}

function draw() {
  const status = page.status;
  byId("main").setAttribute("aria-busy", "false");
  document.title = `${status.healthy ? "" : "⚠ "}Ballast · ${status.account_id} · ${status.venue}${status.sandbox ? " (sandbox)" : ""}`;
  render("facts", summary.facts(status).map((node) => node.textContent), () => summary.facts(status));
  render("chips", [status.phase, status.healthy, status.health_reason, status.ready], () => summary.chips(status));
  byId("ribbon").hidden = !status.sandbox;
  render("ribbon", [status.sandbox, status.synthetic, status.venue_description], () => summary.ribbon(status) ?? []);
  drawText("deciding", () => summary.deciding(status));
  // The sentence above the alerts says already that there is no model.
  const alerts = status.alerts.filter((alert) => alert.name !== "no_model");
  drawText("alerts", () => summary.alerts(alerts, status.now));
  drawText("tiles", () => summary.tiles(status));
  drawAccount(status);
  drawText("retraining", () => learning.retraining({ retraining: status.retraining, now: status.now }));
  drawText("feed", () => summary.feed(status));
  drawVerdict();
  drawCurve();
  render("footer", [status.version, status.started_at], () => [
    el("span", {}, `Ballast ${status.version} · paper trading, no real orders · started ${moment(status.started_at)} UTC`),
    el("span", {}, el("a", { href: "/api/status" }, "JSON"), " · ", el("a", { href: "/metrics" }, "Metrics"))]);
}

function drawAccount(status) {
  render("weights", {
    weights: status.weights, cash: status.cash_weight, symbols: status.symbols,
    targets: status.last_decision?.status === "decided" ? status.last_decision.target_weights : null,
  }, account.weights);
  render("positions", {
    positions: status.positions, pending: status.pending_orders, weights: status.weights, quote: status.quote,
  }, account.positions);
  byId("positions-hint").textContent = account.waiting(status.pending_orders);
  byId("shadows-card").hidden = status.shadows.length === 0;
  render("shadows", { shadows: status.shadows, quote: status.quote }, account.shadows);
  render("costs", {
    equity: status.equity, deposit: status.initial_deposit, fees: status.fees,
    slippage: status.slippage, funding: status.funding, quote: status.quote,
  }, account.costs);
}

/** Draw nodes that are cheap to build, and put them in place only if their text has changed. */
function drawText(id, build) {
  const nodes = build().filter(Boolean);
  render(id, nodes.map((node) => node.outerHTML), () => nodes);
}

/** Fetch the lists when a decision or a fill has come, but not more often than every two seconds. */
function refresh() {
  const status = page.status;
  const now = performance.now();
  const wanted = `${status.decision_time}/${status.fills}/${status.missed}`;
  if (wanted !== page.listsFor && now - page.listsAt >= LISTS_PERIOD_MS) {
    page.listsAt = now;
    page.listsFor = wanted;
    load("fills", "/api/fills?limit=50", ({ fills }) => {
      render("fills", fills, account.fills);
      byId("fills-hint").textContent = account.shown(fills, page.status.fills);
    }, () => { page.listsFor = null; });
    load("decisions", "/api/decisions?limit=50", ({ decisions }) => render("decisions", decisions, account.decisions),
      () => { page.listsFor = null; });
  }
  if (now - page.curveAt >= CURVE_PERIOD_MS) {
    page.curveAt = now;
    load("chart", "/api/equity?limit=2000", ({ points }) => { page.points = points; drawCurve(true); },
      () => { page.curveAt = performance.now() - CURVE_PERIOD_MS + 5_000; });
  }
  refreshModels(status);
}

function refreshModels(status) {
  const wanted = `${status.champion?.model_id}/${status.retraining.last_verdict?.model_id}/${status.retraining.state}`;
  if (wanted === page.modelsFor) return;
  page.modelsFor = wanted;
  load("models", "/api/models", ({ models }) => render("models", models, (rows) => learning.models(rows, choose)),
    () => { setTimeout(() => { page.modelsFor = null; }, 5_000); });
  if (status.champion) fetchModel(status.champion.model_id);
}

async function load(id, path, show, failed) {
  try {
    show(await getJson(path));
  } catch (error) {
    failed();
    // Without an answer the banner says that the connection is lost, and the last figures stay.
    if (!(error instanceof Refusal)) return;
    forget(id);
    byId(id).replaceChildren(el("p", { class: "empty error" }, `Could not be loaded: ${clause(error.message)}`));
  }
}

/** The daemon answered, but not with what was asked for. */
class Refusal extends Error {}

async function getJson(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  const document = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(document.error ?? `the daemon answered ${response.status}`);
  return document;
}

async function fetchModel(id) {
  try {
    page.models.set(id, (await getJson(`/api/models/${encodeURIComponent(id)}`)).model);
  } catch (error) {
    page.models.set(id, { model_id: id, failure: error.message });
  }
  drawVerdict();
}

/** Add the newest decision to the curve; the whole of it is fetched once a minute. */
function drawCurve(force = false) {
  const { status, points } = page;
  const decision = status?.last_decision;
  const grown = decision && points.length > 0 && decision.decision_time > points.at(-1).time;
  if (grown) {
    const peak = Math.max(status.peak_equity, decision.equity);
    points.push({ time: decision.decision_time, equity: decision.equity,
      drawdown: peak > 0 ? Math.max(0, 1 - decision.equity / peak) : 0 });
  }
  if (!status || !(grown || force)) return;
  drawRanges();
  const from = points.length > 0 ? points.at(-1).time - page.range : 0;
  chart.show(points.filter((point) => point.time >= from), status.initial_deposit || null, status.quote);
}

function drawRanges() {
  const { points } = page;
  const span = points.length > 1 ? points.at(-1).time - points[0].time : 0;
  const useful = RANGES.filter(([, size]) => size < span || size === Infinity);
  render("ranges", [useful.length, page.range === Infinity ? 0 : page.range], () => (useful.length < 2 ? [] :
    useful.map(([name, size]) => segment(name, page.range === size, () => { page.range = size; drawCurve(true); }))));
}

function choose(id) {
  page.choice = id;
  drawVerdict();
  byId("verdict-title").scrollIntoView({ block: "nearest" });
}

function drawVerdict() {
  const status = page.status;
  const champion = status.champion?.model_id ?? null;
  const last = status.retraining.last_verdict;
  const choices = [];
  if (champion) choices.push([champion, "Champion"]);
  if (last && last.model_id !== champion) choices.push([last.model_id, "Last candidate"]);
  if (page.choice && !choices.some(([id]) => id === page.choice)) choices.push([page.choice, "Chosen model"]);
  const chosen = page.choice ?? choices[0]?.[0] ?? null;
  render("verdict-choice", [choices, chosen], () => (choices.length < 2 ? [] :
    choices.map(([id, name]) => segment(name, id === chosen, () => choose(id)))));
  if (chosen && !page.models.has(chosen) && chosen !== last?.model_id) {
    page.models.set(chosen, null);
    fetchModel(chosen);
    return;
  }
  const model = page.models.get(chosen) ?? null;
  const shown = chosen === last?.model_id ? last : model?.verdict ?? null;
  render("verdict", { verdict: shown, model, isChampion: chosen !== null && chosen === champion }, (data) =>
    (model?.failure ? empty(`The verdict could not be loaded: ${model.failure}`) : learning.verdict(data)));
}

function segment(name, pressed, onclick) {
  return el("button", { type: "button", "aria-pressed": pressed ? "true" : "false", onclick }, name);
}
