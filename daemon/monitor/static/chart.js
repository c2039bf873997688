// The equity curve with its drawdown underneath, as SVG. Drawn again when the size changes.

import { svg, empty } from "./dom.js";
import { moment, number, percent, tick } from "./format.js";

const DAY = 86_400_000;
const STEPS = [3_600_000, 10_800_000, 21_600_000, 43_200_000, DAY, 2 * DAY, 7 * DAY, 14 * DAY,
  30 * DAY, 91 * DAY, 365 * DAY];
const MARGIN = { left: 64, right: 12, top: 10, bottom: 22 };
const GAP = 16;

export class EquityChart {
  /** `host` is filled with the chart, `readout` with the figures under the pointer. */
  constructor(host, readout) {
    this.host = host;
    this.readout = readout;
    this.points = [];
    this.deposit = null;
    this.quote = "";
    this.selected = null;
    new ResizeObserver(() => this.draw()).observe(host);
  }

  show(points, deposit, quote) {
    this.points = points;
    this.deposit = deposit;
    this.quote = quote;
    if (this.selected !== null && this.selected >= points.length) this.selected = null;
    this.draw();
  }

  draw() {
    const width = this.host.clientWidth;
    const height = this.host.clientHeight;
    if (width < 50) return;
    if (this.points.length < 2) {
      this.host.replaceChildren(empty("The curve begins with the first two decisions."));
      this.readout.textContent = "";
      return;
    }
    // Taking the old drawing away takes its focus and with it the selection.
    const focused = document.activeElement === this.host.firstElementChild;
    const selected = this.selected;
    this.scale = this.makeScale(width, height);
    this.cursor = svg("g", { class: "cursor" });
    const image = svg("svg", {
      width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img",
      "aria-label": this.summary(),
    }, ...this.grid(width), ...this.shapes(), this.cursor);
    image.addEventListener("pointermove", (event) => this.select(this.nearest(event)));
    image.addEventListener("pointerleave", () => this.select(null));
    image.addEventListener("keydown", (event) => this.key(event));
    image.addEventListener("blur", () => this.select(null));
    this.host.replaceChildren(image);
    if (focused) image.focus({ preventScroll: true });
    this.select(selected);
  }

  makeScale(width, height) {
    const equities = this.points.map((point) => point.equity).concat(this.deposit ?? []);
    const low = Math.min(...equities);
    const high = Math.max(...equities);
    const padding = (high - low) * 0.06 || Math.abs(high) * 0.01 || 1;
    const deepest = Math.max(0.01, ...this.points.map((point) => point.drawdown));
    const inner = height - MARGIN.top - MARGIN.bottom - GAP;
    const bottom = MARGIN.top + inner * 0.76;
    const under = { top: bottom + GAP, bottom: height - MARGIN.bottom };
    const first = this.points[0].time;
    const span = this.points.at(-1).time - first || 1;
    const right = width - MARGIN.right;
    return {
      low: low - padding, high: high + padding, deepest, bottom, under, right,
      x: (time) => MARGIN.left + ((time - first) / span) * (right - MARGIN.left),
      y: (equity) => bottom - ((equity - low + padding) / (high - low + 2 * padding)) * (bottom - MARGIN.top),
      d: (drawdown) => under.top + (drawdown / deepest) * (under.bottom - under.top),
    };
  }

