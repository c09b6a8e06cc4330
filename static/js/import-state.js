// Poll the state of a file that a worker is checking or importing, and reload the page when it changes.
import { data } from "./dom.js";

const FIRST_PAUSE = 500, MAX_PAUSE = 5000;

/** @param {HTMLElement} part */
function follow(part) {
  const prompts = part.querySelector("[data-import-prompts]"); // absent while an import is undone
  let pause = FIRST_PAUSE;

  async function ask() {
    if (!document.hidden) {
      try {
        const reply = await fetch(data(part, "importState"), {
          redirect: "manual", headers: { Accept: "application/json" }, signal: AbortSignal.timeout(10000),
        });
        if (reply.type === "opaqueredirect" || reply.status === 403 || reply.status === 404) return;
        /** @type {{ state: string, prompts: number }} */
        const file = await reply.json();
        if (file.state !== part.dataset.state) {
          location.reload();
          return;
        }
        if (prompts) prompts.textContent = file.prompts.toLocaleString("en");
        pause = Math.min(MAX_PAUSE, pause * 1.2);
      } catch {
        pause = MAX_PAUSE;
      }
    }
    setTimeout(ask, pause);
  }

  setTimeout(ask, pause);
}

const part = document.querySelector("[data-import-state]");
if (part instanceof HTMLElement) follow(part);
