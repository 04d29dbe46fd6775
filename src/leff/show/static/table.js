// Tables: plain ones of rows, and ones that a click on a column's name sorts.
import { el } from "./dom.js";
import { number } from "./format.js";

/** Return a table of rows, the first of them the names of the columns. */
export function plainTable([names, ...rows]) {
  const cell = (value) => el("td", { class: typeof value === "number" ? "number" : null }, typeof value === "number" ? number(value) : value ?? "");
  const numbers = names.map((_, k) => rows.some((row) => typeof row[k] === "number"));
  return el("div", { class: "scroll" },
    el("table", {},
      el("thead", {}, el("tr", {}, names.map((name, k) => el("th", { scope: "col", class: numbers[k] ? "number" : null }, name)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell))))));
}

/**
 * Return a table of objects.  `columns` are {key, label, value(row), show(row), number, words};
 * `sorted` is a column's key, with a minus for the greatest first; `resorted` gets the new one.
 */
export function sortable(rows, columns, sorted, resorted, caption) {
  const key = sorted.replace(/^-/, "");
  const down = sorted.startsWith("-");
  const by = columns.find((column) => column.key === key) ?? columns[0];
  const value = (row) => (by.value ? by.value(row) : row[by.key]);
  const order = [...rows].sort((a, b) => compare(value(a), value(b), down));
  const head = columns.map((column) => {
    const own = column === by;
    const turn = () => resorted(own && !down ? `-${column.key}` : column.key);
    return el("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": own ? (down ? "descending" : "ascending") : "none" },
      el("button", { type: "button", click: turn }, column.label, own ? (down ? " ↓" : " ↑") : ""));
  });
  const cells = (row) => columns.map((column) =>
    el("td", { class: column.number ? "number" : column.words ? "words" : null },
      column.show ? column.show(row) : column.number ? number(row[column.key]) : row[column.key] ?? ""));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {},
      el("caption", { class: "hidden" }, caption),
      el("thead", {}, el("tr", {}, head)),
      el("tbody", {}, order.map((row) => el("tr", {}, cells(row))))));
}

/** Compare two values; what is not known comes last, whichever way the column is sorted. */
function compare(a, b, down) {
  const [none, other] = [a === null || a === undefined, b === null || b === undefined];
  if (none || other) return none - other;
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}
