// Placeholders in sentences, ordinals, lists in words, and the status line.

/**
 * Replace the %(name)s placeholders of a sentence.
 * @param {string} text
 * @param {Record<string, string | number>} values
 */
export const fill = (text, values) => interpolate(text, values, true);

/** Whether touch is the only input; sentences then mention no keys. */
export const isTouchOnly = () => matchMedia("(hover: none) and (pointer: coarse)").matches;

/** @param {number} index  0 for the first */
export function ordinal(index) {
  return [
    gettext("first"), gettext("second"), gettext("third"), gettext("fourth"), gettext("fifth"),
    gettext("sixth"), gettext("seventh"), gettext("eighth"), gettext("ninth"),
  ][index] ?? "";
}

/** @param {string[]} words */
export function listed(words) {
  if (words.length < 2) return words.join("");
  return fill(gettext("%(some)s and %(last)s"), { some: words.slice(0, -1).join(", "), last: words[words.length - 1] });
}

/**
 * Show `text` in the status line, and hide the sentence about the line of acceptability if `text`
 * contains it.
 * @param {HTMLElement} status
 * @param {HTMLElement | null} line
 * @param {string} text
 */
export function showStatus(status, line, text, kind = "") {
  status.textContent = text;
  status.dataset.kind = kind;
  if (line) line.hidden = text.includes(line.textContent ?? "");
}
