// Sentences with blanks, and what is said of places and of lists.
export const fill = (text, values) => interpolate(text, values, true);

/** Whether fingers are all there is: a sentence then names no key. */
export const isTouchOnly = () => matchMedia("(hover: none) and (pointer: coarse)").matches;

export function ordinal(index) {
  return [
    gettext("first"), gettext("second"), gettext("third"), gettext("fourth"), gettext("fifth"),
    gettext("sixth"), gettext("seventh"), gettext("eighth"), gettext("ninth"),
  ][index];
}

export function listed(words) {
  if (words.length < 2) return words.join("");
  return fill(gettext("%(some)s and %(last)s"), { some: words.slice(0, -1).join(", "), last: words.at(-1) });
}

/** Say `text` in the status line, and hide what the line says in words where `text` says it too. */
export function showStatus(status, line, text, kind = "") {
  status.textContent = text;
  status.dataset.kind = kind;
  if (line) line.hidden = text.includes(line.textContent);
}
