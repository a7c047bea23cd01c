// The page: the address says what is shown, the store says what is known.

import { caller, el, empty, put } from "./dom.js";
import { clock } from "./format.js";
import { ResourceList } from "./list.js";
import { parse } from "./route.js";
import { resource, start, state, subscribe } from "./store.js";
import { themeButton } from "./theme.js";
import { narrow, ResourceView } from "./view.js";

const part = (id) => document.getElementById(id);
const list = new ResourceList(part("list"));
const main = part("main");
let view = null;
let shown = null;

/** Say something to screen readers, once. */
const say = (text) => put(part("said"), text);

/** What the address asks for; the first of its kind where it names none and there is room for both. */
function wanted() {
  const route = parse(location.hash);
  const first = narrow.matches ? null : state.graphs?.[`${route.kind}s`]?.map((each) => each.name).sort()[0];
  return { ...route, name: route.name ?? first ?? null, named: route.name !== null };
}

function show() {
  const route = wanted();
  document.body.dataset.named = String(route.named);
  document.title = [route.name, "Millrace"].filter(Boolean).join(" · ");
  list.show(route);
  const found = route.name ? resource(route.kind, route.name) : null;
  if (view && found && view.resource === found && view.kind === route.kind) {
    if (shown !== location.hash) view.go(route);
  } else {
    replace(route, found);
  }
  shown = location.hash;
}

function replace(route, found) {
  view?.leave();
  view = found ? new ResourceView(route.kind, found, say) : null;
  main.replaceChildren(view?.element ?? missing(route));
  main.scrollTop = 0;
  // The list is gone, and with it what the keyboard was on.
  if (narrow.matches && route.named) main.focus();
  if (!view) return;
  view.fit();
  view.go(route);
}

function missing(route) {
  if (!state.graphs) return empty("Reading what is loaded …");
  if (!route.name) return empty(`No ${route.kind} is loaded. Load one with seldon ${route.kind} load -f FILE.`);
  return empty(`No ${route.kind} `, caller(route.name), " is loaded.");
}

function heading() {
  const { namespace, guarantee, broker } = state.graphs;
  const known = Object.entries({ namespace, broker, guarantee: guarantee?.replaceAll("_", " ") }).filter(([, text]) => text);
  const fact = ([title, text]) => el("span", {}, el("span", { class: "quiet" }, `${title} `), caller(text));
  part("facts").replaceChildren(...known.map(fact));
}

/** The banner: what is away, and since when the figures stand still. */
function trouble() {
  const broker = state.figures?.broker;
  const since = state.figures ? ` The figures are of ${clock(state.figures.at)}.` : "";
  const [title, text] = !state.server
    ? ["The server is away.", `It is asked again and again.${since}`]
    : state.problem
      ? ["What is loaded could not be read.", state.problem]
      : broker && !broker.ok
        ? ["The broker is away.", broker.fault ?? ""]
        : [null, null];
  const key = `${title} ${text}`;
  if (trouble.said === key) return;
  trouble.said = key;
  const banner = part("banner");
  document.body.classList.toggle("stale", title !== null && !state.server);
  banner.replaceChildren(title ? el("p", {}, el("strong", {}, title), " ", caller(text)) : "");
}

subscribe((what) => {
  if (what === "graphs") {
    heading();
    show();
  }
  if (what === "figures") {
    list.figures();
    view?.figures();
  }
  trouble();
});

window.addEventListener("hashchange", show);
// The graph is laid out the other way round, and the list and the view share the room or take turns.
narrow.addEventListener("change", () => {
  view?.lay();
  show();
  view?.fit();
  view?.figures();
});
themeButton(part("theme"));
// The address is taken for what is shown, so the link does by hand what links of this kind do.
part("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
show();
start();
