// Tells the server the browser's time zone, so that times and "today" are the reader's own. The
// page that came before the server knew it is brought over here.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const SHAPES = {
  day: { day: "numeric", month: "short", year: "numeric" },
  minute: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  long: { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  clock: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  second: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
};

function local(time) {
  const language = time.closest("[lang]")?.lang || "en";
  const at = new Date(time.dateTime);
  const shape = (name) => new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, SHAPES[name]).format(at);
  time.textContent = shape(time.dataset.moment);
  time.title = `${shape("long")} ${zone}`;
}

const told = /(?:^|; )timezone=([^;]*)/.exec(document.cookie)?.[1];
if (zone && told !== zone) {
  document.cookie = `timezone=${zone}; path=/; max-age=${365 * 24 * 3600}; samesite=lax`;
  document.querySelectorAll("time[data-moment]").forEach(local);
}
