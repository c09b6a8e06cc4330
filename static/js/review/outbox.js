// Submitted rankings that have not reached the server yet. They are kept in this browser until the
// server answers. Their idempotency keys make it safe to send them again.
import { control, data } from "../dom.js";

const PREFIX = "tiebreak-outbox";
const PATIENCE = 20_000;

/**
 * A ranking that was submitted.
 * @typedef {object} Entry
 * @property {string} name  its key in localStorage
 * @property {string | undefined} slot
 * @property {string} body  the form, as it is sent
 * @property {number} at  when it was submitted, in ms
 * @property {string} draft  the key of its draft
 * @property {boolean} [refused]  the server rejected it for good
 */

/** @typedef {"offline" | "unanswered" | "signed-out"} Trouble */
/** @typedef {{ progress?: string, csrf: string }} BarReply */

/**
 * The reply to a stored ranking. `sheet` is the next sheet as HTML; `go` is a page to read first.
 * @typedef {BarReply & { go?: string, message?: string, undo?: string | null, sheet?: string | null, confirm?: boolean }} SentReply
 */

/**
 * The outcome of sending an entry.
 * @typedef {{ kind: "sent", reply: SentReply }
 *   | { kind: "refused", reply: { sheet: string } }
 *   | { kind: "rejected" }
 *   | { kind: Trouble }} Outcome
 */

/**
 * Return the reason to send an entry again; null once the server has accepted or refused it.
 * @param {Outcome} outcome
 */
export const troubleOf = ({ kind }) =>
  kind === "offline" || kind === "unanswered" || kind === "signed-out" ? kind : null;

/** Return a random version 4 UUID. (crypto.randomUUID exists on secure pages only.) */
export function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export class Outbox {
  /** @param {HTMLElement} root  its data attributes name the outbox and the addresses */
  constructor(root) {
    this.reviewUrl = data(root, "reviewUrl");
    this.nextUrl = data(root, "nextUrl");
    this.prefix = `${PREFIX}/${data(root, "outbox")}/`;
    /** @type {Map<string, Entry>} */
    this.memory = new Map();
  }

  /** Return the entries, oldest first. */
  entries() {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix));
    const kept = names.map((name) => this.read(name)).filter((entry) => entry !== null);
    return [...kept, ...this.memory.values()].sort((a, b) => a.at - b.at);
  }

  waiting() {
    return this.entries().filter((entry) => !entry.refused);
  }

  /**
   * Return a stored entry; null if it is damaged, or another tab has just removed it.
   * @param {string} name
   * @returns {Entry | null}
   */
  read(name) {
    try {
      const entry = JSON.parse(localStorage.getItem(name) ?? "null");
      return typeof entry?.body === "string" ? { ...entry, name } : null;
    } catch {
      return null;
    }
  }

  /** @param {HTMLFormElement} form */
  add(form) {
    const body = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (name !== "csrfmiddlewaretoken") body.append(name, String(value));
    }
    const key = control(form, "idempotency_key").value;
    const at = Date.now();
    /** @type {Entry} */
    const entry = {
      name: `${this.prefix}${at}-${key}`, slot: form.dataset.slot, body: String(body), at, draft: data(form, "draftKey"),
    };
    this.keep(entry);
    return entry;
  }

  /** @param {Entry} entry */
  keep(entry) {
    try {
      localStorage.setItem(entry.name, JSON.stringify(entry));
    } catch {
      this.memory.set(entry.name, entry); // Storage is full or blocked: kept while the page is open.
    }
  }

  /** @param {Entry} entry */
  has(entry) {
    return this.memory.has(entry.name) || localStorage.getItem(entry.name) !== null;
  }

  /** @param {Entry} entry */
  remove(entry) {
    this.memory.delete(entry.name);
    localStorage.removeItem(entry.name);
  }

  /**
   * Send an entry; `shown` is the slot of the sheet on the page.
   * @param {Entry} entry
   * @param {string} shown
   * @param {string} token
   * @returns {Promise<Outcome>}
   */
  async send(entry, shown, token) {
    let response = await this.post(entry, shown, token);
    if (response?.status === 403) {
      const fresh = await this.freshToken();
      if ("kind" in fresh) return fresh;
      response = await this.post(entry, shown, fresh.token);
    }
    if (!response) return { kind: "offline" };
    if (response.redirected) return { kind: "signed-out" };
    if (response.status >= 500 || response.status === 429) return { kind: "unanswered" };
    const reply = await response.json().catch(() => null);
    if (response.ok && reply) return { kind: "sent", reply };
    return response.status === 422 && reply?.sheet ? { kind: "refused", reply } : { kind: "rejected" };
  }

  /**
   * Post an entry and return the response; null without a network.
   * @param {Entry} entry
   * @param {string} shown
   * @param {string} token
   */
  async post(entry, shown, token) {
    try {
      return await fetch(this.reviewUrl, {
        method: "POST",
        keepalive: entry.body.length < 50_000,
        signal: AbortSignal.timeout(PATIENCE),
        headers: {
          Accept: "application/json",
          "Content-Type": "application/x-www-form-urlencoded",
          "X-CSRFToken": token,
        },
        body: `${entry.body}&shown=${shown}`,
      });
    } catch {
      return null;
    }
  }

  /** @returns {Promise<{ token: string } | { kind: Trouble }>} */
  async freshToken() {
    try {
      const response = await fetch(this.nextUrl, { signal: AbortSignal.timeout(PATIENCE) });
      const token = response.headers.get("X-CSRFToken");
      return token ? { token } : { kind: "signed-out" };
    } catch {
      return { kind: "offline" };
    }
  }
}
