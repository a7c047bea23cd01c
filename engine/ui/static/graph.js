// A pipeline as a picture: SVG of our own where dagre puts things.

import { callerSpans, mark, put, svg } from "./dom.js";
import { edgeRate, nodeRate } from "./figures.js";
import { perSecond, seconds } from "./format.js";
import { edgeLabel, edgeWords, LONGEST_NAME, place, underName } from "./layout.js";
import { plain, shortened } from "./text.js";

const SMALLEST = 0.1;
const LARGEST = 2.5;
const STEP = 1.25;

/** The picture of one graph; `chosen(node)` hears of a node that was clicked or entered. */
export class Picture {
  constructor(graph, { down, chosen }) {
    this.graph = graph;
    this.byId = new Map(graph.nodes.map((node) => [node.id, node]));
    this.placed = place(graph, down);
    this.zoom = 1;
    this.edges = graph.edges.map((edge, index) => drawEdge(edge, this.placed.edges[index], this.placed.down));
    this.nodes = new Map(graph.nodes.map((node) => [node.id, drawNode(node, this.placed.nodes.get(node.id), chosen)]));
    this.element = svg(
      "svg",
      { class: "picture", role: "group", "aria-label": `Graph of ${plain(graph.name)}; the tab Steps has the same as a table` },
      arrowhead(),
      svg("g", { "aria-hidden": "true" }, this.edges.map((edge) => edge.element)),
      svg("g", {}, [...this.nodes.values()].map((node) => node.element)),
    );
    this.element.setAttribute("viewBox", `0 0 ${this.placed.width} ${this.placed.height}`);
    this.resize(1);
  }

  /** As large as fits into a width and a height, but not larger than life nor smaller than `least`. */
  fit(width, height, least = SMALLEST) {
    this.resize(Math.max(Math.min(width / this.placed.width, height / this.placed.height, 1), least));
  }

  larger() {
    this.resize(this.zoom * STEP);
  }

  smaller() {
    this.resize(this.zoom / STEP);
  }

  /** Where to scroll a window of this size to, so that a node is in the middle of it. */
  before(id, width, height) {
    const { x, y } = this.placed.nodes.get(id);
    return { left: x * this.zoom - width / 2, top: y * this.zoom - height / 2 };
  }

  resize(zoom) {
    this.zoom = Math.min(Math.max(zoom, SMALLEST), LARGEST);
    this.element.setAttribute("width", Math.round(this.placed.width * this.zoom));
    this.element.setAttribute("height", Math.round(this.placed.height * this.zoom));
  }

  /** Show what is measured now. */
  show(figures) {
    for (const [id, drawn] of this.nodes) showNode(drawn, this.byId.get(id), figures);
    this.graph.edges.forEach((edge, index) => {
      const rate = edgeRate(edge, this.byId, figures);
      put(this.edges[index].figure, rate === null ? "" : perSecond(rate));
      mark(this.edges[index].element, "flowing", rate > 0);
    });
  }

  /** Light the way of a request; null puts the light out. */
  light(path) {
    mark(this.element, "traced", path !== null);
    for (const [id, drawn] of this.nodes) {
      mark(drawn.element, "lit", path?.nodes.has(id) ?? false);
      mark(drawn.element, "failed", path?.failed.has(id) ?? false);
    }
    this.edges.forEach((edge, index) => mark(edge.element, "lit", path?.edges.has(index) ?? false));
  }

  /** Ring the node that the reader looks at; null rings none. */
  choose(id) {
    for (const [each, drawn] of this.nodes) mark(drawn.element, "chosen", each === id);
  }
}

function arrowhead() {
  const attributes = { id: "arrow", viewBox: "0 0 8 8", refX: 7.5, refY: 4, markerWidth: 9, markerHeight: 9, orient: "auto", markerUnits: "userSpaceOnUse" };
  return svg("defs", {}, svg("marker", attributes, svg("path", { d: "M0,0.6 L8,4 L0,7.4 z", class: "arrow" })));
}

function drawEdge(edge, { line, label }, down) {
  const words = edgeWords(edge);
  const figure = svg("text", { x: label.x, y: label.y + (down && !words ? 4 : 13), class: "edge-figure" });
  const text = svg("text", { x: label.x, y: label.y - 5, class: "edge-label" }, callerSpans(words));
  const title = svg("title", {}, plain([`${edge.from} → ${edge.to}`, edgeLabel(edge)].filter(Boolean).join(": ")));
  // From top to bottom the line would run through the words.
  const { x, y, width, height } = label;
  const ground = down ? svg("rect", { x: x - width / 2, y: y - height / 2 - 1, width, height: height + 2, class: "label-ground" }) : null;
  const cls = ["edge", edge.kind === "trigger" ? "trigger" : "data", edge.back ? "back" : ""].join(" ").trim();
  const drawn = svg("path", { d: line, class: "line", "marker-end": "url(#arrow)" });
  return { element: svg("g", { class: cls }, title, drawn, ground, text, figure), figure };
}

function drawNode(node, place, chosen) {
  const left = place.x - place.width / 2;
  const top = place.y - place.height / 2;
  const step = node.kind === "step";
  const figure = svg("text", { x: 14, y: place.height - 10, class: "node-figure" });
  const errors = svg("text", { x: place.width - 10, y: 4, class: "node-errors" });
  const element = svg(
    "g",
    {
      class: `node ${node.kind}`,
      transform: `translate(${left},${top})`,
      role: "button",
      tabindex: 0,
      "aria-label": plain(`${node.kind} ${node.label}`),
      click: () => chosen(node),
      keydown: (event) => pressed(event, () => chosen(node)),
    },
    svg("title", {}, plain(node.label)),
    svg("rect", { width: place.width, height: place.height, rx: step ? 8 : place.height / 2, class: "box" }),
    step ? svg("rect", { x: 0, y: 14, width: 3, height: place.height - 28, rx: 1.5, class: "bar" }) : null,
    svg("text", { x: step ? 14 : place.width / 2, y: 22, class: "node-name" }, callerSpans(shortened(node.label, LONGEST_NAME))),
    svg("text", { x: step ? 14 : place.width / 2, y: 38, class: "node-manner" }, underName(node)),
    step ? [figure, errors] : null,
  );
  return { element, figure, errors };
}

function pressed(event, act) {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  act();
}

function showNode(drawn, node, figures) {
  const own = node.kind === "step" ? figures?.steps?.[node.id] : null;
  const rate = nodeRate(node, figures);
  put(drawn.figure, own ? `${perSecond(rate)} · ${seconds(own.p50)}` : "");
  put(drawn.errors, own?.errors > 0 ? `✕ ${perSecond(own.errors)}` : "");
  mark(drawn.element, "flowing", rate > 0);
  mark(drawn.element, "erring", own?.errors > 0);
}
