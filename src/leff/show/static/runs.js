// The page of several runs: a table, curves over each other, and what quality costs.
import { chart } from "./chart.js";
import { runStyles } from "./colours.js";
import { choice, el } from "./dom.js";
import { saveCsv } from "./download.js";
import { ago, bytes, number, seconds } from "./format.js";
import { swatch } from "./layers.js";
import { sortable } from "./table.js";

const FIRST = 8; // runs that are drawn if none is chosen
const COLUMNS = [
  { key: "name", label: "run" }, { key: "state", label: "state", value: (row) => (row.finished ? 1 : 0) },
  { key: "task", label: "task" }, { key: "model", label: "model" }, { key: "method", label: "method" },
  { key: "seed", label: "seed", number: true }, { key: "rate", label: "rate", number: true },
  { key: "clients_count", label: "clients", number: true }, { key: "rounds_done", label: "rounds", number: true },
  { key: "loss", label: "loss", number: true }, { key: "metric", label: "metric, validation", number: true },
  { key: "test", label: "metric, test", number: true }, { key: "download", label: "down", number: true, text: bytes },
  { key: "upload", label: "up", number: true, text: bytes }, { key: "peak", label: "predicted peak", number: true, text: bytes },
  { key: "seconds", label: "time", number: true, text: seconds }, { key: "failed", label: "failures", number: true },
  { key: "written", label: "written", number: true },
];
const USUAL = ["name", "state", "method", "seed", "rate", "rounds_done", "metric", "test", "download", "upload", "peak", "seconds"];
const COSTS = { bytes: ["bytes, down and up", (row) => row.download + row.upload, bytes], peak: ["predicted peak of a step", (row) => row.peak, bytes], seconds: ["time", (row) => row.seconds, seconds] };
const ACROSS = { round: ["round", number], bytes: ["bytes, down and up", bytes], seconds: ["time", seconds] };
const LOWER = new Set(["perplexity", "mse", "loss"]); // metrics of which less is better

/** Return the runs that are drawn over each other, by the address or the first ones. */
export function drawnRuns(index, state) {
  const names = new Set(index.runs.map((run) => run.name));
  if (state.show !== undefined) return state.show.split(",").map(decodeURIComponent).filter((name) => names.has(name));
  return index.runs.slice(0, FIRST).map((run) => run.name);
}

/** Return the page; `curves` are of the drawn runs. */
export function runsPage(index, curves, state, changed) {
  const shown = new Set(curves.map((curve) => curve.name));
  const styles = runStyles(index.runs.filter((run) => shown.has(run.name)), index.colours);
  return el("article", {},
    el("h1", {}, index.runs.length === 1 ? "1 run" : `${index.runs.length} runs`),
    index.plans.length > 0 && el("p", {}, "Plans: ", index.plans.map((name) => [el("a", { href: `#/plan/${encodeURIComponent(name)}` }, name), " "])),
    table(index, shown, styles, state, changed),
    curves.length > 0 && el("div", { class: "grid" }, overlay(index, curves, styles, state, changed), costs(index, shown, styles, state, changed)));
}

function table(index, shown, styles, state, changed) {
  const chosen = state.columns === undefined ? USUAL : state.columns.split(",");
  const turn = (name) => {
    const next = new Set(shown);
    if (!next.delete(name)) next.add(name);
    changed({ show: [...next].map(encodeURIComponent).join(",") });
  };
  const columns = COLUMNS.filter(({ key }) => chosen.includes(key)).map((column) => ({ ...column, show: show(column, index) }));
  columns.unshift({
    key: "drawn", label: "drawn", value: (row) => (shown.has(row.name) ? 0 : 1),
    show: (row) => [el("input", { type: "checkbox", checked: shown.has(row.name), "aria-label": `draw ${row.name}`, change: () => turn(row.name) }), " ", styles.has(row.name) && swatch(styles.get(row.name).colour)],
  });
  const pick = el("details", {}, el("summary", {}, "columns"), el("div", { class: "choices" }, COLUMNS.map(({ key, label }) =>
    el("label", {}, el("input", { type: "checkbox", checked: chosen.includes(key), change: () => changed({ columns: COLUMNS.map((c) => c.key).filter((own) => (own === key ? !chosen.includes(own) : chosen.includes(own))).join(",") }) }), ` ${label}`))));
  const csv = () => saveCsv("runs", [COLUMNS.map(({ key }) => key), ...index.runs.map((row) => COLUMNS.map(({ key }) => (key === "state" ? (row.finished ? "finished" : "unfinished") : row[key])))]);
  return el("section", {},
    sortable(index.runs, columns, state.sort ?? "name", (key) => changed({ sort: key }), "runs"),
    el("div", { class: "choices" }, pick, el("button", { type: "button", click: csv }, "CSV")));
}

