// A graph as a table: for those who do not see the picture, and for looking closely.

import { caller, el, mark, name, put } from "./dom.js";
import { NONE, perSecond, seconds } from "./format.js";
import { edgeLabel, manners } from "./layout.js";

const COLUMNS = [
  { key: "rate", title: "Rate", show: perSecond },
  { key: "errors", title: "Errors", show: perSecond },
  { key: "p50", title: "p50", show: seconds },
  { key: "p99", title: "p99", show: seconds },
];

/** The steps and the answer of a graph, what each takes and how it does. */
export class StepTable {
  constructor(graph) {
    const labels = new Map(graph.nodes.map((node) => [node.id, node.label]));
    this.rows = new Map();
    const rows = graph.nodes.filter((node) => node.kind !== "external").map((node) => this.row(node, graph, labels));
    const heads = ["Step", "Takes", "Triggered by", "Manner", ...COLUMNS.map((column) => column.title)];
    this.element = el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Steps" },
      el(
        "table",
        { class: "steps" },
        el("caption", { class: "unseen" }, "The graph as a table: each step, what it takes, and its figures"),
        el("thead", {}, el("tr", {}, heads.map((word, index) => el("th", { scope: "col", class: index > 3 ? "number" : null }, word)))),
        el("tbody", {}, rows),
      ),
    );
  }

  row(node, graph, labels) {
    const into = graph.edges.filter((edge) => edge.to === node.id);
    const sources = (kind) => into.filter((edge) => (edge.kind === "trigger") === (kind === "trigger")).map((edge) => source(edge, labels));
    const cells = COLUMNS.map((column) => el("td", { class: "number nowrap" }, NONE));
    const row = el(
      "tr",
      { tabindex: -1 },
      el("th", { scope: "row" }, name(node.label), node.kind === "step" ? null : el("span", { class: "quiet" }, ` (${node.kind})`)),
      el("td", {}, listed(sources("data"))),
      el("td", {}, listed(sources("trigger"))),
      el("td", { class: "manner" }, caller(manners(node).join(", ") || NONE)),
      cells,
    );
    this.rows.set(node.id, { row, cells, step: node.kind === "step" });
    return row;
  }

  show(figures) {
    for (const [id, { row, cells, step }] of this.rows) {
      const own = step ? figures?.steps?.[id] : null;
      COLUMNS.forEach((column, index) => put(cells[index], own ? column.show(own[column.key]) : NONE));
      mark(row, "erring", own?.errors > 0);
    }
  }

  /** Bring a step's row into view and to the keyboard. */
  reveal(id) {
    for (const [each, { row }] of this.rows) mark(row, "chosen", each === id);
    const found = this.rows.get(id)?.row;
    found?.scrollIntoView({ block: "nearest" });
    found?.focus({ preventScroll: true });
  }
}

function source(edge, labels) {
  const tensors = edgeLabel(edge);
  return [caller(labels.get(edge.from) ?? edge.from), tensors ? el("span", { class: "quiet" }, ": ", caller(tensors)) : null, edge.back ? " (next round)" : null];
}

function listed(items) {
  return items.length ? el("ul", { class: "plain" }, items.map((item) => el("li", {}, item))) : NONE;
}
