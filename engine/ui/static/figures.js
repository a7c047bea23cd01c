// What can be said of a graph from figures and records. Pure.

/**
 * Requests a second along an edge. Only nodes are counted, so it is what both ends allow: a source may give what this
 * target does not take (a branch), and a target may take of others (a join of any).
 */
export function edgeRate(edge, nodes, figures) {
  const ends = [nodeRate(nodes.get(edge.from), figures), nodeRate(nodes.get(edge.to), figures)];
  const known = ends.filter((rate) => rate !== null);
  return known.length ? Math.min(...known) : null;
}

/** Requests a second of a node: a step's own, the pipeline's for what comes in and goes out. */
export function nodeRate(node, figures) {
  if (!figures || !node || node.kind === "external") return null;
  if (node.kind === "step") return figures.steps?.[node.id]?.rate ?? null;
  if (node.kind === "input") return figures.rate ?? null;
  return null;
}

/**
 * The way of a request through a graph: {nodes, edges, failed}, sets of ids and of indices of edges.
 * A node is on it when a record of it was seen; an edge when its target took something and its source gave
 * what the edge takes.
 */
export function path(graph, records) {
  const nodes = new Set();
  const failed = new Set();
  const given = new Map();
  const took = new Set();
  for (const record of records) {
    nodes.add(record.node);
    if (record.error) failed.add(record.node);
    if (record.side === "inputs") took.add(record.node);
    const key = `${record.node} ${record.side}`;
    if (!given.has(key)) given.set(key, new Set());
    for (const tensor of record.tensors ?? []) given.get(key).add(tensor.name);
  }
  const kinds = new Map(graph.nodes.map((node) => [node.id, node.kind]));
  const answered = (id) => kinds.get(id) === "output" && nodes.has(id) && !failed.has(id);
  const edges = new Set();
  graph.edges.forEach((edge, index) => {
    const side = kinds.get(edge.from) === "input" ? "inputs" : (edge.side ?? "outputs");
    const tensors = given.get(`${edge.from} ${side}`);
    const gave = tensors && (edge.tensors ?? []).every((name) => tensors.has(name));
    const fed = kinds.get(edge.from) === "external" && nodes.has(edge.to);
    if (fed || (gave && (took.has(edge.to) || answered(edge.to)))) edges.add(index);
  });
  return { nodes, edges, failed };
}

/** The 64 last values of something that is measured each second, the newest last. */
export function remembered(history, value) {
  return [...history, value ?? 0].slice(-64);
}

/** Pipelines (or models) by a word in their names and by an order: [name, figures] pairs. */
export function arranged(entries, word, order) {
  const wanted = word.trim().toLowerCase();
  const kept = entries.filter(([name]) => name.toLowerCase().includes(wanted));
  const weigh = (entry) => entry[1]?.[order] ?? -1;
  const byName = (a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0);
  return kept.sort(order === "name" ? byName : (a, b) => weigh(b) - weigh(a) || byName(a, b));
}
