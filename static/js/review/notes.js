// Notes above the sheet: rankings waiting to be sent, refused rankings, and messages of the server.
import { data } from "../dom.js";
import { fill } from "./words.js";

/** @typedef {import("./outbox.js").Entry} Entry */
/** @typedef {import("./outbox.js").Outbox} Outbox */
/** @typedef {import("./outbox.js").Trouble} Trouble */
/** @typedef {{ outbox: Outbox, trouble: Trouble | null, retry: () => void }} State */

/** @type {Record<Trouble, () => string>} */
const WHY = {
  offline: () => gettext("There is no network."),
  unanswered: () => gettext("The server does not answer."),
  "signed-out": () => gettext("You are signed out."),
};

/**
 * @param {string} text
 * @param {() => void} onClick
 */
function button(text, onClick) {
  const created = document.createElement("button");
  Object.assign(created, { type: "button", className: "button button-small", textContent: text });
  created.addEventListener("click", onClick);
  return created;
}

/** @param {...(Node | string)} parts */
function line(...parts) {
  const paragraph = document.createElement("p");
  paragraph.append(...parts.flatMap((part) => [part, " "]));
  return paragraph;
}

export class Notes {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    /** @type {string[]} */
    this.messages = [];
  }

  /** @param {string} message */
  add(message) {
    this.messages.push(message);
  }

  /**
   * Show the notes. `trouble` is the reason why the last attempt failed, or null.
   * @param {State} state
   */
  paint(state) {
    const { outbox, trouble, retry } = state;
    const repaint = () => this.paint(state);
    const waiting = outbox.waiting();
    const lines = this.messages.map((message) => this.message(message, repaint));
    if (trouble && waiting.length) lines.unshift(this.pending(waiting.length, trouble, retry));
    for (const entry of outbox.entries().filter(({ refused }) => refused)) {
      lines.push(this.rejected(entry, outbox, repaint));
    }
    this.root.replaceChildren(...lines);
    this.root.hidden = !lines.length;
  }

  /**
   * @param {string} message
   * @param {() => void} repaint
   */
  message(message, repaint) {
    const close = () => {
      this.messages = this.messages.filter((other) => other !== message);
      repaint();
    };
    return line(message, button(gettext("OK"), close));
  }

  /**
   * @param {number} count
   * @param {Trouble} trouble
   * @param {() => void} retry
   */
  pending(count, trouble, retry) {
    const text = ngettext(
      "%(count)s ranking is kept in this browser. Keep working; it is sent automatically.",
      "%(count)s rankings are kept in this browser. Keep working; they are sent automatically.",
      count,
    );
    const words = `${WHY[trouble]()} ${fill(text, { count })}`;
    if (trouble !== "signed-out") return line(words, button(gettext("Try now"), retry));
    const link = document.createElement("a");
    link.href = `${data(this.root, "loginUrl")}?next=${encodeURIComponent(data(this.root, "reviewUrl"))}`;
    link.textContent = gettext("Sign in");
    return line(words, link);
  }

  /**
   * @param {Entry} entry
   * @param {Outbox} outbox
   * @param {() => void} repaint
   */
  rejected(entry, outbox, repaint) {
    const at = new Date(entry.at).toLocaleString();
    const text = fill(gettext("The ranking you sent on %(at)s was refused: its task was removed, or you are no longer a member of the project."), { at });
    const drop = () => {
      outbox.remove(entry);
      repaint();
    };
    return line(text, button(gettext("Discard"), drop));
  }
}
