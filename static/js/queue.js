// Keep the queue up to date: ask every few seconds while the page is visible. Forms that someone uses
// are left alone.
import { find } from "./dom.js";

const SECONDS = 5;

async function refresh() {
  const root = find(document, "[data-queue]");
  if (document.hidden || root.querySelector(":is(select, button):focus")) return;
  try {
    const reply = await fetch(location.href, { redirect: "manual", signal: AbortSignal.timeout(10000) });
    if (!reply.ok) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const newest = find(page, "[data-queue]");
    if (root.innerHTML !== newest.innerHTML) root.replaceChildren(...newest.childNodes);
  } catch {
    // The network is lost. The next call tries again.
  }
}

setInterval(refresh, SECONDS * 1000);
document.addEventListener("visibilitychange", refresh);
