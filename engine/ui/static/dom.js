// Making elements. Text goes in as text only: nothing here reads markup.

import { parts, plain } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (functions are listeners, absent and false ones are left out) and children. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Text of a caller: isolated from its neighbours, with glyphs for what cannot be seen. */
export function caller(value, { lines = false, cls = null } = {}) {
  return el("bdi", { class: cls }, ...pieces(value, el, lines));
}

/** The pieces of a caller's text, for an SVG text element. */
export const callerSpans = (value) => pieces(value, (_tag, attributes, text) => svg("tspan", attributes, text), false);

function pieces(value, make, lines) {
  return parts(value, lines).map((part) =>
    part.hidden ? make("span", { class: "hidden-character" }, part.text) : document.createTextNode(part.text),
  );
}

/** Set an element's text unless it is there already: what does not change costs no layout. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove a class, an attribute that is true or false. */
export function mark(element, name, on) {
  if (element.classList.contains(name) !== on) element.classList.toggle(name, on);
}

/** A name that may be cut on the screen; whole in its title. */
export const name = (value, cls = "name") => {
  const element = caller(value, { cls });
  element.title = plain(value);
  return element;
};

/** Words for screen readers only. */
export const unseen = (text) => el("span", { class: "unseen" }, text);

/** A state as a coloured dot and, for those who do not see it, a word. */
export const dot = (state) => el("span", { class: `dot ${tone(state)}`, title: state }, unseen(`${state}. `));

/** The colour that a state of a resource or request has. */
export function tone(state) {
  const word = String(state ?? "").toLowerCase();
  if (/fail|error|invalid|not found/u.test(word)) return "bad";
  if (/^(done|ready|active|available)$/u.test(word)) return "good";
  return "busy";
}

/** What is shown where there is nothing to show. */
export const empty = (...children) => el("p", { class: "empty" }, ...children);
