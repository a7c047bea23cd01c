// The latest requests of a pipeline, and the box that finds one by its id.

import * as api from "./api.js";
import { caller, dot, el, empty, name } from "./dom.js";
import { clock, moment, seconds } from "./format.js";
import { format } from "./route.js";

const LIMIT = 50;
// The list is read off the topics: often while requests come, seldom while none do.
const BUSY = 3000;
const QUIET = 15_000;

/** The box that finds a request by its id. */
export function lookup(kind, owner) {
  const input = el("input", { id: "lookup", name: "id", autocomplete: "off", spellcheck: "false", placeholder: "x-request-id" });
  return el(
    "form",
    {
      class: "lookup",
      role: "search",
      submit: (event) => {
        event.preventDefault();
        const id = input.value.trim();
        if (id) location.hash = format({ kind, name: owner, request: id });
      },
    },
    el("label", { for: "lookup" }, "Find by id"),
    input,
    el("button", { type: "submit" }, "Find"),
  );
}

/** The list, which keeps itself fresh until `leave`. */
export class RequestList {
  constructor(pipeline, busy) {
    this.pipeline = pipeline;
    this.busy = busy;
    this.requests = [];
    this.rows = new Map();
    this.failedOnly = el("input", { type: "checkbox", id: "failed-only", change: () => this.draw() });
    this.tbody = el("tbody");
    this.note = el("div");
    const heads = ["Request", "At", "Took", "Error"].map((word) => el("th", { scope: "col" }, word));
    this.table = el("table", { class: "requests" }, el("thead", {}, el("tr", {}, heads)), this.tbody);
    this.element = el(
      "div",
      {},
      el(
        "div",
        { class: "toolbar" },
        lookup("pipeline", pipeline),
        el("label", { class: "check" }, this.failedOnly, "failed only"),
        el("button", { type: "button", click: () => this.read() }, "Refresh"),
      ),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Latest requests" }, this.table),
      this.note,
    );
    this.readAt = 0;
    this.timer = setInterval(() => this.turn(), BUSY);
    this.read();
  }

  leave() {
    clearInterval(this.timer);
    this.left = true;
  }

  turn() {
    if (document.hidden || this.reading) return;
    if (this.busy() || Date.now() - this.readAt > QUIET) this.read();
  }

  async read() {
    this.reading = true;
    this.readAt = Date.now();
    try {
      this.requests = (await api.requests(this.pipeline, LIMIT)).requests;
      this.fault = null;
    } catch (error) {
      if (!(error instanceof api.Refused)) throw error;
      this.fault = error.message;
    } finally {
      this.reading = false;
    }
    if (!this.left) this.draw();
  }

  draw() {
    const shown = this.requests.filter((request) => !this.failedOnly.checked || request.state === "failed");
    // Rows are kept by id, so that the keyboard stays on a row.
    const rows = shown.map((request) => this.row(request));
    this.rows = new Map(shown.map((request, index) => [request.id, rows[index]]));
    const held = this.tbody.contains(document.activeElement) ? document.activeElement : null;
    this.tbody.replaceChildren(...rows);
    held?.focus({ preventScroll: true });
    this.table.hidden = !shown.length;
    this.note.replaceChildren(this.words(shown));
  }

  words(shown) {
    if (this.fault) return el("p", { class: "fault" }, caller(this.fault, { lines: true }));
    if (shown.length) return "";
    return empty(this.requests.length ? "None of the latest requests failed." : "No requests yet. The tab Send sends one.");
  }

  row(request) {
    const known = this.rows.get(request.id);
    const facts = JSON.stringify(request);
    if (known?.dataset.facts === facts) return known;
    const row = el(
      "tr",
      { "data-facts": facts },
      el(
        "th",
        { scope: "row" },
        dot(request.state),
        el("a", { href: format({ kind: "pipeline", name: this.pipeline, request: request.id }), class: "mono" }, name(request.id)),
      ),
      el("td", { class: "nowrap", title: moment(request.at) }, clock(request.at)),
      el("td", { class: "number" }, request.state === "running" ? "running" : seconds(request.seconds)),
      el("td", { class: "error-cell" }, request.error ? name(request.error, "fault-text") : ""),
    );
    return row;
  }
}
