// Selects a field when it is clicked, and copies it where the browser lets a page do that.
import { data, find, findAll } from "./dom.js";

for (const field of findAll(document, "[data-copy]", HTMLInputElement)) {
  field.addEventListener("focus", () => field.select());
}

for (const button of findAll(document, "[data-copy-button]")) {
  const field = find(document, `#${data(button, "copyButton")}`, HTMLInputElement);
  // Only pages served over HTTPS or from localhost have a clipboard.
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(field.value);
      button.textContent = "Copied";
    } catch {
      field.select();
    }
  });
}
