// What a reviewer typed is kept twice: in this browser at once, on the server a moment later.
const DAY = 24 * 3600 * 1000;
const WAIT = 800;
const KEPT = /^(rank|rating|flag)-|^cut$|^rationale$/;

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
    Object.assign(this, { form, clock, onState, timer: null });
    this.key = `tiebreak-draft-${form.dataset.draftKey}`;
    this.restore();
    window.addEventListener("pagehide", () => this.timer && this.send());
    window.addEventListener("online", () => this.send());
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
      this.clock.seconds = Math.max(this.clock.seconds, kept.active_seconds || 0);
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
      this.onState(answer.ok ? "saved" : answer.status === 409 ? "lost" : "unsaved");
    } catch {
      this.onState("offline");
    }
  }
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
