// The labels and explanations of figures, from the glossary that the page contains (formatting/glossary.py).
import { find, findOptional } from "./dom.js";

/** @param {string} id  of a script element with JSON */
export const json = (id) => JSON.parse(find(document, `#${id}`, HTMLScriptElement).text);

/** @type {Record<string, string[] | undefined>} the label and the explanation of each figure */
const terms = findOptional(document, "#terms") ? json("terms") : {};

/** @param {string} name */
export const label = (name) => terms[name]?.[0] || name.replaceAll("_", " ").replaceAll("/", " ");

/**
 * Return the label of a figure, with its explanation on hover and focus. templates/parts/term.html has
 * the same elements.
 * @param {string} name
 * @param {string} id  of the explanation
 */
export function explained(name, id) {
  const term = document.createElement("span");
  const [, explanation] = terms[name] ?? [];
  if (!explanation) {
    term.textContent = label(name);
    return term;
  }
  term.className = "term";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "term-label";
  button.textContent = label(name);
  button.setAttribute("aria-describedby", id);
  const text = document.createElement("span");
  text.className = "term-text";
  text.role = "tooltip";
  text.id = id;
  text.textContent = explanation;
  term.append(button, text);
  return term;
}