  grid(width) {
    const { low, high, deepest, x, y, d, bottom, under, right } = this.scale;
    const nodes = [];
    const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });
    const label = (text, at, height, anchor) =>
      svg("text", { x: at, y: height, "text-anchor": anchor, class: "label" }, text);
    const step = niceStep((high - low) / 5.5);
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
      nodes.push(line(MARGIN.left, y(value), right, y(value), "grid-line"));
      nodes.push(label(number(value, step < 1 ? 2 : 0), MARGIN.left - 8, y(value) + 4, "end"));
    }
    nodes.push(line(MARGIN.left, under.top, right, under.top, "grid-line"));
    nodes.push(label("0 %", MARGIN.left - 8, under.top + 4, "end"));
    nodes.push(label(percent(-deepest, deepest < 0.1 ? 1 : 0), MARGIN.left - 8, d(deepest) + 3, "end"));
    for (const [time, size] of timeTicks(this.points[0].time, this.points.at(-1).time, width)) {
      nodes.push(line(x(time), MARGIN.top, x(time), bottom, "grid-line faint"));
      nodes.push(line(x(time), under.top, x(time), under.bottom, "grid-line faint"));
      const edge = x(time) > right - 30 ? "end" : "middle";
      nodes.push(label(tick(time, size), x(time), under.bottom + 16, edge));
    }
    return nodes;
  }

  shapes() {
    const { x, y, d, bottom, under, right } = this.scale;
    const path = (value) => this.points
      .map((point, index) => `${index ? "L" : "M"}${x(point.time).toFixed(1)},${value(point).toFixed(1)}`)
      .join("");
    const curve = path((point) => y(point.equity));
    const below = path((point) => d(point.drawdown));
    const close = (level) => `L${right.toFixed(1)},${level}L${MARGIN.left},${level}Z`;
    const nodes = [
      svg("path", { d: curve + close(bottom), class: "area" }),
      svg("path", { d: below + close(under.top), class: "drawdown-area" }),
      svg("path", { d: below, class: "drawdown-line" }),
    ];
    if (this.deposit !== null) {
      const level = y(this.deposit);
      nodes.push(svg("line", { x1: MARGIN.left, y1: level, x2: right, y2: level, class: "deposit" }));
      nodes.push(svg("text", { x: MARGIN.left + 6, y: level - 5, class: "label quiet" }, "deposit"));
    }
    nodes.push(svg("path", { d: curve, class: "curve" }));
    nodes.push(svg("text", { x: MARGIN.left + 6, y: under.bottom - 5, class: "label quiet" }, "drawdown"));
    return nodes;
  }

  nearest(event) {
    const box = this.host.getBoundingClientRect();
    const { x } = this.scale;
    const wanted = event.clientX - box.left;
    let low = 0;
    let high = this.points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (x(this.points[middle].time) < wanted) low = middle;
      else high = middle;
    }
    const nearLow = wanted - x(this.points[low].time) < x(this.points[high].time) - wanted;
    return nearLow ? low : high;
  }

  key(event) {
    const last = this.points.length - 1;
    const at = this.selected ?? last;
    const page = Math.max(1, Math.round(last / 20));
    const target = {
      ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - page, PageDown: at + page, Home: 0, End: last,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.readout.setAttribute("aria-live", "polite");
    this.select(Math.min(last, Math.max(0, target)));
  }

  select(index) {
    this.selected = index;
    const point = this.points[index ?? this.points.length - 1];
    if (!point) return;
    this.readout.textContent =
      `${moment(point.time)} · ${number(point.equity)} ${this.quote} · drawdown ${percent(point.drawdown)}`;
    const { x, y, d, under } = this.scale;
    const at = x(point.time);
    this.cursor.replaceChildren(
      svg("circle", { cx: at, cy: y(point.equity), r: 3.5, class: "dot" }),
      ...(index === null ? [] : [
        svg("line", { x1: at, y1: MARGIN.top, x2: at, y2: under.bottom, class: "cross" }),
        svg("circle", { cx: at, cy: d(point.drawdown), r: 3, class: "dot below" }),
      ]));
  }

  summary() {
    const first = this.points[0];
    const last = this.points.at(-1);
    const deepest = Math.max(...this.points.map((point) => point.drawdown));
    return `Equity from ${number(first.equity)} on ${moment(first.time)} to ${number(last.equity)} `
      + `${this.quote} on ${moment(last.time)}; deepest drawdown ${percent(deepest)}. `
      + "Arrow keys move along the curve.";
  }
}

function niceStep(raw) {
  const size = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((step) => step >= raw);
}

/** Times on whole steps of UTC (months on their first day), with the step. */
function timeTicks(first, last, width) {
  const most = Math.max(2, Math.floor((width - MARGIN.left) / 90));
  const step = STEPS.find((size) => (last - first) / size <= most) ?? STEPS.at(-1);
  const ticks = [];
  if (step < 28 * DAY) {
    for (let time = Math.ceil(first / step) * step; time <= last; time += step) ticks.push([time, step]);
    return ticks;
  }
  const months = Math.round(step / (30.4 * DAY));
  const start = new Date(first);
  for (let month = 0; ; month += 1) {
    const time = Date.UTC(start.getUTCFullYear(), start.getUTCMonth() + month, 1);
    if (time > last) return ticks;
    if (time >= first && new Date(time).getUTCMonth() % months === 0) ticks.push([time, step]);
  }
}
