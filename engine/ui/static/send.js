// The form that sends a request.

import * as api from "./api.js";
import { caller, el } from "./dom.js";
import { json } from "./format.js";

/** The form for a pipeline, model or experiment; `sent(id)` hears of a request that is on its way. */
export class SendForm {
  constructor(kind, owner, sent) {
    Object.assign(this, { kind, owner, sent });
    this.note = el("p", { class: "quiet", id: "send-note" });
    this.fault = el("div", { role: "alert", id: "send-fault" });
    this.text = el("textarea", {
      id: "send-body",
      spellcheck: "false",
      autocomplete: "off",
      rows: 12,
      "aria-describedby": "send-note send-fault",
      keydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.send(event);
      },
    });
    this.button = el("button", { type: "submit", class: "primary" }, "Send");
    this.element = el(
      "form",
      { class: "send", submit: (event) => this.send(event) },
      el("label", { for: "send-body" }, "Request, as V2 JSON"),
      this.note,
      this.text,
      this.fault,
      el("div", { class: "toolbar" }, this.button, el("button", { type: "button", click: () => this.fill(true) }, "Fill in again"), el("span", { class: "quiet" }, "Ctrl+Enter sends")),
    );
    this.fill();
  }

  async fill(again = false) {
    try {
      const { request, note } = await api.form(this.kind, this.owner);
      // What somebody has typed meanwhile stays, unless it is to be filled in again.
      if (again || !this.text.value) this.text.value = json(request);
      this.note.textContent = note ?? "";
      this.say("");
    } catch (error) {
      this.refused(error);
    }
  }

  async send(event) {
    event.preventDefault();
    this.say("");
    try {
      JSON.parse(this.text.value);
    } catch (error) {
      this.say(`This is not JSON: ${error.message}`);
      this.text.focus();
      return;
    }
    this.button.disabled = true;
    try {
      const { id } = await api.send(this.kind, this.owner, this.text.value);
      this.sent(id);
    } catch (error) {
      this.refused(error);
    } finally {
      this.button.disabled = false;
    }
  }

  refused(error) {
    if (!(error instanceof api.Refused)) throw error;
    this.say(error.message);
  }

  say(message) {
    this.fault.replaceChildren(message ? el("p", { class: "fault" }, caller(message, { lines: true })) : "");
  }
}
