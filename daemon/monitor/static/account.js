// The account: weights, positions, fills, decisions, costs; and the other accounts on its feed.

import { chip, el, empty, symbolName, table } from "./dom.js";
import { compact, count, idEnd, moment, number, percent, price, signed, signedPercent, tone, words }
  from "./format.js";

const DECISIONS = { decided: "good", held: "warn", missed: "bad", halted: "bad" };

/** Horizontal bars of the drifted weights, with a mark at the target; cash is the last row. */
export function weights({ weights: held, cash, targets, symbols }) {
  const aimed = targets && Object.keys(targets).length > 0;
  const cashTarget = aimed ? 1 - Object.values(targets).reduce((sum, each) => sum + each, 0) : null;
  const rows = symbols.map((symbol) => [symbolName(symbol), held[symbol] ?? 0, aimed ? targets[symbol] ?? 0 : null, ""]);
  rows.push([el("span", { class: "symbol" }, el("b", {}, "Cash")), cash, cashTarget, "cash"]);
  const values = rows.flatMap(([, weight, target]) => [weight, target ?? 0]);
  const high = Math.max(0.25, Math.ceil(Math.max(...values) * 4 - 1e-6) / 4);
  const low = Math.min(0, Math.floor(Math.min(...values) * 4 + 1e-6) / 4);
  const place = (weight) => ((weight - low) / (high - low)) * 100;
  return el("ul", { class: "bars" }, ...rows.map(([name, weight, target, kind]) => {
    const bar = el("span", { class: `bar ${kind} ${weight < 0 ? "short" : ""}` });
    bar.style.left = `${place(Math.min(0, weight))}%`;
    bar.style.width = `${place(Math.abs(weight)) - place(0)}%`;
    const mark = target === null ? null : el("span", { class: "target" });
    if (mark) mark.style.left = `${place(target)}%`;
    const title = target === null ? null : `target ${percent(target, 1)}`;
    return el("li", { title }, name, el("span", { class: "track", "aria-hidden": "true" }, bar, mark),
      el("span", { class: "number" }, percent(weight, 1),
        target === null ? null : el("span", { class: "hidden" }, `, target ${percent(target, 1)}`)));
  }));
}

export function positions({ positions: rows, pending, weights: held, quote }) {
  if (rows.length === 0 && pending.length === 0) return empty("No positions: everything is in cash.");
  const waiting = new Map(pending.map((order) => [order.symbol, order]));
  const known = new Set(rows.map((row) => row.symbol));
  const opened = pending.filter((order) => !known.has(order.symbol)).map((order) => (
    { symbol: order.symbol, quantity: 0, entry_price: null, mark_price: order.decision_price, notional: 0, unrealised: null }));
  return table("Positions", [
    { title: "Symbol", cell: (row) => symbolName(row.symbol) },
    { title: "Quantity", number: true, cell: (row) => compact(row.quantity) },
    { title: "Entry price", number: true, cell: (row) => price(row.entry_price) },
    { title: "Mark price", number: true, cell: (row) => price(row.mark_price) },
    { title: `Notional, ${quote}`, number: true, cell: (row) => number(row.notional) },
    { title: "Weight", number: true, cell: (row) => percent(held[row.symbol] ?? 0, 1) },
    { title: `Unrealised, ${quote}`, number: true,
      cell: (row) => el("span", { class: tone(row.unrealised) }, signed(row.unrealised)) },
    { title: "Pending order", number: true, cell: (row) => {
      const order = waiting.get(row.symbol);
      return order ? `${order.quantity > 0 ? "buy" : "sell"} ${compact(Math.abs(order.quantity))}` : "–";
    } },
  ], rows.concat(opened));
}

/** Other accounts on the same feed, each with a target of its own. */
export function shadows({ shadows: rows, quote }) {
  return table("Shadow accounts", [
    { title: "Account", cell: (row) => el("span", {}, row.account_id,
      row.halted ? " " : "", row.halted ? chip("halted", "bad") : null) },
    { title: "Target", cell: (row) => row.target },
    { title: `Equity, ${quote}`, number: true, cell: (row) => number(row.equity) },
    { title: "Return", number: true,
      cell: (row) => el("span", { class: tone(row.total_return) }, signedPercent(row.total_return)) },
    { title: "Decisions", number: true, cell: (row) => count(row.decisions) },
  ], rows);
}

export function fills(rows) {
  if (rows.length === 0) return empty("No fills yet. The first one follows the first decision that trades.");
  return table("Last fills, newest first", [
    { title: "Time (UTC)", cell: (row) => moment(row.event_time) },
    { title: "Symbol", cell: (row) => symbolName(row.symbol) },
    { title: "Side", cell: (row) => (row.quantity > 0 ? "buy" : "sell") },
    { title: "Quantity", number: true, cell: (row) => compact(Math.abs(row.quantity)) },
    { title: "Reference", number: true, cell: (row) => price(row.reference_price) },
    { title: "Fill price", number: true, cell: (row) => price(row.fill_price) },
    { title: "Fee", number: true, cell: (row) => number(row.fee) },
    { title: "Slippage", number: true, cell: (row) => number(row.slippage) },
  ], rows);
}

export function decisions(rows) {
  if (rows.length === 0) return empty("No decisions yet. The first one is taken when the next bar closes.");
  return table("Last decisions, newest first", [
    { title: "Time (UTC)", cell: (row) => moment(row.decision_time) },
    { title: "Status", cell: (row) => chip(row.status, DECISIONS[row.status] ?? "") },
    { title: "By", cell: (row) => el("span", { title: row.model_id },
      row.model_id ? idEnd(row.model_id) : words(row.source)) },
    { title: "Turnover", number: true, cell: (row) => percent(row.turnover, 1) },
    { title: "Equity", number: true, cell: (row) => number(row.equity) },
    { title: "Reason", wide: true, cell: (row) => (row.missing.length === 0 ? row.reason
      : `${row.reason} (no bar: ${row.missing.map((symbol) => symbol.split("/")[0]).join(", ")})`) },
  ], rows);
}

/** From the result before costs down to the result, so that nobody has to subtract. */
export function costs({ equity, deposit, fees, slippage, funding, quote }) {
  const result = equity - deposit;
  const lines = [
    ["Before costs", result + fees + slippage - funding, ""],
    ["Fees", -fees, ""], ["Slippage", -slippage, ""], ["Funding", funding, ""],
    [`Net result, ${quote}`, result, "total"],
  ];
  return el("dl", { class: "lines" }, ...lines.map(([name, value, kind]) =>
    el("div", { class: kind }, el("dt", {}, name),
      el("dd", {}, el("span", { class: kind ? tone(value) : "" }, signed(value)),
        el("span", { class: "hint" }, deposit > 0 ? signedPercent(value / deposit) : "")))));
}

/** "50 of 3,107", where not all are listed. */
export function shown(rows, total) {
  return rows.length < total ? `${count(rows.length)} of ${count(total)}` : "";
}

export function waiting(orders) {
  if (orders.length === 0) return "";
  return `${count(orders.length)} ${orders.length === 1 ? "order fills" : "orders fill"} at the next bar's open`;
}
