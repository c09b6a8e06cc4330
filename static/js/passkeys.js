// Messages about passkeys. The scripts of django-allauth do the rest, and report errors by an event.
import { findAll } from "./dom.js";

document.addEventListener("allauth.error", (event) => {
  event.preventDefault();
  for (const note of findAll(document, "[data-passkey-error]")) note.hidden = false;
});
