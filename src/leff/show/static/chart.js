// Charts with two axes: lines over rounds, and marks.  Each has its values as a table and as files.
import { el, responsive, shape } from "./dom.js";
import { saveCsv, savePng } from "./download.js";
import { number, ticks } from "./format.js";
import { plainTable } from "./table.js";

const HEIGHT = 230;
const GAP = 14; // pixels between labels of lines

/**
 * Return a figure.  `series` are {name, colour, dash, points: [{x, y, label}], marks}: a line each,
 * or marks alone.  `x` and `y` are {label, text, whole}: what an axis is, and a value on it as text.
 */
export function chart({ title, note, series, x, y, front }) {
  const drawn = series.filter((each) => each.points.length);
  const columns = [x.label, ...drawn.map((each) => each.name)];
  const caption = el("figcaption", {}, title, note && el("small", {}, note));
  if (!drawn.length) return el("figure", {}, caption, el("p", { class: "note" }, "Nothing was measured yet."));
  const readout = el("div", { class: "readout", "aria-live": "polite" });
  const figure = el("figure", {}, caption);
  let svg;
  const place = responsive((width) => (svg = draw(width, drawn, x, y, front, title, readout)));
  const marks = drawn.some((each) => each.marks);
  const rows = marks ? markRows(drawn, x, y) : lineRows(drawn, columns);
  caption.append(
    el("span", { class: "tools" },
      el("button", { type: "button", click: () => savePng(title, svg), "aria-label": `${title} as PNG` }, "PNG"), " ",
      el("button", { type: "button", click: () => saveCsv(title, rows), "aria-label": `${title} as CSV` }, "CSV")),
  );
  const table = el("details", {}, el("summary", {}, "as a table"));
  table.addEventListener("toggle", () => table.children.length < 2 && table.append(plainTable(rows)));
  figure.append(place, readout, table);
  return figure;
}

function lineRows(series, columns) {
  const xs = [...new Set(series.flatMap((each) => each.points.map((point) => point.x)))].sort((a, b) => a - b);
  const values = series.map((each) => new Map(each.points.map((point) => [point.x, point.y])));
  return [columns, ...xs.map((at) => [at, ...values.map((own) => own.get(at) ?? null)])];
}

function markRows(series, x, y) {
  return [["", x.label, y.label], ...series.flatMap((each) => each.points.map((p) => [p.label ?? each.name, p.x, p.y]))];
}

