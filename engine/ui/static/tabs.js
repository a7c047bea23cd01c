// Tabs as the ARIA pattern has them: one is in the tab order, arrows go round, each has its panel.

import { el } from "./dom.js";

/** `tabs` are {id, title, href}; `element` holds the row, `panel` what the chosen tab shows. */
export class Tabs {
  constructor(tabs, label) {
    this.links = new Map(
      tabs.map(({ id, title, href }) => [id, el("a", { href, role: "tab", id: `tab-${id}`, "aria-controls": "tab-panel" }, title)]),
    );
    this.list = el("div", { class: "tabs", role: "tablist", "aria-label": label, keydown: (event) => this.pressed(event) }, [...this.links.values()]);
    this.panel = el("div", { role: "tabpanel", id: "tab-panel" });
    this.element = el("div", {}, this.list, this.panel);
  }

  /** Show what belongs to a tab. */
  show(id, ...content) {
    for (const [each, link] of this.links) {
      link.setAttribute("aria-selected", String(each === id));
      link.tabIndex = each === id ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", `tab-${id}`);
    this.panel.replaceChildren(...content);
  }

  pressed(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const links = [...this.links.values()];
    if (event.key === " ") {
      event.preventDefault();
      document.activeElement.click();
    } else if (move) {
      const at = links.indexOf(document.activeElement);
      links[(at + move + links.length) % links.length].focus();
    }
  }
}
