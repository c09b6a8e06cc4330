// Add rows for criteria, using empty rows first. Without this script, saving adds two empty rows.
import { find, findAll } from "./dom.js";

const section = find(document, "[data-criteria]");
const rows = find(section, "[data-rows]");
const template = find(section, "[data-row]", HTMLTemplateElement);
const total = find(section, "[name$='-TOTAL_FORMS']", HTMLInputElement);
const most = Number(find(section, "[name$='-MAX_NUM_FORMS']", HTMLInputElement).value);
const button = find(section, "[data-add]");

/** @param {ParentNode} row */
const orderField = (row) => find(row, "[name$='-ORDER']", HTMLInputElement);
/** @param {ParentNode} row */
const nameField = (row) => find(row, "[name$='-name']", HTMLInputElement);
const allRows = () => findAll(rows, ":scope > .criterion");

/** @param {ParentNode} row */
function begin(row) {
  const numbers = allRows().map((other) => Number(orderField(other).value) || 0);
  orderField(row).value = String(Math.max(0, ...numbers) + 1);
  nameField(row).focus();
}

function add() {
  const unused = allRows().find((row) => nameField(row).value === "" && orderField(row).value === "");
  if (unused) {
    begin(unused);
    return;
  }
  const index = Number(total.value);
  const copy = document.createElement("template");
  copy.innerHTML = template.innerHTML.replaceAll("__prefix__", String(index));
  const row = find(copy.content, ".criterion");
  rows.append(copy.content);
  total.value = String(index + 1);
  begin(row);
  button.hidden = index + 1 >= most;
}

button.hidden = Number(total.value) >= most;
button.addEventListener("click", add);