function draw(width, series, x, y, front, title, readout) {
  const points = series.flatMap((each) => each.points);
  const [x0, x1] = span(points.map((point) => point.x), series.some((each) => each.marks));
  const [y0, y1] = span(points.map((point) => point.y), true);
  const yTicks = ticks(y0, y1, 5);
  const yTexts = yTicks.map((each) => (y.text ?? number)(each));
  const left = 12 + 7 * Math.max(...yTexts.map((text) => text.length));
  const named = series.length > 1 && !series.some((each) => each.marks);
  const right = named ? Math.min(width / 2, 10 + 6.6 * Math.max(...series.map((each) => each.name.length))) : 14;
  const bottom = HEIGHT - 36;
  const px = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (value) => bottom - ((value - y0) / (y1 - y0 || 1)) * (bottom - 10);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", tabindex: 0, "aria-label": `${title}: ${spoken(series, x, y)}` });
  yTicks.forEach((each, k) => {
    svg.append(shape("line", { class: "rule", x1: left, x2: width - right, y1: py(each), y2: py(each) }));
    svg.append(shape("text", { class: "tick", x: left - 5, y: py(each) + 4, "text-anchor": "end" }, yTexts[k]));
  });
  for (const each of ticks(x0, x1, Math.min(8, (width - left - right) / 60), x.whole)) {
    svg.append(shape("text", { class: "tick", x: px(each), y: bottom + 15, "text-anchor": "middle" }, (x.text ?? number)(each)));
  }
  svg.append(shape("text", { class: "tick", x: (left + width - right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, x.label));
  svg.append(shape("text", { class: "tick", x: 0, y: 0, dy: "-2" }, y.label));
  if (front?.length > 1) svg.append(path(front.map((p) => [px(p.x), py(p.y)]), "var(--soft)", "2 3", 1));
  for (const each of series) {
    const places = each.points.map((point) => [px(point.x), py(point.y)]);
    if (!each.marks) svg.append(path(places, each.colour, each.dash, 2));
    if (each.marks || places.length < 40) {
      for (const [cx, cy] of places) svg.append(shape("circle", { cx, cy, r: each.marks ? 5 : 2.5, fill: each.colour }));
    }
    if (each.marks && points.length <= 30) {
      each.points.forEach((p, k) => {
        const [at, side] = places[k][0] > width / 2 ? [places[k][0] - 8, "end"] : [places[k][0] + 8, "start"];
        svg.append(shape("text", { x: at, y: places[k][1] + 4, class: "tick", "text-anchor": side }, p.label ?? each.name));
      });
    }
  }
  if (named) labels(svg, series, width - right + 6, py);
  hover(svg, series, { px, py, x, y, bottom }, readout);
  return svg;
}

/** Return the least and the most of values, with room around values that are not from 0. */
function span(values, room) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  if (!room) return [low, high];
  if (low > 0 && low < 0.4 * high) low = 0;
  const edge = 0.05 * (high - low);
  return [low === 0 ? 0 : low - edge, high + edge];
}

function path(places, colour, dash, width) {
  const d = places.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return shape("path", { d, fill: "none", stroke: colour, "stroke-width": width, "stroke-dasharray": dash || null });
}

/** Write each line's name at its end, moved apart where ends are close. */
function labels(svg, series, at, py) {
  const ends = series.map((each) => ({ name: each.name, y: py(each.points.at(-1).y) })).sort((a, b) => a.y - b.y);
  ends.forEach((end, k) => (end.y = Math.max(end.y, k ? ends[k - 1].y + GAP : 8)));
  for (let k = ends.length - 1, most = HEIGHT - 30; k >= 0; k -= 1, most -= GAP) ends[k].y = Math.min(ends[k].y, most);
  for (const end of ends) svg.append(shape("text", { x: at, y: end.y + 4 }, end.name));
}

/** Say the values under the pointer, or at the place that the arrow keys choose. */
function hover(svg, series, { px, py, x, y, bottom }, readout) {
  const marks = series.some((each) => each.marks);
  const xs = [...new Set(series.flatMap((each) => each.points.map((point) => point.x)))].sort((a, b) => a - b);
  const cursor = shape("line", { class: "cursor", y1: 10, y2: bottom, visibility: "hidden" });
  svg.append(cursor);
  let at = -1;
  const say = (k) => {
    at = Math.min(Math.max(k, 0), xs.length - 1);
    cursor.setAttribute("x1", px(xs[at]));
    cursor.setAttribute("x2", px(xs[at]));
    cursor.setAttribute("visibility", "visible");
    const here = series.flatMap((each) =>
      each.points.filter((point) => point.x === xs[at]).map((point) => `${point.label ?? each.name} ${(y.text ?? number)(point.y)}`));
    readout.textContent = `${x.label} ${(x.text ?? number)(xs[at])}: ${here.slice(0, 12).join(", ")}${here.length > 12 ? ` and ${here.length - 12} more` : ""}`;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [mx, my] = [event.clientX - box.left, event.clientY - box.top];
    if (!marks) return say(nearest(xs.map((each) => Math.abs(px(each) - mx))));
    const all = series.flatMap((each) => each.points);
    const best = all[nearest(all.map((point) => Math.hypot(px(point.x) - mx, py(point.y) - my)))];
    return say(xs.indexOf(best.x));
  });
  svg.addEventListener("pointerleave", () => cursor.setAttribute("visibility", "hidden"));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    say(step === -Infinity ? 0 : step === Infinity ? xs.length - 1 : at + step);
  });
}

function nearest(distances) {
  return distances.indexOf(Math.min(...distances));
}

/** Return a chart in words, for who does not see it. */
function spoken(series, x, y) {
  const text = y.text ?? number;
  return series.slice(0, 8).map((each) => {
    const [first, last] = [each.points[0], each.points.at(-1)];
    return `${each.name} ${text(first.y)} at ${x.label} ${(x.text ?? number)(first.x)}, ${text(last.y)} at ${(x.text ?? number)(last.x)}`;
  }).join("; ");
}
