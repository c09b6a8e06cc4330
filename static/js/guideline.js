// Adds rows for criteria, the empty ones first. Without it, saving brings two more empty rows.
const section = document.querySelector("[data-criteria]");
const rows = section.querySelector("[data-rows]");
const template = section.querySelector("[data-row]");
const total = section.querySelector("[name$='-TOTAL_FORMS']");
const most = Number(section.querySelector("[name$='-MAX_NUM_FORMS']").value);
const button = section.querySelector("[data-add]");

function numbers() {
  return [...rows.querySelectorAll("[name$='-ORDER']")].map((field) => Number(field.value) || 0);
}

function begin(row) {
  row.querySelector("[name$='-ORDER']").value = String(Math.max(0, ...numbers()) + 1);
  row.querySelector("[name$='-name']").focus();
}

function add() {
  const names = [...rows.querySelectorAll("[name$='-name']")];
  const unused = names
    .filter((field) => field.value === "")
    .map((field) => field.closest(".criterion"))
    .find((row) => row.querySelector("[name$='-ORDER']").value === "");
  if (unused) {
    begin(unused);
    return;
  }
  const index = Number(total.value);
  const copy = document.createElement("template");
  copy.innerHTML = template.innerHTML.replaceAll("__prefix__", String(index));
  rows.append(copy.content);
  total.value = String(index + 1);
  begin(rows.lastElementChild);
  button.hidden = index + 1 >= most;
}

button.hidden = Number(total.value) >= most;
button.addEventListener("click", add);
