// One request: what passed each step of it, as it was found or as it comes in.

import * as api from "./api.js";
import { caller, dot, el, empty, name, tone } from "./dom.js";
import { clock, json, many, moment, NONE, seconds } from "./format.js";
import { tensorTable } from "./tensors.js";

// An answer's body is bounded by the server; so much of it is laid out.
const LONGEST_BODY = 20_000;

/**
 * The panel of a request. `seen(records)` hears of the records known so far, `say(text)` goes to screen readers.
 * `show` looks a request up, `follow` waits for one that was sent; `leave` ends either.
 */
export class RequestPanel {
  constructor({ kind, owner, seen, say, close }) {
    Object.assign(this, { kind, owner, seen, say });
    this.records = [];
    this.head = el("div", { class: "request-head" });
    this.body = el("div", { class: "request-body" });
    this.element = el(
      "section",
      { class: "request", "aria-label": "Request", tabindex: -1 },
      el("div", { class: "request-bar" }, el("a", { class: "button quiet-button", href: close.href }, close.text), this.head),
      this.body,
    );
    this.end = () => {};
  }

  /** Look a request up by its id. */
  async show(id) {
    this.id = id;
    let left = false;
    this.end = () => {
      left = true;
    };
    this.title("looking");
    try {
      const found = await api.request(this.kind, this.owner, id);
      if (left) return;
      this.take(found.records);
      this.took = tookOf(this.records);
      this.title(stateOf(found.records));
      if (!found.records.length) this.body.replaceChildren(empty("No record of this request was found on the topics."));
      this.say(`Request with ${found.records.length} records`);
    } catch (error) {
      if (!(error instanceof api.Refused)) throw error;
      if (!left) this.fail(error.message);
    }
  }

  /** Wait for the records and the answer of a request that was sent. */
  follow(id) {
    this.id = id;
    this.title("waiting for the answer");
    this.body.replaceChildren(empty("Waiting for the first record."));
    this.end = api.follow(id, {
      record: (record) => this.take([...this.records, record]),
      answer: (answer) => this.answered(answer),
      lost: () => this.show(id),
    });
  }

  leave() {
    this.end();
  }

  /** Bring the records of a step into view. */
  reveal(node) {
    const found = [...this.body.querySelectorAll("[data-node]")].find((each) => each.dataset.node === node);
    found?.scrollIntoView({ block: "nearest" });
    found?.focus({ preventScroll: true });
    return Boolean(found);
  }

  title(state) {
    const [first] = this.records;
    const facts = [first ? moment(first.at) : null, this.took ?? null].filter(Boolean);
    this.head.replaceChildren(
      el("h3", {}, el("span", { class: "quiet" }, "Request "), name(this.id, "mono name")),
      el("p", { class: "facts" }, el("span", { class: `state ${tone(state)}` }, dot(state), state), facts.map((fact) => el("span", {}, fact))),
    );
  }

  take(records) {
    this.records = [...records].sort((a, b) => a.at - b.at);
    const start = this.records[0]?.at;
    const visits = grouped(this.records);
    this.body.replaceChildren(this.answer ?? "", el("ol", { class: "visits" }, visits.map((visit) => visitItem(visit, start))));
    this.seen(this.records);
  }

  answered({ status, seconds: time, body }) {
    this.took = `answered in ${seconds(time)}`;
    const good = status < 400;
    const state = good ? "done" : "failed";
    this.answer = el(
      "div",
      { class: `answer ${good ? "good" : "bad"}` },
      el("h4", {}, `Answer ${status}`, el("span", { class: "quiet" }, ` after ${seconds(time)}`)),
      el("pre", { tabindex: 0, "aria-label": "Body of the answer" }, caller(laidOut(body), { lines: true })),
    );
    this.title(state);
    this.take(this.records);
    this.say(`Answer ${status} after ${seconds(time)}`);
  }

  fail(message) {
    this.title("not found");
    this.body.replaceChildren(el("p", { class: "fault", role: "alert" }, caller(message, { lines: true })));
    this.seen([]);
  }
}

const stateOf = (records) => {
  if (records.some((record) => record.error)) return "failed";
  return records.length ? "done" : "not found";
};

/** From the first record to the last: what the topics tell of a request that nobody here waited for. */
function tookOf(records) {
  const time = records.length ? records.at(-1).at - records[0].at : 0;
  return time > 0 ? `took ${seconds(time)}` : null;
}

/** Records of one node that belong together: what went in, then what came out. */
function grouped(records) {
  const visits = [];
  const open = new Map();
  for (const record of records) {
    const last = open.get(record.node);
    // A step of a cycle is visited again: its next inputs begin another visit.
    if (last && !(record.side === "inputs" && last.records.some((each) => each.side === "inputs"))) last.records.push(record);
    else {
      const visit = { node: record.node, round: (last?.round ?? 0) + 1, records: [record] };
      open.set(record.node, visit);
      visits.push(visit);
    }
  }
  for (const visit of visits) visit.again = open.get(visit.node).round > 1;
  return visits;
}

function visitItem({ node, round, again, records }, start) {
  const failed = records.some((record) => record.error);
  const last = records.at(-1);
  return el(
    "li",
    { class: failed ? "visit failed" : "visit", "data-node": node, tabindex: -1 },
    el(
      "div",
      { class: "visit-head" },
      el("h4", {}, name(node), again ? el("span", { class: "quiet" }, ` round ${round}`) : null),
      el("span", { class: "quiet", title: clock(last.at, true) }, after(last.at - start)),
    ),
    records.map(recordPart),
  );
}

const after = (time) => (Number.isFinite(time) ? `+${seconds(Math.max(time, 0))}` : NONE);

function recordPart(record) {
  const place = [record.topic, record.partition, record.offset].every((part) => part !== null && part !== undefined)
    ? `${record.topic}[${record.partition}]@${record.offset}`
    : null;
  return el(
    "div",
    { class: "record" },
    el("h5", {}, record.error ? "error" : record.side, place ? el("span", { class: "place" }, caller(place)) : null),
    record.error ? errorPart(record.error) : null,
    record.tensors?.length ? tensorTable(record.tensors, `${record.side} of ${record.node}`) : null,
    record.headers?.length ? headersPart(record.headers) : null,
  );
}

function errorPart({ status, step, message }) {
  return el(
    "p",
    { class: "fault" },
    status ? el("strong", {}, caller(status), " ") : null,
    step ? ["in ", caller(step, { cls: "mono" }), ": "] : null,
    caller(message, { lines: true }),
  );
}

function headersPart(headers) {
  return el(
    "details",
    {},
    el("summary", {}, many(headers.length, "header")),
    el("dl", { class: "headers" }, headers.flatMap(([key, text]) => [el("dt", {}, caller(key)), el("dd", {}, caller(text))])),
  );
}

function laidOut(body) {
  const text = typeof body === "string" ? body : json(body);
  return text.length > LONGEST_BODY ? `${text.slice(0, LONGEST_BODY)}…` : text;
}
