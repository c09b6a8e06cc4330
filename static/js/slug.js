// Suggest the address of a new project while its name is typed, until the address is edited by hand.
// The server does the same for an empty field, and makes the address unique.
import { find } from "./dom.js";

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

let own = slug.value !== "" && slug.value !== proposed(name.value);
slug.addEventListener("input", () => { own = slug.value !== ""; });
name.addEventListener("input", () => { if (!own) slug.value = proposed(name.value); });