/** Return how a cell of a column is shown. */
function show(column, index) {
  if (column.key === "name") return (row) => el("a", { href: `#/run/${encodeURIComponent(row.name)}` }, row.name);
  if (column.key === "state") return (row) => (row.problem ? el("span", { class: "bad", title: row.problem }, `problem: ${row.problem}`.slice(0, 60)) : row.finished ? "finished" : `round ${row.rounds_done} of ${row.rounds_asked ?? "?"}`);
  if (column.key === "written") return (row) => ago(row.written, index.now);
  return (row) => (column.text ?? (column.number ? number : (value) => value ?? ""))(row[column.key]);
}

function overlay(index, curves, styles, state, changed) {
  const [across, text] = ACROSS[state.across] ?? ACROSS.round;
  const key = ACROSS[state.across] ? state.across : "round";
  const up = state.of === "loss" ? "loss" : "metric";
  const thinned = curves.filter((curve) => curve.every > 1).map((curve) => `${curve.name}: every ${curve.every}th round`);
  const series = curves.map((curve) => ({
    name: curve.name, ...styles.get(curve.name),
    points: curve.points.filter((point) => point[up] !== null).map((point) => ({ x: point[key], y: point[up] })),
  }));
  return el("section", {},
    el("div", { class: "choices" },
      choice("curves of", [["metric", metricName(index, styles)], ["loss", "loss (nats)"]], up, (value) => changed({ of: value })),
      choice("over", Object.entries(ACROSS).map(([own, [label]]) => [own, label]), key, (value) => changed({ across: value }))),
    chart({ title: up === "loss" ? "Loss, validation" : `${metricName(index, styles)}, validation`, note: thinned.join("; "), series, x: { label: across, text, whole: key === "round" }, y: {} }));
}

/** Return the name of the metric of the drawn runs, if they have the same one. */
function metricName(index, styles) {
  const names = new Set(index.runs.filter((run) => styles.has(run.name)).map((run) => run.metric_name));
  return names.size === 1 ? [...names][0] : "metric";
}

function costs(index, shown, styles, state, changed) {
  const key = COSTS[state.cost] ? state.cost : "bytes";
  const [label, cost, text] = COSTS[key];
  const rows = index.runs.filter((run) => shown.has(run.name) && (run.test ?? run.metric) !== null && cost(run) !== null);
  const points = rows.map((run) => ({ x: cost(run), y: run.test ?? run.metric, label: run.name, run }));
  const name = metricName(index, styles);
  const series = points.map((point) => ({ name: point.label, colour: styles.get(point.label).colour, marks: true, points: [point] }));
  return el("section", {},
    el("div", { class: "choices" }, choice("against", Object.entries(COSTS).map(([own, [words]]) => [own, words]), key, (value) => changed({ cost: value }))),
    chart({ title: `${name} and its cost`, note: "dotted: no other run is better at less", series, x: { label, text }, y: {}, front: frontOf(points, LOWER.has(name)) }));
}

/** Return the points that no other beats in both, from the cheapest. */
export function frontOf(points, lower) {
  const found = [];
  for (const point of [...points].sort((a, b) => a.x - b.x || (lower ? a.y - b.y : b.y - a.y))) {
    const best = found.at(-1);
    if (!best || (lower ? point.y < best.y : point.y > best.y)) found.push(point);
  }
  return found;
}
