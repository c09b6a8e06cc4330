// Keeps the page of a run up to date: often while it moves and somebody looks, seldom while it
// stands still, not at all when the page is hidden or the run has ended. A server that is away is
// asked again, ever more patiently.
(() => {
  const page = document.querySelector("[data-run-live]");
  const part = (name) => page.querySelector(`[data-run-${name}]`);
  const FAST = 1000, CALM = 3000, SLOW = 10000, LONGEST_RETRY = 15000;
  const CALM_AFTER = 20000, SLOW_AFTER = 120000;

  let last = Number(page.dataset.last);
  let state = page.dataset.state;
  let seen = "";
  let changedAt = Date.now();
  let failures = 0;
  let timer = null;
  let asking = false;

  const curves = part("curves");
  CURVES.start(curves.querySelector("[data-curves]"), JSON.parse(document.getElementById("points").textContent));
  if ("ended" in page.dataset) return;

  function pause() {
    if (failures) return Math.min(LONGEST_RETRY, FAST * 2 ** (failures - 1));
    const still = Date.now() - changedAt;
    return still < CALM_AFTER ? FAST : still < SLOW_AFTER ? CALM : SLOW;
  }

  function later() {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(ask, pause());
  }

  function say(text) {
    const place = part("connection");
    place.hidden = !text;
    if (place.textContent !== text) place.textContent = text;
  }

  async function ask() {
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch(`${page.dataset.runLive}?after=${last}`, {
        redirect: "manual", headers: { Accept: "application/json" }, signal: AbortSignal.timeout(10000),
      });
      if (answer.type === "opaqueredirect" || answer.status === 403 || answer.status === 404) {
        say("You are signed out, or the run is gone. Reload the page.");
        return;
      }
      if (!answer.ok) throw new Error(answer.status);
      show(await answer.json());
      failures = 0;
      say("");
    } catch {
      failures += 1;
      say("Reconnecting… The run goes on without this page.");
    } finally {
      asking = false;
    }
    later();
  }

  function show(now) {
    if (now.ended) return location.reload();
    const moved = `${now.state} ${now.step} ${now.log.length} ${now.cancelling}`;
    if (moved !== seen) [seen, changedAt] = [moved, Date.now()];
    if (now.state !== state) {
      part("announce").textContent = now.label;
      state = now.state;
    }
    replace("status", now.status);
    replace("messages", now.messages);
    follow(part("log"), now.log || "Nothing was printed yet.");
    if (now.points.length) {
      last = now.points.at(-1).number;
      curves.hidden = false;
      CURVES.more(now.points);
    }
  }

  // Only what differs is touched, so that selected text stays selected.
  function replace(name, html) {
    const place = part(name);
    if (place.dataset.shown !== html) {
      place.innerHTML = html;
      place.dataset.shown = html;
    }
  }

  function follow(log, text) {
    if (log.textContent === text) return;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
    log.textContent = text;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  part("log").scrollTop = part("log").scrollHeight;
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); else clearTimeout(timer); });
  window.addEventListener("online", ask);
  later();
})();
