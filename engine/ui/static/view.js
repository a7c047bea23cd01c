// What is shown of the chosen pipeline, model or experiment.

import { caller, dot, el, empty, mark, name, put, svg, tone } from "./dom.js";
import { path } from "./figures.js";
import { count, perSecond, seconds } from "./format.js";
import { Picture } from "./graph.js";
import { RequestPanel } from "./request.js";
import { lookup, RequestList } from "./requests.js";
import { format } from "./route.js";
import { SendForm } from "./send.js";
import { ShareTable } from "./shares.js";
import { StepTable } from "./steps.js";
import { figuresOf, state } from "./store.js";
import { Tabs } from "./tabs.js";

const FIGURES = [
  { key: "rate", title: "Requests", show: perSecond },
  { key: "errors", title: "Errors", show: perSecond },
  { key: "p50", title: "p50", show: seconds },
  { key: "p99", title: "p99", show: seconds },
  { key: "lag", title: "Lag", show: count, pipeline: true },
  { key: "in_flight", title: "In flight", show: count, pipeline: true },
  { key: "waiting", title: "In joins", show: count, pipeline: true },
];
const TITLES = { requests: "Requests", send: "Send", steps: "Steps" };
const TABS = { pipeline: ["requests", "send", "steps"], model: ["send", "requests"], experiment: ["send"] };
const LISTS = { pipeline: "pipelines", model: "models", experiment: "experiments" };

// As wide as what the stylesheet calls narrow.
export const narrow = matchMedia("(max-width: 720px)");
const GRAPH_HEIGHT = 420;
// Drawn smaller, names cannot be read: a large graph is scrolled instead.
const READABLE = 0.66;

/** One resource on the page. `go(route)` changes the tab or request, `figures()` shows what is measured. */
export class ResourceView {
  constructor(kind, resource, say) {
    Object.assign(this, { kind, resource, say });
    this.measured = new Map();
    this.tabs = new Tabs(TABS[kind].map((id) => ({ id, title: TITLES[id], href: format({ kind, name: resource.name, tab: id }) })), "Views");
    this.element = el("article", { "aria-label": `${kind} ${resource.name}` }, this.head(), this.strip(), this.middle(), this.tabs.element);
    this.leaveTab = () => {};
  }

  head() {
    const { version, state: standing, reason, explains } = this.resource;
    const bad = reason && tone(standing) !== "good";
    return el(
      "header",
      { class: "view-head" },
      el("a", { class: "up", href: format({ kind: this.kind }) }, `← All ${LISTS[this.kind]}`),
      el("h2", {}, name(this.resource.name)),
      el(
        "p",
        { class: "facts" },
        el("span", { class: `state ${tone(standing)}` }, dot(standing), caller(standing)),
        version !== undefined && version !== null ? el("span", {}, `version ${version}`) : null,
        this.resource.cyclic ? el("span", {}, "has a cycle") : null,
        explains ? el("span", {}, "explains ", el("a", { href: format(explains) }, name(explains.name))) : null,
      ),
      bad ? el("p", { class: "fault" }, caller(reason, { lines: true })) : null,
    );
  }

  strip() {
    if (this.kind === "experiment") return null;
    const shown = FIGURES.filter((figure) => this.kind === "pipeline" || !figure.pipeline);
    const items = shown.map(({ key, title, show }) => {
      const text = el("dd", {}, "–");
      const item = el("div", { class: `figure ${key}` }, el("dt", {}, title), text);
      this.measured.set(key, { text, item, show });
      return item;
    });
    this.spark = svg("polyline", { class: "spark" });
    items[0].append(svg("svg", { viewBox: "0 0 126 24", preserveAspectRatio: "none", "aria-hidden": "true", class: "sparkline" }, this.spark));
    return el("dl", { class: "strip" }, items);
  }

  middle() {
    if (this.kind === "pipeline") return this.resource.nodes.length ? this.graph() : empty("This release cannot draw this pipeline.");
    if (this.kind === "model") return null;
    this.shares = new ShareTable(this.resource);
    return el("section", { class: "panel", "aria-label": "Shares" }, this.shares.element);
  }

  graph() {
    this.steps = new StepTable(this.resource);
    this.stage = el("div", { class: "stage", tabindex: 0, role: "region", "aria-label": "Picture of the graph" });
    this.lay();
    const tool = (label, text, act) => el("button", { type: "button", "aria-label": label, title: label, click: act }, text);
    const tools = el(
      "div",
      { class: "tools" },
      tool("Smaller", "−", () => this.picture.smaller()),
      tool("Larger", "+", () => this.picture.larger()),
      tool("Whole graph", "⤢", () => this.picture.fit(...this.room())),
    );
    return el("section", { class: "panel graph", "aria-label": "Graph" }, el("div", { class: "graph-bar" }, legend(this.resource), tools), this.stage);
  }

