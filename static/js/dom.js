// Typed access to elements and their values. An element or a value missing from the template raises
// an error that names it.

/** @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Control */

/**
 * A class of elements, such as HTMLFormElement.
 * @template {Element} T
 * @typedef {{ new (): T, readonly name: string }} ElementClass
 */

/**
 * Return the first element inside `root` that matches, or null.
 * @template {Element} T
 * @overload
 * @param {ParentNode} root
 * @param {string} selector
 * @param {ElementClass<T>} type
 * @returns {T | null}
 */
/**
 * @overload
 * @param {ParentNode} root
 * @param {string} selector
 * @returns {HTMLElement | null}
 */
/**
 * @param {ParentNode} root
 * @param {string} selector
 * @param {ElementClass<Element>} type
 * @returns {Element | null}
 */
export function findOptional(root, selector, type = HTMLElement) {
  const element = root.querySelector(selector);
  if (element && !(element instanceof type)) throw new TypeError(`${selector} is not an ${type.name}.`);
  return element;
}

/**
 * Return the first element inside `root` that matches.
 * @template {Element} T
 * @overload
 * @param {ParentNode} root
 * @param {string} selector
 * @param {ElementClass<T>} type
 * @returns {T}
 */
/**
 * @overload
 * @param {ParentNode} root
 * @param {string} selector
 * @returns {HTMLElement}
 */
/**
 * @param {ParentNode} root
 * @param {string} selector
 * @param {ElementClass<Element>} type
 * @returns {Element}
 */
export function find(root, selector, type = HTMLElement) {
  const element = findOptional(root, selector, type);
  if (element) return element;
  throw new TypeError(`This page has no ${selector}.`);
}

/**
 * Return every element inside `root` that matches and has this type.
 * @template {Element} T
 * @overload
 * @param {ParentNode} root
 * @param {string} selector
 * @param {ElementClass<T>} type
 * @returns {T[]}
 */
/**
 * @overload
 * @param {ParentNode} root
 * @param {string} selector
 * @returns {HTMLElement[]}
 */
/**
 * @param {ParentNode} root
 * @param {string} selector
 * @param {ElementClass<Element>} type
 * @returns {Element[]}
 */
export function findAll(root, selector, type = HTMLElement) {
  return [...root.querySelectorAll(selector)].filter((element) => element instanceof type);
}

/**
 * Return the nearest matching HTML element, `start` or one of its ancestors, or null.
 * @param {EventTarget | null} start
 * @param {string} selector
 * @returns {HTMLElement | null}
 */
export function closest(start, selector) {
  const element = start instanceof Element ? start.closest(selector) : null;
  return element instanceof HTMLElement ? element : null;
}

/**
 * Return the only control of this name in a form.
 * @param {HTMLFormElement} form
 * @param {string} name
 * @returns {Control}
 */
export function control(form, name) {
  const element = form.elements.namedItem(name);
  if (isControl(element)) return element;
  throw new TypeError(`The form has no single control named ${name}.`);
}

/**
 * @param {unknown} element
 * @returns {element is Control}
 */
export function isControl(element) {
  return (
    element instanceof HTMLInputElement ||
    element instanceof HTMLSelectElement ||
    element instanceof HTMLTextAreaElement
  );
}

/**
 * Return whether a field differs from the page that the server sent. Not for selects of several
 * options.
 * @param {Control} field
 */
export function isChanged(field) {
  if (field instanceof HTMLSelectElement) {
    const initial = [...field.options].findLastIndex((option) => option.defaultSelected);
    return field.selectedIndex !== (initial < 0 ? 0 : initial);
  }
  if (field instanceof HTMLInputElement && ["radio", "checkbox"].includes(field.type)) {
    return field.checked !== field.defaultChecked;
  }
  return field.value !== field.defaultValue;
}

/**
 * Call `act` now and whenever the fields in `root` may have new values. Someone may type before the
 * script starts, and after "back" the browser fills in the fields without an input event, just before
 * "pageshow". `act` must do no harm if nothing has changed.
 * @param {HTMLElement} root
 * @param {() => void} act
 */
export function followFields(root, act) {
  root.addEventListener("input", act);
  window.addEventListener("pageshow", act);
  act();
}

/**
 * Return the data attribute of an element; `name` as in `dataset`.
 * @param {HTMLElement} element
 * @param {string} name
 * @returns {string}
 */
export function data(element, name) {
  const value = element.dataset[name];
  if (value !== undefined) return value;
  throw new TypeError(`The <${element.localName}> has no data attribute ${name}.`);
}

/** The path under which Tiebreak is served, with a slash at its end. It is the path of all cookies. */
export const ROOT = findOptional(document, "meta[name=root]", HTMLMetaElement)?.content ?? "/";
