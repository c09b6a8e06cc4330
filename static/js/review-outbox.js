// What was submitted and has not reached the server yet. It lies in this browser, under the key that
// makes sending it twice the same as once, until the server has said what became of it.
const PREFIX = "tiebreak-outbox";
const PATIENCE = 20_000;

/** A random version 4 UUID; crypto.randomUUID exists on secure pages only. */
export function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export class Outbox {
  constructor({ scope, reviewUrl, nextUrl }) {
    Object.assign(this, { reviewUrl, nextUrl, prefix: `${PREFIX}/${scope}/`, memory: new Map() });
  }

  /** Oldest first. */
  entries() {
    const kept = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix)).map((name) => this.read(name));
    return [...kept.filter(Boolean), ...this.memory.values()].sort((a, b) => a.at - b.at);
  }

  waiting() {
    return this.entries().filter((entry) => !entry.refused);
  }

  read(name) {
    try {
      return { ...JSON.parse(localStorage.getItem(name)), name };
    } catch {
      return null;
    }
  }

  add(form) {
    const body = new URLSearchParams(new FormData(form));
    body.delete("csrfmiddlewaretoken");
    const key = form.elements.idempotency_key.value;
    const entry = { slot: form.dataset.slot, body: String(body), at: Date.now(), draft: form.dataset.draftKey };
    entry.name = `${this.prefix}${entry.at}-${key}`;
    this.keep(entry);
    return entry;
  }

  keep(entry) {
    try {
      localStorage.setItem(entry.name, JSON.stringify(entry));
    } catch {
      this.memory.set(entry.name, entry); // A full or forbidden store: at least as long as the page lives.
    }
  }

  has(entry) {
    return this.memory.has(entry.name) || localStorage.getItem(entry.name) !== null;
  }

  remove(entry) {
    this.memory.delete(entry.name);
    localStorage.removeItem(entry.name);
  }

  /** What became of it: sent, refused (with a reply), rejected, signed-out, offline or unanswered. */
  async send(entry, shown, token) {
    let answer = await this.post(entry, shown, token);
    if (answer.status === 403) {
      const fresh = await this.freshToken();
      if (fresh.kind) return fresh;
      answer = await this.post(entry, shown, fresh.token);
    }
    if (answer.kind) return answer;
    if (answer.redirected) return { kind: "signed-out" };
    if (answer.status >= 500 || answer.status === 429) return { kind: "unanswered" };
    const reply = await answer.json().catch(() => null);
    if (answer.ok && reply) return { kind: "sent", reply };
    return answer.status === 422 && reply?.sheet ? { kind: "refused", reply } : { kind: "rejected", reply };
  }

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
      return { kind: "offline" };
    }
  }

  async freshToken() {
    try {
      const answer = await fetch(this.nextUrl, { signal: AbortSignal.timeout(PATIENCE) });
      const token = answer.headers.get("X-CSRFToken");
      return token ? { token } : { kind: "signed-out" };
    } catch {
      return { kind: "offline" };
    }
  }
}
