// Every text of the page exactly as it was written, or formatted, with one key. The exact texts come
// with the page; a text too long to be formatted has none, as it is shown like that anyway.
const EXACT = "tiebreak-exact";

const formatted = new WeakMap();

function showExact(body, source) {
  formatted.set(body, [...body.childNodes]);
  body.replaceChildren(...source.cloneNode(true).childNodes);
  body.classList.add("exact-text");
}

function showFormatted(body) {
  body.replaceChildren(...formatted.get(body));
  formatted.delete(body);
  body.classList.remove("exact-text");
}

/** Show the texts of this form as they were written (`on`) or formatted. */
function show(form, on) {
  for (const source of form.querySelectorAll(".exact > .exact-text")) {
    const body = source.closest(".message, .answer").querySelector(".reading");
    if (!source.hasChildNodes() || on === formatted.has(body)) continue;
    if (on) showExact(body, source);
    else showFormatted(body);
  }
  form.dataset.exact = on ? "yes" : "no";
  form.querySelector("[data-do=exact]")?.setAttribute("aria-pressed", String(on));
}

/** The reader's last choice, for a form that is shown for the first time. */
export function restoreExact(form) {
  show(form, localStorage.getItem(EXACT) === "1");
}

/** Returns whether the texts are now exact. */
export function toggleExact(form) {
  const on = form.dataset.exact !== "yes";
  show(form, on);
  localStorage.setItem(EXACT, on ? "1" : "0");
  return on;
}
