// Figures and times as text. Pure: the same input gives the same text in every browser and place.

const MINUS = "−";
const NONE = "–";
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** 1234.5 → "1,234.50"; null → "–". */
export function number(value, decimals = 2) {
  if (value === null || value === undefined) return NONE;
  const text = Math.abs(value).toLocaleString("en-US", {
    minimumFractionDigits: decimals, maximumFractionDigits: decimals,
  });
  // A value that rounds to nothing has no sign.
  return value < 0 && /[1-9]/.test(text) ? MINUS + text : text;
}

/** As number, with "+" where the value is positive. */
export function signed(value, decimals = 2) {
  const text = number(value, decimals);
  return value > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}

/** 0.0123 → "1.23 %". */
export function percent(value, decimals = 2) {
  return value === null || value === undefined ? NONE : `${number(value * 100, decimals)} %`;
}

export function signedPercent(value, decimals = 2) {
  return value === null || value === undefined ? NONE : `${signed(value * 100, decimals)} %`;
}

/** A price with as many decimals as its size makes sensible. */
export function price(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  return number(value, size >= 100 ? 2 : size >= 1 ? 4 : 6);
}

/** A quantity or a measured value: up to six significant decimals, no trailing zeros. */
export function compact(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  const decimals = size >= 1000 ? 1 : size >= 10 ? 3 : size >= 0.1 ? 4 : 6;
  const text = size.toLocaleString("en-US", { maximumFractionDigits: decimals });
  return value < 0 && /[1-9]/.test(text) ? MINUS + text : text;
}

export function count(value) {
  return number(value, 0);
}

/** "2024-05-03 14:00", UTC. */
export function moment(ms) {
  return ms === null || ms === undefined ? NONE : new Date(ms).toISOString().slice(0, 16).replace("T", " ");
}

/** "2024-05-03 14:00:07", UTC. */
export function momentSeconds(ms) {
  return new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}

/** A tick of a time axis, as short as its step allows. */
export function tick(ms, stepMs) {
  const time = new Date(ms);
  const day = `${time.getUTCDate()} ${MONTHS[time.getUTCMonth()]}`;
  if (stepMs >= 28 * 86_400_000) return `${MONTHS[time.getUTCMonth()]} ${time.getUTCFullYear()}`;
  if (stepMs >= 86_400_000 || ms % 86_400_000 === 0) return day;
  return time.toISOString().slice(11, 16);
}

/** 93 → "93 s", 5400 → "90 min", 200000 → "2.3 d". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const size = Math.max(0, seconds);
  if (size < 120) return `${Math.round(size)} s`;
  if (size < 7_200) return `${Math.round(size / 60)} min`;
  if (size < 172_800) return `${number(size / 3_600, size < 36_000 ? 1 : 0)} h`;
  return `${number(size / 86_400, size < 864_000 ? 1 : 0)} d`;
}

/** "within_no_trade_band" → "Within no trade band", "net_sharpe_x2" → "Net Sharpe ×2". */
export function words(name) {
  const text = String(name).replaceAll("_", " ")
    .replace(/\bsharpe\b/g, "Sharpe").replace(/\b(hhi|pbo|api)\b/g, (word) => word.toUpperCase())
    .replace(/\bx(\d)/g, "×$1");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A text from the daemon as a sentence of its own. */
export function clause(text) {
  if (!text) return "";
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

/** A long model id, shortened in the middle. */
export function shortId(id) {
  return id.length > 22 ? `${id.slice(0, 12)}…${id.slice(-6)}` : id;
}

/** The end of a model id, for a narrow column. */
export function idEnd(id) {
  return id.length > 10 ? `…${id.slice(-8)}` : id;
}

/** The sign of a figure as a class: colour never carries it alone, the text has the sign too. */
export function tone(value) {
  return value > 0 ? "good" : value < 0 ? "bad" : "";
}
