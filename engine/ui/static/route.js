// What is shown, as the part of the address behind "#". Pure.

const KINDS = { pipelines: "pipeline", models: "model", experiments: "experiment" };
const FOLDERS = { pipeline: "pipelines", model: "models", experiment: "experiments" };
export const TABS = ["requests", "send", "steps"];

/**
 * {kind, name, tab, request} of a hash; name is null where none is chosen, request is null but for
 * `#/pipelines/NAME/requests/ID`.
 */
export function parse(hash) {
  const [folder = "", name = "", tab = "", request = ""] = hash.replace(/^#?\/?/u, "").split("/").map(decoded);
  return {
    kind: Object.hasOwn(KINDS, folder) ? KINDS[folder] : "pipeline",
    name: name || null,
    tab: TABS.includes(tab) ? tab : null,
    request: tab === "requests" && request ? request : null,
  };
}

/** The hash that `parse` reads so. */
export function format({ kind, name = null, tab = null, request = null }) {
  const words = [FOLDERS[kind], name, name && (request ? "requests" : tab), name && request];
  return `#/${words.filter(Boolean).map(encodeURIComponent).join("/")}`;
}

function decoded(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word; // a hash that somebody typed
  }
}
