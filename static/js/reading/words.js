// A word-by-word diff of two texts. Pure functions with bounded running time for any input: words
// that occur once in both texts are the anchors (Bram Cohen's patience diff), and small regions
// between anchors are compared exactly, by their longest common subsequence.
export const MAX_WORDS = 20_000;
const MAX_CELLS = 400_000;
const MAX_STEPS = 3_000_000;
const ISLAND = 3;

const ONE_BY_ONE = "\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}";
const WORD = new RegExp(`[${ONE_BY_ONE}]\\p{M}*|(?:(?![${ONE_BY_ONE}])[\\p{L}\\p{M}\\p{N}_'’])+|\\S`, "gu");

/** @typedef {{ text: string, start: number, end: number }} Word */
/** @typedef {[number, number, number, number]} Region start and end in the left list, then in the right one */
/** @typedef {Int32Array} Mates for each word on the left, the index of its equal on the right, or -1 */

/**
 * Return the words of a text: runs of letters and digits, and every other character on its own.
 * @param {string} text
 * @returns {Word[]}
 */
export function wordsOf(text, atMost = MAX_WORDS) {
  const words = [];
  for (const match of text.matchAll(WORD)) {
    if (words.length >= atMost) break;
    words.push({ text: match[0], start: match.index, end: match.index + match[0].length });
  }
  return words;
}

/**
 * Compare two lists of strings. In the result, `left` and `right` hold for each word whether the
 * other list lacks it; `same` is the share of the longer list that both lists have.
 * @param {string[]} left
 * @param {string[]} right
 */
export function compare(left, right) {
  const mates = new Int32Array(left.length).fill(-1);
  /** @type {Region[]} */
  const todo = [[0, left.length, 0, right.length]];
  let steps = MAX_STEPS;
  for (let next = todo.pop(); next && steps > 0; next = todo.pop()) {
    const region = trimmed(left, right, next, mates);
    const [a, aEnd, b, bEnd] = region;
    steps -= aEnd - a + bEnd - b + 1;
    if (a === aEnd || b === bEnd) continue;
    if ((aEnd - a) * (bEnd - b) <= MAX_CELLS) exact(left, right, region, mates);
    else todo.push(...around(region, anchors(left, right, region), mates));
  }
  dropIslands(mates, right.length);
  /** @type {{ left: boolean[], right: boolean[] }} */
  const differs = { left: Array(left.length).fill(true), right: Array(right.length).fill(true) };
  let same = 0;
  mates.forEach((mate, at) => {
    if (mate < 0) return;
    differs.left[at] = differs.right[mate] = false;
    same += 1;
  });
  return { ...differs, same: same / Math.max(left.length, right.length, 1) };
}

/**
 * Match the common prefix and suffix of a region, and return the rest of the region.
 * @param {string[]} left
 * @param {string[]} right
 * @param {Region} region
 * @param {Mates} mates
 * @returns {Region}
 */
function trimmed(left, right, [a, aEnd, b, bEnd], mates) {
  while (a < aEnd && b < bEnd && left[a] === right[b]) mates[a++] = b++;
  while (a < aEnd && b < bEnd && left[aEnd - 1] === right[bEnd - 1]) mates[--aEnd] = --bEnd;
  return [a, aEnd, b, bEnd];
}

/**
 * Match a small region by its longest common subsequence.
 * @param {string[]} left
 * @param {string[]} right
 * @param {Region} region
 * @param {Mates} mates
 */
function exact(left, right, [a, aEnd, b, bEnd], mates) {
  const width = bEnd - b + 1;
  const best = new Uint16Array((aEnd - a + 1) * width);
  for (let i = aEnd - 1; i >= a; i--) {
    for (let j = bEnd - 1; j >= b; j--) {
      const at = (i - a) * width + (j - b);
      best[at] = left[i] === right[j] ? best[at + width + 1] + 1 : Math.max(best[at + width], best[at + 1]);
    }
  }
  for (let i = a, j = b; i < aEnd && j < bEnd; ) {
    const at = (i - a) * width + (j - b);
    if (left[i] === right[j]) mates[i++] = j++;
    else if (best[at + width] >= best[at + 1]) i++;
    else j++;
  }
}

/** @typedef {{ pair: [number, number], before: Pile | undefined }} Pile */

/**
 * Return pairs of indexes of words that occur once on both sides, in an order that both sides share.
 * @param {string[]} left
 * @param {string[]} right
 * @param {Region} region
 */
function anchors(left, right, [a, aEnd, b, bEnd]) {
  /** @type {Map<string, [number, number] | null>} */
  const indexes = new Map();
  for (let i = a; i < aEnd; i++) indexes.set(left[i], indexes.has(left[i]) ? null : [i, -1]);
  for (let j = b; j < bEnd; j++) {
    const pair = indexes.get(right[j]);
    if (pair) pair[1] = pair[1] === -1 ? j : -2;
  }
  const pairs = [...indexes.values()].filter((pair) => pair !== null).filter((pair) => pair[1] >= 0);
  /** @type {Pile[]} */
  const piles = [];
  for (const pair of pairs) {
    let low = 0;
    let high = piles.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (piles[middle].pair[1] < pair[1]) low = middle + 1;
      else high = middle;
    }
    piles[low] = { pair, before: piles[low - 1] };
  }
  /** @type {[number, number][]} */
  const chain = [];
  for (let pile = piles.at(-1); pile; pile = pile.before) chain.push(pile.pair);
  return chain.reverse();
}

/**
 * Match the anchors, and return the regions around them.
 * @param {Region} region
 * @param {[number, number][]} chain
 * @param {Mates} mates
 */
function around([a, aEnd, b, bEnd], chain, mates) {
  /** @type {Region[]} */
  const gaps = [];
  for (const [i, j] of chain) {
    mates[i] = j;
    gaps.push([a, i, b, j]);
    a = i + 1;
    b = j + 1;
  }
  if (chain.length) gaps.push([a, aEnd, b, bEnd]);
  return gaps;
}

/** @typedef {{ start: number, end: number }} Run */

/**
 * Drop matches of one or two words inside longer differences: they are coincidences.
 * @param {Mates} mates
 * @param {number} rightLength
 */
function dropIslands(mates, rightLength) {
  /** @type {Run[]} */
  const runs = [];
  for (let i = 0; i < mates.length; i++) {
    if (mates[i] < 0) continue;
    const last = runs.at(-1);
    if (last && last.end === i && mates[i] === mates[i - 1] + 1) last.end = i + 1;
    else runs.push({ start: i, end: i + 1 });
  }
  /** @type {(before: Run | undefined, after: Run | undefined) => number} */
  const gap = (before, after) => {
    const leftGap = (after?.start ?? mates.length) - (before?.end ?? 0);
    const rightGap = (after ? mates[after.start] : rightLength) - (before ? mates[before.end - 1] + 1 : 0);
    return Math.max(leftGap, rightGap);
  };
  const islands = runs.filter((run, at) => {
    const size = run.end - run.start;
    return size < ISLAND && gap(runs[at - 1], run) > 2 * size && gap(run, runs[at + 1]) > 2 * size;
  });
  for (const { start, end } of islands) mates.fill(-1, start, end);
}
