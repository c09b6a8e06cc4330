// The ladder: tiers from best to worst, the line, and the tray of responses not placed yet. Chips are
// reused between paints, to keep focus and drags.
import { LINE, placed } from "../order.js";
import { fill } from "./words.js";

/** @typedef {import("../order.js").Id} Id */
/** @typedef {import("../order.js").Row} Row */

/**
 * The actions of chips and drops.
 * @typedef {object} LadderVerbs
 * @property {(id: Id) => void} select
 * @property {(id: Id, tied: boolean) => void} pick
 * @property {(id: Id, mate: Id) => void} drop
 * @property {(id: Id, index: number) => void} dropBefore
 * @property {(id: Id) => void} unplace
 */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} className
 * @param {...(Node | string)} children
 */
function element(tag, className, ...children) {
  const created = document.createElement(tag);
  created.className = className;
  created.append(...children);
  return created;
}

export class Ladder {
  /**
   * @param {HTMLElement} root
   * @param {{ letterOf: (id: Id) => string, ids: Id[], verbs: LadderVerbs }} options
   */
  constructor(root, { letterOf, ids, verbs }) {
    this.root = root;
    this.letterOf = letterOf;
    this.ids = ids;
    this.verbs = verbs;
    /** @type {Id | null} */
    this.dragged = null;
    this.chips = new Map([...ids, LINE].map((id) => [id, this.makeChip(id)]));
  }

  /** @param {Id} id */
  chip(id) {
    const chip = this.chips.get(id);
    if (!chip) throw new RangeError(`The ladder has no chip ${id}.`);
    return chip;
  }

  /** @param {Id} id */
  makeChip(id) {
    const chip = element("button", id === LINE ? "chip chip-line" : "chip", id === LINE ? gettext("unacceptable below") : this.letterOf(id));
    chip.type = "button";
    chip.draggable = true;
    chip.addEventListener("click", (event) => {
      if (id === LINE) this.verbs.select(id);
      else this.verbs.pick(id, event.shiftKey);
      if (event.detail > 0) chip.blur();
    });
    chip.addEventListener("dragstart", (event) => {
      event.dataTransfer?.setData("text/plain", id);
      if (event.dataTransfer) event.dataTransfer.effectAllowed = "move";
      this.dragged = id;
      requestAnimationFrame(() => this.root.classList.add("dragging"));
    });
    chip.addEventListener("dragend", () => {
      this.dragged = null; // a drag that ended elsewhere; a later one from another window is not ours
      this.root.classList.remove("dragging");
      chip.blur(); // so that Enter submits
    });
    return chip;
  }

  /**
   * Let chips be dropped on an item.
   * @param {HTMLElement} item
   * @param {(id: Id) => void} onDrop
   */
  target(item, onDrop) {
    item.addEventListener("dragover", (event) => {
      if (!this.dragged) return;
      event.preventDefault();
      item.classList.add("over");
    });
    item.addEventListener("dragleave", () => item.classList.remove("over"));
    item.addEventListener("drop", (event) => {
      event.preventDefault();
      this.root.classList.remove("dragging");
      const id = this.dragged;
      this.dragged = null;
      if (id) onDrop(id);
    });
    return item;
  }

  /** @param {number} index  of the row after the gap */
  gap(index) {
    const item = element("li", "ladder-gap");
    item.setAttribute("aria-hidden", "true");
    return this.target(item, (id) => this.verbs.dropBefore(id, index));
  }

  /**
   * @param {import("../order.js").Tier} row
   * @param {number} rank
   */
  tier(row, rank) {
    const number = element("span", "ladder-rank", String(rank));
    const item = element("li", "ladder-tier", number, ...row.map((id) => this.chip(id)));
    const label = row.length > 1 ? gettext("Rank %(rank)s, tied") : gettext("Rank %(rank)s");
    item.setAttribute("aria-label", fill(label, { rank }));
    return this.target(item, (id) => {
      if (id === LINE) return;
      const mate = row.find((other) => other !== id);
      if (mate) this.verbs.drop(id, mate);
    });
  }

  /** @param {Id[]} rest */
  tray(rest) {
    const label = element("span", "ladder-label", gettext("Not placed"));
    const item = element("li", "ladder-tray", label, ...rest.map((id) => this.chip(id)));
    return this.target(item, (id) => this.verbs.unplace(id));
  }

  /** @param {{ rows: Row[], selected: Id | null, tieNext: boolean }} state */
  paint({ rows, selected, tieNext }) {
    const focused = [...this.chips.values()].find((chip) => chip === document.activeElement);
    /** @type {HTMLElement[]} */
    const items = [this.gap(0)];
    let rank = 0;
    rows.forEach((row, index) => {
      items.push(row === LINE ? element("li", "ladder-line", this.chip(LINE)) : this.tier(row, ++rank));
      items.push(this.gap(index + 1));
    });
    const done = new Set(placed(rows));
    const rest = this.ids.filter((id) => !done.has(id));
    if (rest.length) items.push(this.tray(rest));
    this.root.replaceChildren(...items);
    this.root.classList.toggle("ladder-tie-next", tieNext);
    for (const [id, chip] of this.chips) chip.setAttribute("aria-pressed", String(selected === id));
    focused?.focus({ preventScroll: true });
  }
}
