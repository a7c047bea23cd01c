// Text of callers, shown so that nothing in it can hide or turn its neighbours round. Pure.

// Controls, marks that change the direction of text, characters of no width, separators of lines, tags, lone surrogates.
const HIDDEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{e0000}-\u{e0fff}\p{Cs}]/gu;

// Spaces that a text of several lines is laid out with.
const LAYOUT = /[\t\n]/u;

const ESCAPES = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };

/** What stands for a character that cannot be seen: an escape that everybody knows, else its number. */
export function glyph(character) {
  const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  return ESCAPES[character] ?? `U+${code}`;
}

/**
 * A text as parts {text, hidden}: what can be seen, and the glyphs of what cannot.
 * With `lines` line breaks and tabs stay, for text that is shown in several lines.
 */
export function parts(value, lines = false) {
  const text = String(value);
  const found = [];
  let shown = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (lines && LAYOUT.test(match[0])) continue;
    if (match.index > shown) found.push({ text: text.slice(shown, match.index), hidden: false });
    found.push({ text: glyph(match[0]), hidden: true });
    shown = match.index + match[0].length;
  }
  if (shown < text.length) found.push({ text: text.slice(shown), hidden: false });
  return found;
}

/** The same as one string, for places that take nothing else: titles and labels. */
export function plain(value) {
  return parts(value).map((part) => (part.hidden ? `[${part.text}]` : part.text)).join("");
}

/** A text of at most `length` characters, its middle left out. */
export function shortened(value, length) {
  const characters = Array.from(value);
  if (characters.length <= length) return value;
  const head = Math.ceil((length - 1) / 2);
  return `${characters.slice(0, head).join("")}…${characters.slice(characters.length - (length - 1 - head)).join("")}`;
}
