// What the reviewer has to know beside the sheet: what waits to be sent, what became of something
// sent earlier, and that the last one can still be taken back.
import { fill } from "./review-words.js";

const WHY = {
  offline: () => gettext("There is no network."),
  unanswered: () => gettext("The server does not answer."),
  "signed-out": () => gettext("You are signed out."),
};

function button(text, onClick) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", className: "button button-small", textContent: text });
  made.addEventListener("click", onClick);
  return made;
}

function line(...parts) {
  const made = document.createElement("p");
  made.append(...parts.flatMap((part) => [part, " "]));
  return made;
}

export class Notes {
  constructor(root) {
    Object.assign(this, { root, messages: [] });
  }

  tell(message) {
    this.messages.push(message);
  }

  /** `trouble` is why the last try failed, or null. */
  paint({ outbox, trouble, retry }) {
    const waiting = outbox.waiting();
    const lines = this.messages.map((message) => this.message(message, () => this.paint({ outbox, trouble, retry })));
    if (trouble && waiting.length) lines.unshift(this.pending(waiting.length, trouble, retry));
    for (const entry of outbox.entries().filter((one) => one.refused)) {
      lines.push(this.rejected(entry, outbox, () => this.paint({ outbox, trouble, retry })));
    }
    this.root.replaceChildren(...lines);
    this.root.hidden = !lines.length;
  }

  message(message, again) {
    const close = () => {
      this.messages = this.messages.filter((other) => other !== message);
      again();
    };
    return line(message, button(gettext("All right"), close));
  }

  pending(count, trouble, retry) {
    const text = ngettext(
      "%(count)s ranking is kept in this browser and waits to be sent. Keep working; it goes out by itself.",
      "%(count)s rankings are kept in this browser and wait to be sent. Keep working; they go out by themselves.",
      count,
    );
    const words = `${WHY[trouble]()} ${fill(text, { count })}`;
    if (trouble !== "signed-out") return line(words, button(gettext("Try now"), retry));
    const link = document.createElement("a");
    link.href = `/login/?next=${encodeURIComponent(this.root.dataset.reviewUrl)}`;
    link.textContent = gettext("Sign in");
    return line(words, link);
  }

  rejected(entry, outbox, again) {
    const at = new Date(entry.at).toLocaleString();
    const text = fill(gettext("The ranking you sent %(at)s was not taken: its task or your place in the project is gone."), { at });
    const drop = () => {
      outbox.remove(entry);
      again();
    };
    return line(text, button(gettext("Throw it away"), drop));
  }
}
