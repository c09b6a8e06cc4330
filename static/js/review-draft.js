// What a reviewer typed is kept twice: in this browser at once, on the server a moment later.
const DAY = 24 * 3600 * 1000;
const WAIT = 800;
const KEPT = /^(rank|rating|flag)-|^cut$|^rationale$|^strength$/;

function fieldsOf(form) {
  const fields = {};
  for (const [name, value] of new FormData(form)) {
    if (KEPT.test(name)) (fields[name] ??= []).push(value);
  }
  return fields;
}

function fill(form, fields) {
  for (const control of form.elements) {
    if (!KEPT.test(control.name)) continue;
    const values = fields[control.name] ?? [];
    if (control.type === "radio" || control.type === "checkbox") {
      control.checked = values.includes(control.value);
    } else control.value = values[0] ?? "";
  }
}

export class Draft {
  constructor(form, { clock, onState }) {
    Object.assign(this, { form, clock, onState, timer: null, open: true });
    this.key = `tiebreak-draft-${form.dataset.draftKey}`;
    this.restore();
    this.leaving = () => this.timer && this.send();
    this.returning = () => this.send();
    window.addEventListener("pagehide", this.leaving);
    window.addEventListener("online", this.returning);
  }

  /** Another sheet is shown: what is kept stays kept; the draft of a sheet that was not sent goes to the server. */
  close({ sent }) {
    this.open = false;
    if (this.timer && !sent) this.send();
    clearTimeout(this.timer);
    this.timer = null;
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
      fill(this.form, kept.fields);
      const seconds = Math.max(Number(this.form.elements.active_seconds.value) || 0, kept.active_seconds || 0);
      this.form.elements.active_seconds.value = seconds;
    }
  }

  read(key) {
    try {
      const kept = JSON.parse(localStorage.getItem(key));
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
      // A full or forbidden store: the server's copy remains.
    }
    clearTimeout(this.timer);
    if (this.form.dataset.draftUrl) this.timer = setTimeout(() => this.send(), WAIT);
  }

  async send() {
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.draft || !this.form.dataset.draftUrl) return;
    try {
      const answer = await post(this.form, this.form.dataset.draftUrl, this.draft);
      this.tell(answer.ok ? "saved" : answer.status === 409 ? await whyLost(answer) : "unsaved");
    } catch {
      this.tell("offline");
    }
  }

  tell(name) {
    if (this.open) this.onState(name);
  }
}

/** Why the reviewer no longer holds the task: ranked, skipped or expired. */
export async function whyLost(answer) {
  const { reason } = await answer.json().catch(() => ({}));
  return reason ?? "expired";
}

export function post(form, url, body) {
  return fetch(url, {
    method: "POST",
    keepalive: true,
    headers: {
      "Content-Type": "application/json",
      "X-CSRFToken": form.elements.csrfmiddlewaretoken.value,
    },
    body: JSON.stringify(body),
  });
}
