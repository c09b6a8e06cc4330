// Drafts, saved twice: in this browser immediately, and on the server a moment later.
import { control, data, isChanged, isControl } from "../dom.js";

const DAY = 24 * 3600 * 1000;
const WAIT = 800;
const KEPT = /^(rank|rating|flag)-|^cut$|^rationale$|^strength$/;

/** @typedef {Record<string, string[]>} Fields */
/** @typedef {{ at: number, fields: Fields, active_seconds?: number }} Kept */

/**
 * The reason why the reviewer no longer holds a task, or the state of the draft.
 * @typedef {"ranked" | "skipped" | "withdrawn" | "expired"} LostReason
 * @typedef {LostReason | "saved" | "unsaved" | "offline"} DraftState
 */

/** @param {HTMLFormElement} form */
function fieldsOf(form) {
  /** @type {Fields} */
  const fields = {};
  for (const [name, value] of new FormData(form)) {
    if (KEPT.test(name)) (fields[name] ??= []).push(String(value));
  }
  return fields;
}

/**
 * Return the names of the fields that someone has changed since the server sent them.
 * @param {HTMLFormElement} form
 */
function changedNames(form) {
  const fields = [...form.elements].filter(isControl);
  return new Set(fields.filter((field) => KEPT.test(field.name) && isChanged(field)).map((field) => field.name));
}

/**
 * Fill in the fields of a draft, except those named in `own`.
 * @param {HTMLFormElement} form
 * @param {Fields} fields
 * @param {Set<string>} own
 */
function fill(form, fields, own) {
  for (const element of form.elements) {
    if (!isControl(element) || !KEPT.test(element.name) || own.has(element.name)) continue;
    const values = fields[element.name] ?? [];
    if (element instanceof HTMLInputElement && ["radio", "checkbox"].includes(element.type)) {
      element.checked = values.includes(element.value);
    } else element.value = values[0] ?? "";
  }
}

export class Draft {
  /**
   * @param {HTMLFormElement} form
   * @param {{ clock: import("./clock.js").Clock, onState: (state: DraftState) => void }} options
   */
  constructor(form, { clock, onState }) {
    this.form = form;
    this.clock = clock;
    this.onState = onState;
    this.open = true;
    this.timer = 0;
    /** @type {Kept | null} */
    this.draft = null;
    this.key = `tiebreak-draft-${data(form, "draftKey")}`;
    /** The fields that were changed before this script started. They take precedence over the draft. */
    this.early = changedNames(form);
    this.restore();
    this.leaving = () => void (this.timer && this.send());
    this.returning = () => void this.send();
    window.addEventListener("pagehide", this.leaving);
    window.addEventListener("online", this.returning);
  }

  /**
   * Stop saving, because another sheet is shown. Send the draft to the server unless the sheet was
   * sent.
   * @param {{ sent: boolean }} how
   */
  close({ sent }) {
    this.open = false;
    if (this.timer && !sent) this.send();
    clearTimeout(this.timer);
    this.timer = 0;
    window.removeEventListener("pagehide", this.leaving);
    window.removeEventListener("online", this.returning);
  }

  restore() {
    for (const key of Object.keys(localStorage)) {
      if (key.startsWith("tiebreak-draft-") && Date.now() - this.read(key).at > DAY) {
        localStorage.removeItem(key);
      }
    }
    const kept = this.read(this.key);
    if (kept.at > Number(this.form.dataset.draftAt || 0)) {
      fill(this.form, kept.fields, this.early);
      const seconds = control(this.form, "active_seconds");
      seconds.value = String(Math.max(Number(seconds.value) || 0, kept.active_seconds || 0));
    }
  }

  /**
   * @param {string} key
   * @returns {Kept}
   */
  read(key) {
    try {
      const kept = JSON.parse(localStorage.getItem(key) ?? "null");
      return kept && kept.fields && kept.at ? kept : { at: 0, fields: {} };
    } catch {
      return { at: 0, fields: {} };
    }
  }

  save() {
    this.draft = { at: Date.now(), fields: fieldsOf(this.form), active_seconds: this.clock.seconds };
    try {
      localStorage.setItem(this.key, JSON.stringify(this.draft));
    } catch {
      // Storage is full or blocked: the copy on the server remains.
    }
    clearTimeout(this.timer);
    if (this.form.dataset.draftUrl) this.timer = setTimeout(() => this.send(), WAIT);
  }

  /** Save fields that were changed before this script started. */
  saveEarly() {
    if (this.early.size) this.save();
  }

  async send() {
    clearTimeout(this.timer);
    this.timer = 0;
    if (!this.draft || !this.form.dataset.draftUrl) return;
    try {
      const response = await post(this.form, this.form.dataset.draftUrl, this.draft);
      this.report(response.ok ? "saved" : response.status === 409 ? await whyLost(response) : "unsaved");
    } catch {
      this.report("offline");
    }
  }

  /** @param {DraftState} state */
  report(state) {
    if (this.open) this.onState(state);
  }
}

/**
 * Return the reason why the reviewer no longer holds the task.
 * @param {Response} response
 * @returns {Promise<LostReason>}
 */
export async function whyLost(response) {
  const { reason } = await response.json().catch(() => ({}));
  return reason ?? "expired";
}

/**
 * @param {HTMLFormElement} form
 * @param {string} url
 * @param {object} body
 */
export function post(form, url, body) {
  return fetch(url, {
    method: "POST",
    keepalive: true,
    headers: {
      "Content-Type": "application/json",
      "X-CSRFToken": control(form, "csrfmiddlewaretoken").value,
    },
    body: JSON.stringify(body),
  });
}
