// An experiment: how calls are to be shared out, and how they were.

import { el, name, put, svg } from "./dom.js";
import { NONE, percent } from "./format.js";
import { format } from "./route.js";

const WIDTH = 220;

/** The candidates of an experiment; `show(shares)` puts in what was counted. */
export class ShareTable {
  constructor(experiment) {
    const total = experiment.candidates.reduce((sum, candidate) => sum + candidate.weight, 0);
    this.rows = new Map();
    const rows = experiment.candidates.map((candidate) => this.row(experiment, candidate, total ? candidate.weight / total : 0));
    if (experiment.mirror) rows.push(this.mirror(experiment));
    const heads = ["Candidate", "Configured", "Real", ""];
    this.element = el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Shares of the candidates" },
      el(
        "table",
        { class: "shares" },
        el("thead", {}, el("tr", {}, heads.map((word, index) => el("th", { scope: "col", class: index === 1 || index === 2 ? "number" : null }, word || el("span", { class: "unseen" }, "Bar"))))),
        el("tbody", {}, rows),
      ),
      el("p", { class: "quiet" }, "Real shares are of the calls of the last seconds. The mark on a bar is the configured share."),
    );
  }

  row(experiment, { name: candidate }, share) {
    const notes = candidate === experiment.default ? "default" : null;
    return this.line(experiment, candidate, notes, share, candidate);
  }

  mirror(experiment) {
    const { name: candidate, percent: share } = experiment.mirror;
    return this.line(experiment, candidate, "mirror: gets copies, answers nobody", share / 100, candidate);
  }

  line(experiment, candidate, notes, share, key) {
    const real = el("td", { class: "number" }, NONE);
    const bar = svg("rect", { x: 0, y: 4, width: 0, height: 8, rx: 2, class: "share-bar" });
    this.rows.set(key, { real, bar });
    const picture = svg(
      "svg",
      { width: WIDTH, height: 16, viewBox: `0 0 ${WIDTH} 16`, "aria-hidden": "true" },
      svg("rect", { x: 0, y: 4, width: WIDTH, height: 8, rx: 2, class: "share-ground" }),
      bar,
      svg("rect", { x: Math.min(share * WIDTH, WIDTH - 2), y: 0, width: 2, height: 16, class: "share-mark" }),
    );
    const link = el("a", { href: format({ kind: experiment.kind, name: candidate }) }, name(candidate));
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, link, notes ? el("span", { class: "quiet" }, ` ${notes}`) : null),
      el("td", { class: "number" }, percent(share)),
      real,
      el("td", {}, picture),
    );
  }

  show(shares) {
    for (const [key, { real, bar }] of this.rows) {
      const share = shares?.[key];
      put(real, percent(share));
      bar.setAttribute("width", Math.max(Math.min(share ?? 0, 1), 0) * WIDTH);
    }
  }
}
