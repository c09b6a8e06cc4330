// A weak order as rows, best first: each row is a tier (a list of response ids) or the LINE below
// which everything is unacceptable. The functions take rows and return new rows.
export const LINE = "line";

/** @typedef {string[]} Tier response ids */
/** @typedef {Tier | typeof LINE} Row */
/** @typedef {string} Id a response id, or LINE */

/** @type {(row: Row) => row is Tier} */
const isTier = (row) => row !== LINE;
/** @param {Row[]} rows */
export const tiersOf = (rows) => rows.filter(isTier);
/** @param {Row[]} rows */
export const placed = (rows) => tiersOf(rows).flat();

/**
 * Return the index of the row that holds `id`, or -1.
 * @param {Row[]} rows
 * @param {Id | null} id
 */
export const rowOf = (rows, id) =>
  id === LINE ? rows.indexOf(LINE) : rows.findIndex((row) => isTier(row) && id !== null && row.includes(id));

/**
 * Return the tier that holds a placed response.
 * @param {Row[]} rows
 * @param {Id} id
 * @returns {Tier}
 */
export const tierOf = (rows, id) => tiersOf(rows).find((tier) => tier.includes(id)) ?? [];

/**
 * @param {Row[]} rows
 * @param {Id} id
 * @returns {Row[]}
 */
export function without(rows, id) {
  if (id === LINE) return rows.filter(isTier);
  return rows
    .map((row) => (isTier(row) ? row.filter((other) => other !== id) : row))
    .filter((row) => row.length > 0);
}

/**
 * Put a response into a tier of its own, after all others.
 * @param {Row[]} rows
 * @param {Id} id
 * @returns {Row[]}
 */
export function place(rows, id) {
  return [...without(rows, id), [id]];
}

/**
 * Put `id` into the tier of `other`, or into the last tier, or into a new tier if there is none.
 * @param {Row[]} rows
 * @param {Id} id
 * @param {Id | null} other
 * @returns {Row[]}
 */
export function tie(rows, id, other) {
  const rest = without(rows, id);
  const mate = other !== null && other !== LINE && rowOf(rest, other) >= 0 ? other : placed(rest).at(-1);
  if (mate === undefined) return [...rest, [id]];
  return rest.map((row) => (isTier(row) && row.includes(mate) ? [...row, id] : row));
}

/**
 * Move one step better (-1) or worse (+1): out of a tie, across the line, or into the next tier, or
 * past that tier if ties are not allowed.
 * @param {Row[]} rows
 * @param {Id} id
 * @param {-1 | 1} step
 * @param {boolean} [ties]
 * @returns {Row[]}
 */
export function move(rows, id, step, ties = true) {
  const at = rowOf(rows, id);
  const row = rows[at];
  if (at < 0) return rows;
  if (isTier(row) && row.length > 1) {
    const rest = rows.map((other) => (other === row ? row.filter((member) => member !== id) : other));
    rest.splice(step < 0 ? at : at + 1, 0, [id]);
    return rest;
  }
  const next = rows[at + step];
  if (next === undefined) return rows;
  if (ties && isTier(row) && isTier(next)) return tie(rows, id, next[0]);
  const swapped = [...rows];
  [swapped[at], swapped[at + step]] = [next, row];
  return swapped;
}

/**
 * Draw the line below the row of `selected`, or below all rows; remove it if it is selected. Once
 * every response is placed (`complete`), a line below the last tier would make nothing unacceptable,
 * so it goes above that tier.
 * @param {Row[]} rows
 * @param {Id | null} selected
 * @param {boolean} complete
 * @returns {Row[]}
 */
export function line(rows, selected, complete) {
  /** @type {Row[]} */
  const rest = rows.filter(isTier);
  if (selected === LINE) return rest;
  const at = rowOf(rest, selected);
  const below = at < 0 ? rest.length : at + 1;
  rest.splice(complete ? Math.min(below, rest.length - 1) : below, 0, LINE);
  return rest;
}

/**
 * Return the ids below the line; null without a line.
 * @param {Row[]} rows
 */
export function unacceptable(rows) {
  const at = rows.indexOf(LINE);
  return at < 0 ? null : placed(rows.slice(at));
}

/**
 * Put `id`, a response or the line, as a row of its own before the row with index `at`.
 * @param {Row[]} rows
 * @param {Id} id
 * @param {number} at
 * @returns {Row[]}
 */
export function putBefore(rows, id, at) {
  return [...without(rows.slice(0, at), id), id === LINE ? LINE : [id], ...without(rows.slice(at), id)];
}

/**
 * Return rows from ranks, which need not be dense: equal ranks tie, and `cut` is the last rank above
 * the line.
 * @param {Record<Id, number>} ranks  0 if the response is not placed
 * @param {number | null} cut
 * @returns {Row[]}
 */
export function fromRanks(ranks, cut) {
  const numbers = [...new Set(Object.values(ranks).filter(Boolean))].sort((a, b) => a - b);
  /** @type {Row[]} */
  const rows = numbers.map((n) => Object.keys(ranks).filter((id) => ranks[id] === n));
  if (cut !== null) rows.splice(numbers.filter((n) => n <= cut).length, 0, LINE);
  return rows;
}

/** @param {Row[]} rows */
export function toRanks(rows) {
  /** @type {Record<Id, number>} */
  const ranks = {};
  tiersOf(rows).forEach((tier, index) => tier.forEach((id) => (ranks[id] = index + 1)));
  return { ranks, cut: rows.includes(LINE) ? rows.indexOf(LINE) : null };
}
