// Where the nodes and edges of a graph are drawn: dagre's input and what comes of it. Pure.

import { Graph, layout } from "./vendor/dagre.esm.js";
import { shortened } from "./text.js";

const HEIGHT = 50;
const LINE = 16;
const LETTER = 8;
const NARROWEST = 164;
const WIDEST = 248;
const LABEL_LETTER = 6.8;
// So many letters of a name fit into the widest node.
export const LONGEST_NAME = 27;
export const LONGEST_LABEL = 22;

const KINDS = { input: "inputs", output: "answer", external: "from pipeline" };

/** What stands under a node's name. */
export const underName = (node) => [KINDS[node.kind], ...manners(node)].filter(Boolean).join(" · ");

/** What stands on an edge besides its figures: the tensors it takes, under their new names. */
export function edgeLabel(edge) {
  const renames = edge.renames ?? {};
  const names = edge.tensors?.length ? edge.tensors : Object.keys(renames);
  return names.map((name) => (renames[name] && renames[name] !== name ? `${name} → ${renames[name]}` : name)).join(", ");
}

/** The same, or what kind of edge it is where it takes all there is. */
export function edgeWords(edge) {
  const words = [edge.kind === "trigger" ? "triggers" : null, edge.back ? "next round" : null].filter(Boolean).join(", ");
  const tensors = shortened(edgeLabel(edge), LONGEST_LABEL);
  return tensors && edge.back ? `↺ ${tensors}` : tensors || words;
}

/** How a node waits, and how a step is called; a step's model where that has another name. */
export function manners(node) {
  const found = node.model && node.model !== node.label ? [`model ${shortened(node.model, LONGEST_LABEL)}`] : [];
  if (node.join) found.push(`${node.join} join`);
  if (node.triggers_join) found.push(`${node.triggers_join} trigger`);
  if (node.batch) found.push(node.batch.size ? `batch ${node.batch.size}` : "batch");
  return found;
}

function size(node) {
  const lines = underName(node);
  const name = Math.min(Array.from(node.label).length, LONGEST_NAME) * LETTER;
  const width = Math.max(name, lines.length * LABEL_LETTER) + 32;
  return { width: Math.round(Math.min(Math.max(width, NARROWEST), WIDEST)), height: HEIGHT + (lines && node.kind === "step" ? LINE : 0) };
}

/**
 * {width, height, down, nodes: Map of id -> {x, y, width, height}, edges: [{line, label}]}: x and y are the middle of
 * a thing, `line` is the `d` of an SVG path, `label` {x, y, width, height} is where the line is straight.
 * `down` lays the graph from top to bottom, for a screen that is higher than wide.
 */
export function place(graph, down = false) {
  const drawing = new Graph({ multigraph: true });
  drawing.setGraph({ rankdir: down ? "TB" : "LR", nodesep: 26, ranksep: down ? 28 : 30, edgesep: 18, marginx: 14, marginy: 14 });
  for (const node of graph.nodes) drawing.setNode(node.id, size(node));
  // A back edge is laid out the other way round, so that what it closes still reads from left to right.
  const turned = graph.edges.map((edge) => (edge.back ? { edge, from: edge.to, to: edge.from } : { edge, from: edge.from, to: edge.to }));
  turned.forEach(({ edge, from, to }, index) => drawing.setEdge(from, to, labelSize(edge, down), String(index)));
  layout(drawing);
  const laid = turned.map(({ edge, from, to }, index) => ({ back: edge.back, from, to, ...drawing.edge(from, to, String(index)) }));
  const nodes = new Map(graph.nodes.map((node) => [node.id, drawing.node(node.id)]));
  const starts = ports(laid, nodes, "from", down);
  const ends = ports(laid, nodes, "to", down);
  const edges = laid.map((edge, index) => {
    const way = [starts[index], ...straight(edge, down), ends[index]];
    const { x, y, width, height } = edge;
    return { line: curve(edge.back ? way.reverse() : way, down), label: { x, y, width, height } };
  });
  const { width, height } = drawing.graph();
  return { width: Math.ceil(width), height: Math.ceil(height), down, nodes, edges };
}

/** Words stand above the line and figures below it; from top to bottom both are on it, and words may be absent. */
function labelSize(edge, down) {
  const words = edgeWords(edge);
  const width = Math.max(Array.from(words).length, 7) * LABEL_LETTER + 10;
  return { width, height: down && !words ? 18 : 30, labelpos: "c", weight: edge.kind === "trigger" || edge.back ? 1 : 2 };
}

/** Where each edge touches a node: those of one side spread over it in the order in which they come. */
function ports(edges, nodes, end, down) {
  const [along, across, length, breadth] = down ? ["y", "x", "height", "width"] : ["x", "y", "width", "height"];
  const sides = Map.groupBy(edges, (edge) => edge[end]);
  const near = (edge) => edge.points.at(end === "from" ? 1 : -2)[across];
  return edges.map((edge) => {
    const node = nodes.get(edge[end]);
    const side = [...sides.get(edge[end])].sort((a, b) => near(a) - near(b));
    const gap = Math.min((node[breadth] - 20) / side.length, 15);
    return {
      [along]: node[along] + (end === "from" ? node[length] / 2 : -node[length] / 2),
      [across]: node[across] + (side.indexOf(edge) - (side.length - 1) / 2) * gap,
    };
  });
}

/** The points between the nodes, with the two ends of the label's room in place of its middle. */
function straight({ points, x, y, width, height }, down) {
  const inner = points.slice(1, -1).filter((point) => Math.hypot(point.x - x, point.y - y) > 1);
  const at = down
    ? [{ x, y: y - height / 2 }, { x, y: y + height / 2 }]
    : [{ x: x - width / 2, y }, { x: x + width / 2, y }];
  const along = down ? "y" : "x";
  return [...inner, ...at].sort((a, b) => a[along] - b[along]);
}

/** A smooth way through points, which leaves and meets each along the direction of the graph. */
function curve([first, ...rest], down) {
  const words = [`M${round(first.x)},${round(first.y)}`];
  let last = first;
  for (const point of rest) {
    const bend = down ? (point.y - last.y) / 2 : (point.x - last.x) / 2;
    const [leave, meet] = down
      ? [{ x: last.x, y: last.y + bend }, { x: point.x, y: point.y - bend }]
      : [{ x: last.x + bend, y: last.y }, { x: point.x - bend, y: point.y }];
    words.push(`C${[leave, meet, point].map(({ x, y }) => `${round(x)},${round(y)}`).join(" ")}`);
    last = point;
  }
  return words.join(" ");
}

const round = (number) => Math.round(number * 10) / 10;
