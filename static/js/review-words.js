// Sentences with blanks, and what is said of places and of lists.
export const fill = (text, values) => interpolate(text, values, true);

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
