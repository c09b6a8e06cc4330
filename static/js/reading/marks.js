// Mark the words of one response that another lacks. Marks are elements around text, so that they can
// be underlined and announced by screen readers; removing them restores the text.
import { MAX_WORDS, compare, wordsOf } from "./words.js";

const MAX_MARKS = 3_000;

/** @typedef {import("./words.js").Word & { node: Text }} PlacedWord */
/** @typedef {{ node: Text, start: number, end: number }} Range */

/** @param {Node} root */
function textNodes(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  /** @type {Text[]} */
  const nodes = [];
  while (walker.nextNode()) if (walker.currentNode instanceof Text) nodes.push(walker.currentNode);
  return nodes;
}

/**
 * Return the words of an element, each with its text node; at most MAX_WORDS.
 * @param {Node} root
 */
function wordsIn(root) {
  /** @type {PlacedWord[]} */
  const words = [];
  for (const node of textNodes(root)) {
    const room = MAX_WORDS - words.length;
    if (room <= 0) break;
    for (const word of wordsOf(node.data, room)) words.push({ ...word, node });
  }
  return words;
}

/**
 * Return the ranges to mark. Adjacent words share a mark if only blanks separate them.
 * @param {PlacedWord[]} words
 * @param {boolean[]} differs
 */
function ranges(words, differs) {
  /** @type {(Range & { last: number })[]} */
  const stretches = [];
  words.forEach((word, index) => {
    if (!differs[index]) return;
    const previous = stretches.at(-1);
    if (previous && previous.last === index - 1 && previous.node === word.node) {
      Object.assign(previous, { last: index, end: word.end });
    } else stretches.push({ node: word.node, start: word.start, end: word.end, last: index });
  });
  return stretches.slice(0, MAX_MARKS);
}

/** @param {Range} range */
function wrap({ node, start, end }) {
  const middle = node.splitText(start);
  middle.splitText(end - start);
  const mark = document.createElement("mark");
  mark.className = "differs";
  middle.replaceWith(mark);
  mark.append(middle);
}

/** @param {ParentNode} root */
export function unmark(root) {
  for (const mark of root.querySelectorAll("mark.differs")) {
    const parent = mark.parentNode;
    mark.replaceWith(...mark.childNodes);
    parent?.normalize();
  }
}

/**
 * Mark both texts, and return the number of words that differ in each and the share that is the same.
 * @param {Node} left
 * @param {Node} right
 */
export function markDifferences(left, right) {
  const words = { left: wordsIn(left), right: wordsIn(right) };
  const differs = compare(words.left.map((word) => word.text), words.right.map((word) => word.text));
  for (const side of /** @type {const} */ (["left", "right"])) {
    // Backwards: splitting a text node does not move the text before the split.
    for (const range of ranges(words[side], differs[side]).reverse()) wrap(range);
  }
  return {
    left: differs.left.filter(Boolean).length,
    right: differs.right.filter(Boolean).length,
    same: differs.same,
    cut: Math.max(words.left.length, words.right.length) >= MAX_WORDS,
  };
}
