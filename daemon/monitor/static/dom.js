// Building nodes. Data only ever becomes text nodes or attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element: el("td", { class: "number" }, "1.00"). */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Replace what is in the element #id, but only if `data` has changed: focus and selection stay. */
export function render(id, data, build) {
  const key = JSON.stringify(data);
  if (drawn.get(id) === key) return;
  drawn.set(id, key);
  byId(id).replaceChildren(...[build(data)].flat().filter(Boolean));
}

/** Make the next render of #id draw whatever its data. */
export function forget(id) {
  drawn.delete(id);
}

export function byId(id) {
  return document.getElementById(id);
}

/** A table. Columns: { title, cell(row), number?, wide? }; a cell is text or a node. */
export function table(caption, columns, rows, rowClass = () => "") {
  const kind = (column) => (column.number ? "number" : column.wide ? "wide" : "");
  return el("table", {},
    el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {},
      ...columns.map((column) => el("th", { scope: "col", class: kind(column) }, column.title)))),
    el("tbody", {}, ...rows.map((row) => el("tr", { class: rowClass(row) },
      ...columns.map((column) =>
        el("td", { class: kind(column), "data-title": column.title }, column.cell(row)))))));
}

export function chip(text, tone = "", title = null) {
  return el("span", { class: `chip ${tone}`, title }, text);
}

export function empty(text) {
  return el("p", { class: "empty" }, text);
}

/** A symbol with its base in bold: BTC/USDT:USDT. */
export function symbolName(symbol) {
  const slash = symbol.indexOf("/");
  if (slash < 0) return el("span", { class: "symbol" }, symbol);
  return el("span", { class: "symbol" },
    el("b", {}, symbol.slice(0, slash)), el("span", { class: "rest" }, symbol.slice(slash)));
}

const drawn = new Map();

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "onclick") node.addEventListener("click", value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