  /** Draw the graph the way that fits the screen. */
  lay() {
    if (!this.stage) return;
    this.picture = new Picture(this.resource, { down: narrow.matches, chosen: (node) => this.chosen(node) });
    this.picture.light(this.way ?? null);
    this.stage.replaceChildren(this.picture.element);
  }

  /** Called when the view is on the page, and has a width. */
  fit() {
    this.picture?.fit(...this.room(), READABLE);
  }

  room() {
    return [this.stage.clientWidth - 14, narrow.matches ? Infinity : GRAPH_HEIGHT];
  }

  /** Show a tab, or a request in place of the list of them. */
  go({ tab, request }) {
    const held = this.tabs.panel.contains(document.activeElement);
    this.leaveTab();
    this.leaveTab = () => {};
    this.light(null);
    this.picture?.choose(null);
    const shown = request ? "requests" : TABS[this.kind].includes(tab) ? tab : TABS[this.kind][0];
    if (request) this.tabs.show(TABS[this.kind].includes("requests") ? "requests" : "send", this.request(request));
    else this.tabs.show(shown, this.tab(shown));
    this.figures();
    if (request && held) this.panel.element.focus({ preventScroll: true });
    if (shown === "steps" && this.picked) this.pick(this.picked);
    this.picked = null;
  }

  tab(id) {
    const { name: owner } = this.resource;
    if (id === "steps") return this.steps?.element ?? empty("No steps.");
    if (id === "send") return new SendForm(this.kind, owner, (sent) => this.sent(sent)).element;
    if (this.kind === "model") return el("div", {}, lookup("model", owner), empty("Requests sent to the model itself are found by their ids."));
    const list = new RequestList(owner, () => (figuresOf("pipeline", owner)?.rate ?? 0) > 0);
    this.leaveTab = () => list.leave();
    return list.element;
  }

  sent(id) {
    this.awaited = id;
    location.hash = format({ kind: this.kind, name: this.resource.name, request: id });
  }

  request(id) {
    const { name: owner } = this.resource;
    const [tab] = TABS[this.kind];
    const close = { href: format({ kind: this.kind, name: owner, tab }), text: tab === "send" ? "← Send another" : "← All requests" };
    const seen = (records) => this.picture && this.light(path(this.resource, records));
    this.panel = new RequestPanel({ kind: this.kind, owner, seen, say: this.say, close });
    this.leaveTab = () => {
      this.panel.leave();
      this.panel = null;
    };
    if (this.awaited === id) this.panel.follow(id);
    else this.panel.show(id);
    this.awaited = null;
    return this.panel.element;
  }

  light(way) {
    this.way = way;
    this.picture?.light(way);
    const [failed] = way?.failed ?? [];
    if (failed) this.stage.scrollTo(this.picture.before(failed, this.stage.clientWidth, this.stage.clientHeight));
  }

  chosen(node) {
    if (node.kind === "external" && node.pipeline) {
      location.hash = format({ kind: "pipeline", name: node.pipeline });
      return;
    }
    this.picture.choose(node.id);
    if (this.panel?.reveal(node.id)) return;
    if (this.steps.element.isConnected) this.pick(node.id);
    else {
      this.picked = node.id;
      location.hash = format({ kind: this.kind, name: this.resource.name, tab: "steps" });
    }
  }

  pick(id) {
    this.picture.choose(id);
    this.steps.reveal(id);
  }

  /** Show what is measured now. */
  figures() {
    if (this.shares) {
      this.shares.show(state.figures?.experiments?.[this.resource.name]);
      return;
    }
    const figures = figuresOf(this.kind, this.resource.name);
    for (const [key, { text, item, show }] of this.measured) {
      put(text, show(figures?.[key]));
      mark(item, "raised", (key === "errors" || key === "lag") && figures?.[key] > 0);
    }
    const history = state.history.get(`${this.kind} ${this.resource.name}`) ?? [];
    const most = Math.max(...history, 1);
    this.spark.setAttribute("points", history.map((rate, index) => `${(index + 64 - history.length) * 2},${23 - (rate / most) * 21}`).join(" "));
    this.picture?.show(figures);
    if (this.steps?.element.isConnected) this.steps.show(figures);
  }

  leave() {
    this.leaveTab();
  }
}

/** What the kinds of lines mean, of those that the graph has. */
function legend({ edges }) {
  const line = (cls) =>
    svg("svg", { width: 30, height: 8, "aria-hidden": "true" }, svg("g", { class: `edge ${cls}` }, svg("path", { d: "M0,4 H30", class: "line" })));
  const kinds = [
    ["data", "data", true],
    ["trigger", "trigger", edges.some((edge) => edge.kind === "trigger")],
    ["data back", "next round", edges.some((edge) => edge.back)],
  ];
  const there = kinds.filter(([, , has]) => has);
  return el("div", { class: "legend" }, there.length === 1 ? [] : there.map(([cls, word]) => el("span", {}, line(cls), word)));
}
