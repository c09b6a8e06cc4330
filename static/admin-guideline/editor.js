// Show a preview of the Markdown next to its text area. The server renders it with the same function
// as on reviewer pages. Without this script, the preview is that of the last save.
import { control, data, find, findAll, findOptional, followFields, isChanged, isControl } from "../js/dom.js";

const WAIT_MS = 250;

/**
 * Keep the preview of an editor up to date, and scrolled like the text.
 * @param {HTMLElement} editor
 * @param {HTMLTextAreaElement} source
 * @param {HTMLFormElement} form
 */
function follow(editor, source, form) {
  const preview = find(editor, "[data-preview]");
  const token = control(form, "csrfmiddlewaretoken");
  let timer = 0;
  /** The text of the preview; at first the server's. */
  let previewed = source.defaultValue;
  /** @type {AbortController | null} */
  let request = null;

  async function show() {
    request?.abort();
    request = new AbortController();
    try {
      const response = await fetch(data(editor, "previewUrl"), {
        method: "POST",
        headers: { "X-CSRFToken": token.value },
        body: new URLSearchParams({ text: source.value }),
        signal: request.signal,
      });
      if (!response.ok) throw new Error(String(response.status));
      preview.innerHTML = await response.text();
      preview.classList.remove("is-stale");
    } catch (error) {
      const superseded = error instanceof DOMException && error.name === "AbortError";
      if (!superseded) preview.classList.add("is-stale");
    }
  }

  followFields(source, () => {
    if (source.value === previewed) return;
    previewed = source.value;
    clearTimeout(timer);
    timer = setTimeout(show, WAIT_MS);
  });
  source.addEventListener("scroll", () => {
    const room = source.scrollHeight - source.clientHeight;
    const share = room > 0 ? source.scrollTop / room : 0;
    const pane = preview.parentElement;
    if (pane) pane.scrollTop = share * (pane.scrollHeight - pane.clientHeight);
  });
}

/**
 * Ask before someone leaves the page with unsaved fields: those that differ from the server's, or all
 * if the server has refused to save them.
 * @param {HTMLFormElement} form
 */
function warnBeforeLeaving(form) {
  const refused = findOptional(form, ".form-errors, .errornote") !== null;
  let sent = false;
  form.addEventListener("input", () => { sent = false; });
  form.addEventListener("submit", () => { sent = true; });
  window.addEventListener("beforeunload", (event) => {
    const changed = [...form.elements].some((field) => isControl(field) && isChanged(field));
    if (!sent && (refused || changed)) event.preventDefault();
  });
}

document.addEventListener("DOMContentLoaded", () => {
  for (const editor of findAll(document, ".markdown-editor")) {
    const source = find(editor, "textarea", HTMLTextAreaElement);
    if (!source.form) continue;
    follow(editor, source, source.form);
    warnBeforeLeaving(source.form);
  }
});
