// Marks in what is shown the words that another response has not. Marks are elements around text,
// so that an underline and a screen reader can tell them; taking them away restores the text.
import { WORDS_AT_MOST, compare, wordsOf } from "./reading-words.js";

const MARKS_AT_MOST = 3_000;

function textNodes(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) found.push(walker.currentNode);
  return found;
}

/** The words of an element, each with its text node; at most WORDS_AT_MOST. */
function wordsIn(root) {
  const found = [];
  for (const node of textNodes(root)) {
    const room = WORDS_AT_MOST - found.length;
    if (room <= 0) break;
    for (const word of wordsOf(node.data, room)) found.push({ ...word, node });
  }
  return found;
}

/** Neighbours that differ share a mark when nothing but blanks lies between them. */
function ranges(words, differs) {
  const found = [];
  words.forEach((word, at) => {
    if (!differs[at]) return;
    const last = found.at(-1);
    if (last && last.at === at - 1 && last.node === word.node) Object.assign(last, { at, end: word.end });
    else found.push({ node: word.node, start: word.start, end: word.end, at });
  });
  return found.slice(0, MARKS_AT_MOST);
}

function wrap({ node, start, end }) {
  const middle = node.splitText(start);
  middle.splitText(end - start);
  const mark = document.createElement("mark");
  mark.className = "differs";
  middle.replaceWith(mark);
  mark.append(middle);
}

export function unmark(root) {
  for (const mark of root.querySelectorAll("mark.differs")) {
    const parent = mark.parentNode;
    mark.replaceWith(...mark.childNodes);
    parent.normalize();
  }
}

/** Marks both, and says how many words differ in each and which share is the same. */
export function markDifferences(left, right) {
  const words = { left: wordsIn(left), right: wordsIn(right) };
  const texts = (side) => words[side].map((word) => word.text);
  const differs = compare(texts("left"), texts("right"));
  const count = {};
  for (const side of ["left", "right"]) {
    // From the end on: splitting a text node leaves what lies before it in place.
    for (const range of ranges(words[side], differs[side]).reverse()) wrap(range);
    count[side] = differs[side].filter(Boolean).length;
  }
  return { ...count, same: differs.same, cut: Math.max(words.left.length, words.right.length) >= WORDS_AT_MOST };
}
