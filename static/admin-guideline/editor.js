// Show a preview of the Markdown next to its text area. The server renders it with the same function
// as on reviewer pages. Without this script, the preview is that of the last save.
import { control, data, find, findAll } from "../js/dom.js";

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

  source.addEventListener("input", () => {
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

/** @param {HTMLFormElement} form */
function warnBeforeLeaving(form) {
  let changed = false;
  form.addEventListener("input", () => { changed = true; });
  form.addEventListener("submit", () => { changed = false; });
  window.addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });
}

document.addEventListener("DOMContentLoaded", () => {
  for (const editor of findAll(document, ".markdown-editor")) {
    const source = find(editor, "textarea", HTMLTextAreaElement);
    if (!source.form) continue;
    follow(editor, source, source.form);
    warnBeforeLeaving(source.form);
  }
});
