// Calls of the server, and the streams of what it tells.

// The server's own bound for looking through topics is below this.
const DEADLINE = 60_000;
const RETRY = [1000, 2000, 4000];
// Figures come each second.
const SILENCE = 5000;

/** A call that was refused or failed; its message is for the reader. */
export class Refused extends Error {}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(`api/${path}`, { ...options, signal: AbortSignal.timeout(DEADLINE) });
  } catch (error) {
    throw new Refused(error.name === "TimeoutError" ? "The server gave no answer in time." : "The server does not answer.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(body.error ?? `The server answered ${response.status}.`);
  return body;
}

const query = (pairs) => new URLSearchParams(pairs).toString();

export const graphs = () => call("graphs");
export const requests = (pipeline, limit) => call(`requests?${query({ pipeline, limit })}`);
export const request = (kind, name, id) => call(`requests/${encodeURIComponent(id)}?${query({ [kind]: name })}`);
export const form = (kind, name) => call(`form?${query({ kind, name })}`);
export const send = (kind, name, body) =>
  call(`send?${query({ kind, name })}`, { method: "POST", body, headers: { "content-type": "application/json" } });

/**
 * Listen to the figures until the page is left, again and again when the server goes away.
 * `hear` has figures(data), changed(), up() and down().
 */
export function listen(hear) {
  let failures = 0;
  let source = null;
  let watch = 0;
  const again = () => {
    clearTimeout(watch);
    source.close();
    hear.down();
    setTimeout(open, RETRY[Math.min(failures, RETRY.length - 1)]);
    failures += 1;
  };
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(again, SILENCE);
  };
  const open = () => {
    source = new EventSource("api/live");
    source.addEventListener("open", () => {
      failures = 0;
      heard();
      hear.up();
    });
    source.addEventListener("figures", (event) => {
      heard();
      hear.figures(JSON.parse(event.data));
    });
    source.addEventListener("graphs", () => hear.changed());
    source.addEventListener("error", again);
    heard();
  };
  open();
}

/** Follow a request that was sent: `hear` has record(data), answer(data) and lost(). Gives what ends it. */
export function follow(id, hear) {
  const source = new EventSource(`api/follow/${encodeURIComponent(id)}`);
  source.addEventListener("record", (event) => hear.record(JSON.parse(event.data)));
  source.addEventListener("answer", (event) => {
    source.close();
    hear.answer(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    source.close();
    hear.lost();
  });
  return () => source.close();
}
