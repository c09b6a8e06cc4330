// Select a field when it is focused, and copy it with a button where the browser allows it.
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
