// Shows the Markdown beside its text area as reviewers will read it. The server renders it, by the
// same function as everywhere; without this script the preview is that of the last save.
(() => {
  const WAIT_MS = 250;

  function follow(editor) {
    const source = editor.querySelector("textarea");
    const preview = editor.querySelector("[data-preview]");
    const token = source.form.querySelector("[name=csrfmiddlewaretoken]");
    let timer = 0;
    let request = null;

    async function show() {
      request?.abort();
      request = new AbortController();
      try {
        const response = await fetch(editor.dataset.previewUrl, {
          method: "POST",
          headers: { "X-CSRFToken": token.value },
          body: new URLSearchParams({ text: source.value }),
          signal: request.signal,
        });
        if (!response.ok) throw new Error(String(response.status));
        preview.innerHTML = await response.text();
        preview.classList.remove("is-stale");
      } catch (error) {
        if (error.name !== "AbortError") preview.classList.add("is-stale");
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
      pane.scrollTop = share * (pane.scrollHeight - pane.clientHeight);
    });
  }

  function warnBeforeLeaving(form) {
    let changed = false;
    form.addEventListener("input", () => { changed = true; });
    form.addEventListener("submit", () => { changed = false; });
    window.addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const editor of document.querySelectorAll(".markdown-editor")) {
      follow(editor);
      warnBeforeLeaving(editor.querySelector("textarea").form);
    }
  });
})();
