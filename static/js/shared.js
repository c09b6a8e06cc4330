// The theme switch. The default is the system's theme. A choice is kept in a cookie, so that the
// server renders the page with it.
import { ROOT, findAll } from "./dom.js";

/** @typedef {"auto" | "light" | "dark"} Theme */

/** @type {Record<Theme, string>} */
const NAMES = { auto: gettext("Theme: system"), light: gettext("Theme: light"), dark: gettext("Theme: dark") };
/** @type {Record<Theme, string>} */
const SHAPES = {
  auto: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16M12 4v16M8.5 5v14M5.5 8v8",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M19 5l-2 2M7 17l-2 2",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5",
};
/** @type {Record<Theme, Theme>} */
const NEXT = { auto: "light", light: "dark", dark: "auto" };

/** @param {Theme} theme */
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

/**
 * @param {HTMLElement} button
 * @param {Theme} theme
 */
function show(button, theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.replaceChildren(icon(theme));
  button.setAttribute("aria-label", NAMES[theme]);
  button.title = NAMES[theme];
}

/** @returns {Theme} */
function currentTheme() {
  const { theme } = document.documentElement.dataset;
  return theme === "light" || theme === "dark" ? theme : "auto";
}

/** @param {HTMLElement} button */
function themeToggle(button) {
  let theme = currentTheme();
  show(button, theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    const age = theme === "auto" ? 0 : 365 * 24 * 3600;
    document.cookie = `theme=${theme}; path=${ROOT}; max-age=${age}; samesite=lax`;
    show(button, theme);
  });
}

for (const button of findAll(document, "[data-theme-toggle]")) themeToggle(button);

// A form marked data-once is sent once, however often its button is pressed.
for (const form of findAll(document, "form[data-once]", HTMLFormElement)) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "1";
  });
  window.addEventListener("pageshow", () => delete form.dataset.sent);
}

// Scroll the current tab into view if the tabs do not fit.
for (const tab of findAll(document, ".subnav [aria-current], .site-nav [aria-current]")) {
  const row = tab.parentElement;
  if (row) row.scrollLeft = tab.offsetLeft - row.offsetLeft - (row.clientWidth - tab.offsetWidth) / 2;
}

// Escape hides the explanation of a figure, until the pointer or the focus leaves it.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const term of findAll(document, ".term:is(:hover, :focus-within)")) {
    term.dataset.dismissed = "";
    const forget = () => delete term.dataset.dismissed;
    term.addEventListener("pointerleave", forget, { once: true });
    term.addEventListener("focusout", forget, { once: true });
  }
});
