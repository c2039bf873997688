// What stands above the cards: who decides, what is wrong, and the key figures.

import { chip, el, symbolName } from "./dom.js";
import {
  clause, count, duration, moment, momentSeconds, number, percent, shortId, signed, signedPercent, tone, words,
}
  from "./format.js";

const PHASES = {
  starting: ["Starting", "warn"], backfilling: ["Fetching history", "warn"],
  running: ["Running", "good"], stopping: ["Stopping", "warn"],
};
const SEVERITIES = { critical: "bad", warning: "warn", info: "" };

export function facts(status) {
  const fast = status.speed !== 1 ? ` ×${count(status.speed)}` : "";
  const model = status.champion ? shortId(status.champion.model_id) : "none";
  return [
    ["Venue", status.venue, status.venue_description],
    ["Interval", status.interval],
    ["Account", status.account_id],
    ["Model", model, status.champion?.model_id],
    [status.sandbox ? `Venue time, UTC${fast}` : "Time, UTC", momentSeconds(status.now)],
  ].map(([name, value, title]) =>
    el("div", { title }, el("dt", {}, name), el("dd", {}, value)));
}

export function chips(status) {
  const [phase, phaseTone] = PHASES[status.phase] ?? [words(status.phase), ""];
  return [
    chip(phase, phaseTone, status.ready ? "Ready" : `Not ready: ${status.ready_reason}`),
    status.healthy
      ? chip("Healthy", "good", status.health_reason)
      : chip("Not healthy", "bad", status.health_reason),
  ].map((node) => el("li", {}, node));
}

export function ribbon(status) {
  if (!status.sandbox) return null;
  const kind = status.synthetic ? "synthetic market, not real data" : "recorded market, replayed";
  return [el("b", {}, "SANDBOX"), ` — ${kind}`,
    status.venue_description ? el("span", {}, ` · ${status.venue_description}`) : null];
}

/** What is wrong with the daemon itself, then who decides and why, or what is waited for. */
export function deciding(status) {
  const unwell = status.healthy ? [] : [sentence("The daemon makes no progress.", clause(status.health_reason), "bad")];
  return unwell.concat(decider(status));
}

function decider(status) {
  if (status.phase === "backfilling") return backfilling(status);
  if (status.phase === "starting") return [sentence("Starting up.", status.ready_reason)];
  const decision = status.last_decision;
  if (decision?.status === "halted") return [sentence("Trading has stopped.", clause(decision.reason), "bad")];
  const held = decision?.status === "held" ? ` At the last decision it kept its positions: ${clause(decision.reason)}` : "";
  if (status.champion) {
    const age = duration((status.now - status.champion.promoted_at) / 1000);
    return [sentence(`Model ${shortId(status.champion.model_id)} decides.`,
      `Promoted ${age} ago. ${clause(status.champion.summary)}${held}`)];
  }
  const holding = status.fallback === "cash" ? "Holds cash" : `Holds ${status.fallback.replaceAll("_", " ")}`;
  return [sentence(`${holding} because no model has been promoted.`, nextModel(status) + held)];
}

export function alerts(list, now) {
  return list.map((alert) => el("article", { class: `alert ${SEVERITIES[alert.severity]}` },
    el("p", {},
      chip(words(alert.severity), SEVERITIES[alert.severity]), " ",
      el("b", {}, alert.message),
      alert.since === null ? null
        : el("span", { class: "hint", title: `${moment(alert.since)} UTC` },
          ` since ${duration((now - alert.since) / 1000)}`)),
    el("p", { class: "remedy" }, alert.remedy)));
}

export function tiles(status) {
  const result = status.equity - status.initial_deposit;
  const gain = status.initial_deposit > 0 ? result / status.initial_deposit : null;
  const costs = status.fees + status.slippage - status.funding;
  const decided = Object.values(status.decisions).reduce((sum, each) => sum + each, 0);
  return [
    status.initial_deposit > 0
      ? tile(`Equity, ${status.quote}`, number(status.equity), `deposit ${number(status.initial_deposit, 0)}`)
      : tile(`Equity, ${status.quote}`, "–", "no deposit yet"),
    tile("Net return", signedPercent(gain), `${signed(result)} ${status.quote}`, tone(gain)),
    tile("Drawdown", percent(status.drawdown), `peak ${number(status.peak_equity)}`),
    tile("Invested", percent(1 - status.cash_weight, 1), `cash ${percent(status.cash_weight, 1)}`),
    tile("Costs", number(costs), "fees, slippage, funding"),
    tile("Decisions", count(decided), `${count(status.fills)} fills · ${count(status.missed)} missed`),
    tile("Newest bar", duration(status.bar_age_seconds), status.decision_age_seconds === null ? "no decision yet" : `decision ${duration(status.decision_age_seconds)} ago`),
  ];
}

/** The feed: age of every symbol's newest bar, and what has happened to it. */
export function feed(status) {
  const rows = status.symbols.map((symbol) => {
    const age = status.feed[symbol] ?? { last_close_time: null, age_seconds: null };
    return el("tr", {},
      el("td", {}, symbolName(symbol)),
      el("td", { class: "number" }, moment(age.last_close_time)),
      el("td", { class: "number" }, age.age_seconds === null ? "no bar yet" : duration(age.age_seconds)));
  });
  const kinds = Object.entries(status.feed_counters).filter(([, times]) => times > 0);
  return [
    el("table", {},
      el("caption", { class: "hidden" }, "Newest final bar of every symbol"),
      el("thead", {}, el("tr", {},
        el("th", { scope: "col" }, "Symbol"),
        el("th", { scope: "col", class: "number" }, "Newest close (UTC)"),
        el("th", { scope: "col", class: "number" }, "Age"))),
      el("tbody", {}, ...rows)),
    kinds.length === 0 ? null : el("ul", { class: "counters", "aria-label": "Feed events" },
      ...kinds.map(([kind, times]) =>
        el("li", {}, `${words(kind)} `, el("b", {}, count(times))))),
  ];
}

function backfilling(status) {
  const { done, total } = status.backfill ?? { done: 0, total: 0 };
  const known = total > 0;
  return [
    sentence("Fetching history before the first decision.",
      known ? `${count(done)} of ${count(total)} done.` : "Asking the venue what there is."),
    el("progress", { max: known ? total : null, value: known ? done : null, "aria-label": "History fetched" }),
  ];
}

function nextModel(status) {
  const retraining = status.retraining;
  if (retraining.state === "running") {
    const of = retraining.total > 0 ? ` (${percent(retraining.done / retraining.total, 0)})` : "";
    return `A candidate is being trained: ${words(retraining.stage ?? "starting").toLowerCase()}${of}.`;
  }
  if (retraining.last_verdict && !retraining.last_verdict.passed) {
    return `The last candidate was refused: ${clause(retraining.last_verdict.reasons[0] ?? "see its checks")}`;
  }
  if (retraining.next_run_at !== null) return `The next training is due ${moment(retraining.next_run_at)} UTC.`;
  return "";
}

function sentence(headline, rest, kind = "") {
  return el("p", { class: kind }, el("b", {}, headline), " ", rest);
}

function tile(name, value, note, kind = "") {
  return el("div", { class: "tile" },
    el("span", { class: "tile-name" }, name),
    el("span", { class: `tile-value ${kind}` }, value),
    el("span", { class: "tile-note" }, note));
}
