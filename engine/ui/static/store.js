// What the page knows of the server, and who wants to hear of changes.

import * as api from "./api.js";
import { remembered } from "./figures.js";

/**
 * graphs    the answer of /ui/api/graphs; null until it came
 * figures   the last event of figures; null until it came
 * history   the rates of the last minute: "pipeline NAME" or "model NAME" -> numbers
 * server    whether the server is there
 */
export const state = { graphs: null, figures: null, history: new Map(), server: true, problem: null };

const listeners = new Set();

/** Hear of every change: `heard(what)` with "graphs", "figures" or "server". Gives what ends it. */
export function subscribe(heard) {
  listeners.add(heard);
  return () => listeners.delete(heard);
}

const tell = (what) => listeners.forEach((heard) => heard(what));

/** The figures of a pipeline or model; null when there are none. */
export const figuresOf = (kind, name) => state.figures?.[`${kind}s`]?.[name] ?? null;

/** A pipeline, model or experiment by name; undefined when it is not loaded. */
export const resource = (kind, name) => state.graphs?.[`${kind}s`]?.find((each) => each.name === name);

async function load() {
  try {
    state.graphs = kept(state.graphs, await api.graphs());
    state.problem = null;
    tell("graphs");
  } catch (error) {
    if (!(error instanceof api.Refused)) throw error;
    state.problem = error.message;
    tell("server");
  }
}

/** What was read anew, with the known objects for what has not changed: views of these stay as they are. */
function kept(known, read) {
  for (const kind of ["pipelines", "models", "experiments"]) {
    const byName = new Map((known?.[kind] ?? []).map((each) => [each.name, each]));
    read[kind] = read[kind].map((each) => {
      const before = byName.get(each.name);
      return before && JSON.stringify(before) === JSON.stringify(each) ? before : each;
    });
  }
  return read;
}

function remember(figures) {
  state.figures = figures;
  for (const kind of ["pipeline", "model"]) {
    for (const [name, each] of Object.entries(figures[`${kind}s`] ?? {})) {
      const key = `${kind} ${name}`;
      state.history.set(key, remembered(state.history.get(key) ?? [], each.rate));
    }
  }
  tell("figures");
}

/** Begin to listen; the graphs are read again whenever the server says so or comes back. */
export function start() {
  api.listen({
    figures: remember,
    changed: load,
    up: () => {
      state.server = true;
      tell("server");
      return load();
    },
    down: () => {
      state.server = false;
      tell("server");
    },
  });
}
