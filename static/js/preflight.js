// The forecast on the launch page: apply a change of settings that would fit, and say when the settings
// have changed since the forecast.
import { data, find, findOptional } from "./dom.js";

const panel = find(document, "[data-preflight]");
const form = /** @type {HTMLFormElement} */ (panel.closest("form"));
const PREFIX = "config-";

/**
 * Set a field of the settings, and show it.
 * @param {string} name
 * @param {unknown} value
 */
function set(name, value) {
  const field = form.elements.namedItem(PREFIX + name);
  if (field instanceof HTMLInputElement && field.type === "checkbox") field.checked = Boolean(value);
  else if (field instanceof HTMLInputElement || field instanceof HTMLSelectElement) field.value = String(value);
  else return;
  const folded = field.closest("details");
  if (folded) folded.open = true;
  field.dispatchEvent(new Event("change", { bubbles: true }));
}

panel.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("[data-preflight-apply]") : null;
  if (!(button instanceof HTMLElement)) return;
  for (const [name, value] of Object.entries(JSON.parse(data(button, "preflightApply")))) set(name, value);
  const ask = find(panel, "[data-preflight-ask]");
  ask.focus();
  ask.click();
});

form.addEventListener("change", () => {
  const outdated = findOptional(panel, "[data-preflight-outdated]");
  if (outdated) outdated.hidden = false;
});
