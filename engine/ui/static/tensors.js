// Tensors of a record: a table, and the distribution of the values of each.

import { caller, el, name, svg, unseen } from "./dom.js";
import { many, shape, value } from "./format.js";
import { plain } from "./text.js";

const WIDTH = 128;
const HEIGHT = 28;
// A text longer than this is cut in the list of first values.
const LONGEST = 400;

/** The table of a record's tensors. */
export function tensorTable(tensors, label) {
  const head = ["Tensor", "Type", "Shape", "First values", "Distribution"];
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el(
      "table",
      { class: "tensors" },
      el("thead", {}, el("tr", {}, head.map((word) => el("th", { scope: "col" }, word)))),
      el("tbody", {}, tensors.map(row)),
    ),
  );
}

function row(tensor) {
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name(tensor.name)),
    el("td", { class: "mono nowrap" }, caller(tensor.datatype)),
    el("td", { class: "mono nowrap" }, shape(tensor.shape)),
    el("td", { class: "values" }, firstValues(tensor)),
    el("td", {}, tensor.histogram ? histogram(tensor) : el("span", { class: "quiet" }, "–")),
  );
}

function firstValues(tensor) {
  const first = tensor.first.map((item) => caller(clipped(value(item)), { cls: "value" }));
  const left = tensor.count - tensor.first.length;
  const notes = [
    left > 0 ? `and ${many(left, "more value")}` : null,
    tensor.encoding ? `as ${tensor.encoding}` : null,
    tensor.cut && left <= 0 ? "cut" : null,
  ].filter(Boolean);
  if (!first.length && !notes.length) return el("span", { class: "quiet" }, "no values");
  return [...first.flatMap((item) => [item, " "]), notes.length ? el("span", { class: "quiet" }, notes.join(", ")) : null];
}

function clipped(text) {
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
}

function histogram(tensor) {
  const { low, high, counts, of } = tensor.histogram;
  const most = Math.max(...counts, 1);
  const wide = WIDTH / counts.length;
  const bars = counts.map((number, index) => {
    const tall = number ? Math.max((number / most) * HEIGHT, 1.5) : 0;
    return svg("rect", { x: index * wide + 0.5, y: HEIGHT - tall, width: wide - 1, height: tall, class: "bin" });
  });
  const range = `${value(low)} to ${value(high)}`;
  const sampled = of < tensor.count ? `, of the ${many(of, "value")} looked at` : "";
  const label = plain(`Distribution of ${tensor.name}: ${range}${sampled}`);
  return el(
    "figure",
    { class: "histogram" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": label }, bars),
    el("figcaption", {}, el("span", {}, value(low)), el("span", {}, value(high)), unseen(sampled)),
    sampled ? el("span", { class: "quiet" }, `sample of ${many(of, "value")}`) : null,
  );
}
