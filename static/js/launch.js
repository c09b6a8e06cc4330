// The review and the first batch of the launch form. Both are replaced when the form changes, so the
// events are handled on the form.
import { closest, find, findAll } from "./dom.js";

const form = find(document, "[data-launch]", HTMLFormElement);

// Only pages served over HTTPS or from localhost have a clipboard.
function showButtons() {
  for (const button of findAll(form, "[data-copy-command]")) button.hidden = !navigator.clipboard;
}

/** @param {string} text */
function setBatchStatus(text) {
  for (const status of findAll(form, "[data-batch-status]")) status.textContent = text;
}

form.addEventListener("click", async (event) => {
  const button = closest(event.target, "[data-copy-command]");
  if (!button) return;
  const command = find(form, "[data-command]");
  try {
    await navigator.clipboard.writeText(command.textContent ?? "");
    button.textContent = "Copied";
  } catch {
    getSelection()?.selectAllChildren(command);
  }
});

form.addEventListener("input", () => {
  if (findAll(form, ".launch-group").length) {
    setBatchStatus("The form has changed since this batch was read. Show it again.");
  }
});

form.addEventListener("htmx:beforeRequest", (event) => {
  if (closest(event.target, "[data-show-batch]")) setBatchStatus("Asking a worker…");
});
form.addEventListener("htmx:sendError", (event) => {
  if (closest(event.target, "[data-show-batch]")) setBatchStatus("The server did not answer. Try again.");
});
form.addEventListener("htmx:responseError", (event) => {
  if (closest(event.target, "[data-show-batch]")) setBatchStatus("The server could not show the batch. Try again.");
});
form.addEventListener("htmx:afterSwap", showButtons);
showButtons();
