// Selects a field when it is clicked, and copies it where the browser lets a page do that.
for (const field of document.querySelectorAll("[data-copy]")) {
  field.addEventListener("focus", () => field.select());
}

for (const button of document.querySelectorAll("[data-copy-button]")) {
  const field = document.getElementById(button.dataset.copyButton);
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
