// A weak order as rows, best first: each row is a tier (a list of response ids) or the LINE under
// which everything is unacceptable. Every function takes rows and returns new rows.
export const LINE = "line";

const isTier = (row) => row !== LINE;
export const tiersOf = (rows) => rows.filter(isTier);
export const placed = (rows) => tiersOf(rows).flat();
export const rowOf = (rows, id) =>
  id === LINE ? rows.indexOf(LINE) : rows.findIndex((row) => isTier(row) && row.includes(id));

export function without(rows, id) {
  if (id === LINE) return rows.filter(isTier);
  return rows
    .map((row) => (isTier(row) ? row.filter((other) => other !== id) : row))
    .filter((row) => row.length > 0);
}

export function place(rows, id) {
  return [...without(rows, id), [id]];
}

/** Put id into the tier that holds `other`, or into the last tier; alone when there is none. */
export function tie(rows, id, other) {
  const rest = without(rows, id);
  const mate = rowOf(rest, other) >= 0 && other !== LINE ? other : placed(rest).at(-1);
  if (mate === undefined) return [...rest, [id]];
  return rest.map((row) => (isTier(row) && row.includes(mate) ? [...row, id] : row));
}

/** One step better (-1) or worse (+1): out of a tie, across the line, or into the next tier; past it
 * where there are no ties. */
export function move(rows, id, step, ties = true) {
  const at = rowOf(rows, id);
  const row = rows[at];
  if (at < 0) return rows;
  if (isTier(row) && row.length > 1) {
    const rest = rows.map((other) => (other === row ? row.filter((one) => one !== id) : other));
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

/** Draw the line under the row of `selected`, or under everything; take it away when selected.
 * Where every response has a place (`complete`), a line under the last tier would make nothing
 * unacceptable, which nobody means who draws it: it goes above that tier. */
export function line(rows, selected, complete) {
  const rest = rows.filter(isTier);
  if (selected === LINE) return rest;
  const at = rowOf(rest, selected);
  const below = at < 0 ? rest.length : at + 1;
  rest.splice(complete ? Math.min(below, rest.length - 1) : below, 0, LINE);
  return rest;
}

/** The ids below the line; null without a line. */
export function unacceptable(rows) {
  const at = rows.indexOf(LINE);
  return at < 0 ? null : placed(rows.slice(at));
}

/** Put id (a response or the line) as a row of its own before row number `at`. */
export function putBefore(rows, id, at) {
  const marked = [...rows.slice(0, at), null, ...rows.slice(at)];
  const rest = marked
    .map((row) => (Array.isArray(row) ? row.filter((other) => other !== id) : row))
    .filter((row) => row !== id && (row === null || row.length > 0));
  return rest.map((row) => (row === null ? (id === LINE ? LINE : [id]) : row));
}

/** Ranks need not be dense: equal ranks tie, `cut` is the rank below which the line runs. */
export function fromRanks(ranks, cut) {
  const numbers = [...new Set(Object.values(ranks).filter(Boolean))].sort((a, b) => a - b);
  const rows = numbers.map((n) => Object.keys(ranks).filter((id) => ranks[id] === n));
  if (cut !== null) rows.splice(numbers.filter((n) => n <= cut).length, 0, LINE);
  return rows;
}

export function toRanks(rows) {
  const ranks = {};
  tiersOf(rows).forEach((tier, index) => tier.forEach((id) => (ranks[id] = index + 1)));
  return { ranks, cut: rows.includes(LINE) ? rows.indexOf(LINE) : null };
}
