// Map key presses to shortcuts. On a layout without Latin letters (Cyrillic, Greek, Hebrew, Arabic,
// Thai, …) shortcuts follow key positions: the key that is C on an English keyboard means C.
const LATIN = /^\p{Script=Latin}$/u;
const LETTER = /^[\p{L}\p{M}]$/u;
/** @type {Record<string, string | undefined>} */
const SIGNS = { Minus: "-", Equal: "=" };

/** Whether the last letter came from such a layout. A comma or a quote on the key of a letter is no
 * evidence of one: Dvorak has them there too. */
let byPosition = false;

/**
 * Return the character that the key at this position types on an English keyboard.
 * @param {string} code
 */
function atPosition(code) {
  const letter = /^Key([A-Z])$/.exec(code);
  return letter ? letter[1].toLowerCase() : SIGNS[code];
}

/**
 * Return the letter or sign in lower case, or the name of another key, such as "Enter".
 * @param {KeyboardEvent} event
 */
export function keyOf(event) {
  const key = event.key === "؟" ? "?" : event.key.normalize("NFKC");
  if (LETTER.test(key)) byPosition = !LATIN.test(key);
  const onLetter = /^Key[A-Z]$/.test(event.code) && !/^[a-z]$/i.test(key);
  const foreign = LETTER.test(key) ? byPosition : onLetter && (byPosition || key === "Process");
  return (foreign && atPosition(event.code)) || (key.length === 1 ? key.toLowerCase() : key);
}

/**
 * Return the digit of a key in the top row or on the number pad, whatever it types; null for other
 * keys.
 * @param {KeyboardEvent} event
 */
export function digitOf(event) {
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  return digit ? Number(digit[1]) : null;
}
