// The ladder: the tiers from best to worst, the line, and the tray of what is not placed yet.
// Chips are kept between paints, so that focus and a drag survive them.
import { LINE, placed } from "./order.js";
import { fill } from "./review-words.js";

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

export class Ladder {
  constructor(root, { letterOf, ids, verbs }) {
    Object.assign(this, { root, letterOf, ids, verbs, chips: new Map() });
    for (const id of [...ids, LINE]) this.chips.set(id, this.makeChip(id));
  }

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
      event.dataTransfer.setData("text/plain", id);
      event.dataTransfer.effectAllowed = "move";
      this.dragged = id;
      requestAnimationFrame(() => this.root.classList.add("dragging"));
    });
    chip.addEventListener("dragend", () => {
      this.root.classList.remove("dragging");
      chip.blur(); // so that Enter submits
    });
    return chip;
  }

  target(made, onDrop) {
    made.addEventListener("dragover", (event) => {
      if (!this.dragged) return;
      event.preventDefault();
      made.classList.add("over");
    });
    made.addEventListener("dragleave", () => made.classList.remove("over"));
    made.addEventListener("drop", (event) => {
      event.preventDefault();
      this.root.classList.remove("dragging");
      const id = this.dragged;
      this.dragged = null;
      onDrop(id);
    });
    return made;
  }

  gap(at) {
    const made = element("li", "ladder-gap");
    made.setAttribute("aria-hidden", "true");
    return this.target(made, (id) => this.verbs.dropBefore(id, at));
  }

  tier(row, rank) {
    const number = element("span", "ladder-rank", String(rank));
    const made = element("li", "ladder-tier", number, ...row.map((id) => this.chips.get(id)));
    const label = row.length > 1 ? gettext("Rank %(rank)s, tied") : gettext("Rank %(rank)s");
    made.setAttribute("aria-label", fill(label, { rank }));
    return this.target(made, (id) => {
      if (id === LINE) return;
      const mate = row.find((other) => other !== id);
      if (mate) this.verbs.drop(id, mate);
    });
  }

  tray(rest) {
    const label = element("span", "ladder-label", gettext("Not placed"));
    const made = element("li", "ladder-tray", label, ...rest.map((id) => this.chips.get(id)));
    return this.target(made, (id) => this.verbs.takeBack(id));
  }

  paint({ rows, selected, tieNext }) {
    const focused = [...this.chips.values()].find((chip) => chip === document.activeElement);
    const items = [this.gap(0)];
    let rank = 0;
    rows.forEach((row, at) => {
      items.push(row === LINE ? element("li", "ladder-line", this.chips.get(LINE)) : this.tier(row, ++rank));
      items.push(this.gap(at + 1));
    });
    const done = new Set(placed(rows));
    const rest = this.ids.filter((id) => !done.has(id));
    if (rest.length) items.push(this.tray(rest));
    this.root.replaceChildren(...items);
    this.root.classList.toggle("ladder-tie-next", tieNext);
    for (const [id, chip] of this.chips) chip.setAttribute("aria-pressed", selected === id);
    focused?.focus({ preventScroll: true });
  }
}
