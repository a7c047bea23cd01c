// Figures as words. Pure.

// Stands for what was not measured.
export const NONE = "–";

const absent = (value) => value === null || value === undefined || Number.isNaN(value);

/** Three digits at most: 0.42, 7.3, 128, 12.4k, 3.1M. */
export function count(value) {
  if (absent(value)) return NONE;
  if (value >= 1e6) return `${short(value / 1e6)}M`;
  if (value >= 1e4) return `${short(value / 1e3)}k`;
  return short(value);
}

function short(value) {
  if (Number.isInteger(value) || Math.abs(value) >= 100) return String(Math.round(value));
  const digits = Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 1 : 2;
  return String(Number(value.toFixed(digits)));
}

/** Events a second, without the unit where the heading has it. */
export const rate = (value) => count(value);

/** Events a second, with the unit. */
export const perSecond = (value) => (absent(value) ? NONE : `${count(value)}/s`);

/** A time in the unit that fits: µs, ms, s or min. */
export function seconds(value) {
  if (absent(value)) return NONE;
  if (value === 0) return "0 ms";
  if (value < 1e-3) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${short(value * 1e3)} ms`;
  if (value < 120) return `${short(value)} s`;
  return `${short(value / 60)} min`;
}

/** A share of 1 as a percentage. */
export const percent = (value) => (absent(value) ? NONE : `${short(value * 100)} %`);

/** Time of day of unix seconds, to the second; with `exact` to the millisecond. */
export function clock(at, exact = false) {
  if (absent(at)) return NONE;
  const moment = new Date(at * 1000);
  const two = (value, digits = 2) => String(value).padStart(digits, "0");
  const time = [moment.getHours(), moment.getMinutes(), moment.getSeconds()].map((part) => two(part)).join(":");
  return exact ? `${time}.${two(moment.getMilliseconds(), 3)}` : time;
}

/** Day and time of day of unix seconds. */
export function moment(at) {
  if (absent(at)) return NONE;
  const day = new Date(at * 1000);
  const two = (value) => String(value).padStart(2, "0");
  return `${day.getFullYear()}-${two(day.getMonth() + 1)}-${two(day.getDate())} ${clock(at, true)}`;
}

/** A shape as V2 writes it: [1, 16]. */
export const shape = (sizes) => `[${sizes.join(", ")}]`;

/** A number of things: `1 value`, `3 values`. */
export const many = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** A value of a tensor: numbers to six digits, text in quotes, all else as JSON has it. */
export function value(item) {
  if (typeof item === "number") return Number.isInteger(item) ? String(item) : String(Number(item.toPrecision(6)));
  if (typeof item === "string") return `"${item}"`;
  return JSON.stringify(item);
}

/** JSON in lines, with a list of plain values on one line: tensors are long. */
export function json(document, indent = "") {
  if (document === null || typeof document !== "object") return JSON.stringify(document);
  const inner = `${indent}  `;
  const list = Array.isArray(document);
  const items = list
    ? document.map((item) => json(item, inner))
    : Object.entries(document).map(([key, item]) => `${JSON.stringify(key)}: ${json(item, inner)}`);
  const [open, close] = list ? "[]" : "{}";
  if (!items.length) return open + close;
  if (list && document.every((item) => item === null || typeof item !== "object")) return `[${items.join(", ")}]`;
  return `${open}\n${inner}${items.join(`,\n${inner}`)}\n${indent}${close}`;
}
