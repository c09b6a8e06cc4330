// Suggest the address of a new project while its name is typed, until the address is edited by hand.
// The server does the same for an empty field, and makes the address unique.
import { find, followFields } from "./dom.js";

const name = find(document, "#id_name", HTMLInputElement);
const slug = find(document, "#id_slug", HTMLInputElement);
const LONGEST = 55;

/** @param {string} text */
function proposed(text) {
  return text
    .normalize("NFKD")
    .replace(/[^\x00-\x7f]/g, "")
    .toLowerCase()
    .replace(/[^\w\s-]/g, "")
    .trim()
    .replace(/[-\s]+/g, "-")
    .slice(0, LONGEST)
    .replace(/^[-_]+|[-_]+$/g, "");
}

let proposal = "";

followFields(name, () => {
  const next = proposed(name.value);
  if (["", proposal, next].includes(slug.value)) slug.value = proposal = next;
});
