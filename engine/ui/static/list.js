// The list at the side: pipelines, models or experiments with their figures.

import { dot, el, empty, mark, name, put, unseen } from "./dom.js";
import { arranged } from "./figures.js";
import { many, NONE, rate, seconds } from "./format.js";
import { format } from "./route.js";
import { state } from "./store.js";

const KINDS = { pipeline: "Pipelines", model: "Models", experiment: "Experiments" };
const COLUMNS = [
  { key: "rate", title: "req/s", words: "requests a second", show: rate },
  { key: "p50", title: "p50", words: "median time", show: seconds },
  { key: "errors", title: "err/s", words: "errors a second", show: rate },
  { key: "lag", title: "lag", words: "requests waiting to be read", show: rate },
];

/** The list; `show(route)` says which kind it has and which of it is chosen. */
export class ResourceList {
  constructor(element) {
    this.kind = null;
    this.rows = new Map();
    this.kinds = new Map(Object.entries(KINDS).map(([kind, title]) => [kind, kindLink(kind, title)]));
    this.filter = el("input", { type: "search", id: "filter", autocomplete: "off", spellcheck: "false", input: () => this.arrange() });
    this.order = orderBox(() => this.arrange());
    this.heads = el("div", { "aria-hidden": "true" });
    this.list = el("ul", { class: "rows" });
    this.note = el("div", { role: "status" });
    element.append(
      el("div", { class: "kinds" }, [...this.kinds.values()].map((link) => link.element)),
      el(
        "div",
        { class: "filters" },
        el("label", { class: "unseen", for: "filter" }, "Filter by name"),
        this.filter,
        el("label", { class: "unseen", for: "order" }, "Order"),
        this.order,
      ),
      this.heads,
      this.list,
      this.note,
    );
  }

  show(route) {
    if (route.kind !== this.kind) this.filter.value = "";
    // Rows stay unless what is loaded has changed, so that the keyboard stays on the one that it has just opened.
    if (route.kind !== this.kind || this.built !== state.graphs) this.build(route.kind);
    for (const [each, { link }] of this.rows) link.setAttribute("aria-current", each === route.name ? "page" : "false");
    if (route.name !== this.chosen) this.rows.get(route.name)?.element.scrollIntoView({ block: "nearest" });
    this.chosen = route.name;
  }

  /** Make the rows anew. */
  build(kind) {
    this.kind = kind;
    this.built = state.graphs;
    this.order.disabled = kind === "experiment";
    this.filter.placeholder = `Filter ${KINDS[kind].toLowerCase()}`;
    const all = state.graphs?.[`${this.kind}s`] ?? [];
    for (const [each, link] of this.kinds) {
      link.element.setAttribute("aria-current", String(each === kind));
      put(link.count, String(state.graphs?.[`${each}s`]?.length ?? ""));
    }
    this.columns = COLUMNS.filter((column) => this.kind === "pipeline" || (this.kind === "model" && column.key !== "lag"));
    this.heads.replaceChildren(el("span", {}, "name"), ...this.columns.map((column) => el("span", { class: "number" }, column.title)));
    this.heads.className = `row heads ${this.kind}`;
    this.heads.hidden = this.kind === "experiment";
    this.rows = new Map(all.map((each) => [each.name, this.row(each)]));
    this.arrange();
    this.figures();
  }

  row(each) {
    const cells = this.columns.map((column) => ({ column, element: el("span") }));
    const href = format({ kind: this.kind, name: each.name });
    const told = this.kind === "experiment" ? el("span", { class: "quiet" }, many(each.candidates.length, "candidate")) : null;
    const link = el(
      "a",
      { class: `row ${this.kind}`, href },
      el("span", { class: "row-name" }, dot(each.state), name(each.name)),
      told,
      cells.map(({ column, element }) => el("span", { class: `number ${column.key}` }, unseen(`, ${column.words} `), element)),
    );
    return { element: el("li", {}, link), cells, link };
  }

  arrange() {
    const figures = state.figures?.[`${this.kind}s`] ?? {};
    const entries = [...this.rows.keys()].map((each) => [each, figures[each]]);
    const found = arranged(entries, this.filter.value, this.order.disabled ? "name" : this.order.value);
    const wanted = found.map(([each]) => this.rows.get(each).element);
    const same = wanted.length === this.list.children.length && wanted.every((item, index) => this.list.children[index] === item);
    if (!same) this.list.replaceChildren(...wanted);
    this.note.replaceChildren(wanted.length || !state.graphs ? "" : empty(this.words()));
  }

  words() {
    if (this.rows.size) return `No name has “${this.filter.value}” in it.`;
    return `No ${KINDS[this.kind].toLowerCase()} are loaded.`;
  }

  /** Show what is measured now. */
  figures() {
    const figures = state.figures?.[`${this.kind}s`] ?? {};
    for (const [each, { cells, link }] of this.rows) {
      const own = figures[each];
      for (const { column, element } of cells) put(element, own ? column.show(own[column.key]) : NONE);
      mark(link, "erring", own?.errors > 0);
      mark(link, "lagging", own?.lag > 0);
      mark(link, "idle", !(own?.rate > 0));
    }
    // Rows that change places under a pointer or the keyboard cannot be hit.
    if (this.order.value !== "name" && !this.list.matches(":hover, :focus-within")) this.arrange();
  }
}

function kindLink(kind, title) {
  const count = el("span", { class: "count" });
  return { element: el("a", { href: format({ kind }) }, title, " ", count), count };
}

function orderBox(changed) {
  const orders = { name: "by name", rate: "busiest", errors: "failing", p50: "slowest", lag: "lagging" };
  const options = Object.entries(orders).map(([value, title]) => el("option", { value }, title));
  return el("select", { id: "order", change: changed }, options);
}
