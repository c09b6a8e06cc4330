// Follows a file that a worker is checking or importing, and reloads the page when that has ended.
(() => {
  const part = document.querySelector("[data-import-state]");
  if (!(part instanceof HTMLElement)) return;
  const prompts = part.querySelector("[data-import-prompts]");
  const FAST = 500, SLOW = 5000;
  let pause = FAST;

  async function ask() {
    if (!document.hidden) {
      try {
        const answer = await fetch(part.dataset.importState, {
          redirect: "manual", headers: { Accept: "application/json" }, signal: AbortSignal.timeout(10000),
        });
        if (answer.type === "opaqueredirect" || answer.status === 403 || answer.status === 404) return;
        const now = await answer.json();
        if (now.state !== part.dataset.state) return location.reload();
        prompts.textContent = now.prompts.toLocaleString();
        pause = Math.min(SLOW, pause * 1.2);
      } catch {
        pause = SLOW;
      }
    }
    setTimeout(ask, pause);
  }
  setTimeout(ask, pause);
})();
