// Adds rows for criteria. Without it there are two empty rows, and saving brings two more.
const section = document.querySelector("[data-criteria]");
const rows = section.querySelector("[data-rows]");
const template = section.querySelector("[data-row]");
const total = section.querySelector("[name$='-TOTAL_FORMS']");
const most = Number(section.querySelector("[name$='-MAX_NUM_FORMS']").value);
const button = section.querySelector("[data-add]");

function numbers() {
  return [...rows.querySelectorAll("[name$='-ORDER']")].map((field) => Number(field.value) || 0);
}

function add() {
  const index = Number(total.value);
  const next = Math.max(0, ...numbers()) + 1;
  const copy = document.createElement("template");
  copy.innerHTML = template.innerHTML.replaceAll("__prefix__", String(index));
  rows.append(copy.content);
  total.value = String(index + 1);
  const row = rows.lastElementChild;
  row.querySelector("[name$='-ORDER']").value = String(next);
  row.querySelector("[name$='-name']").focus();
  button.hidden = index + 1 >= most;
}

button.hidden = Number(total.value) >= most;
button.addEventListener("click", add);
