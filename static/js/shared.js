// The theme switch: the system's choice until a person picks one; kept in a cookie, so that the
// server sends the right theme with the first byte.
const NAMES = { auto: gettext("Theme: as the system"), light: gettext("Theme: light"), dark: gettext("Theme: dark") };
const SHAPES = {
  auto: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16M12 4v16M8.5 5v14M5.5 8v8",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M19 5l-2 2M7 17l-2 2",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5",
};
const NEXT = { auto: "light", light: "dark", dark: "auto" };

function icon(theme) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const [name, value] of Object.entries({
    d: SHAPES[theme], fill: "none", stroke: "currentColor",
    "stroke-width": "1.8", "stroke-linecap": "round", "stroke-linejoin": "round",
  })) path.setAttribute(name, value);
  svg.append(path);
  return svg;
}

function show(button, theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.replaceChildren(icon(theme));
  button.setAttribute("aria-label", NAMES[theme]);
  button.title = NAMES[theme];
}

function themeToggle(button) {
  let theme = document.documentElement.dataset.theme ?? "auto";
  show(button, theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    const age = theme === "auto" ? 0 : 365 * 24 * 3600;
    document.cookie = `theme=${theme}; path=/; max-age=${age}; samesite=lax`;
    show(button, theme);
  });
}

for (const button of document.querySelectorAll("[data-theme-toggle]")) themeToggle(button);

// A form marked data-once sends one request however often its button is pressed.
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "1";
  });
  window.addEventListener("pageshow", () => delete form.dataset.sent);
}

// The tab of this page is in sight where the tabs do not fit.
for (const tab of document.querySelectorAll(".subnav [aria-current], .site-nav [aria-current]")) {
  const row = tab.parentElement;
  row.scrollLeft = tab.offsetLeft - row.offsetLeft - (row.clientWidth - tab.offsetWidth) / 2;
}
