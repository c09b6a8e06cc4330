// Store the browser's time zone in a cookie, so that the server shows local times. Times on a page
// that was sent before the server had the cookie are converted here.
import { ROOT, data, findAll } from "./dom.js";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
/** @type {Record<string, Intl.DateTimeFormatOptions>} */
const SHAPES = {
  day: { day: "numeric", month: "short", year: "numeric" },
  minute: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  long: { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  clock: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  second: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
};

/** @param {HTMLTimeElement} time */
function showLocal(time) {
  const language = time.closest("[lang]")?.getAttribute("lang") || "en";
  const at = new Date(time.dateTime);
  /** @param {string} name */
  const shape = (name) => new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, SHAPES[name]).format(at);
  time.textContent = shape(data(time, "moment"));
  time.title = `${shape("long")} ${zone}`;
}

const sentZone = /(?:^|; )timezone=([^;]*)/.exec(document.cookie)?.[1];
if (zone && sentZone !== zone) {
  document.cookie = `timezone=${zone}; path=${ROOT}; max-age=${365 * 24 * 3600}; samesite=lax`;
  findAll(document, "time[data-moment]", HTMLTimeElement).forEach(showLocal);
}
