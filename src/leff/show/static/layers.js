// The layer map: a cell for each layer in each round, and what happened in the one that is chosen.
import { groupColours, scaled } from "./colours.js";
import { choice, el, responsive, shape } from "./dom.js";
import { saveCsv, savePng } from "./download.js";
import { number, spans } from "./format.js";
import { load } from "./source.js";

const ROW = 20;
const LEFT = 34;
const LEAST_WIDTH = 3; // pixels of a round; of more rounds than fit, each cell is of several
const NO_COLOUR = "var(--low)";
const COLOURS = {
  moved: ["how far it moved", (round, layer) => round.moved[layer], "mean L2 norm of what clients changed"],
  trained: ["how many clients trained it", (round, layer) => round.trained[layer] || null, "clients"],
  importance: ["its importance", (round, layer) => round.importance[layer], "share of the round's sum"],
  who: ["who trained it", null, "width: share of the clients that trained it"],
};

/** Return the map of a run; `state` has `colour` and `cell`, and `changed` keeps them. */
export function layerMap(run, state, changed) {
  const rounds = run.rounds.filter((round) => round.round > 0);
  if (!rounds.length || !run.layers) return el("p", { class: "note" }, "No round was trained yet.");
  const colour = COLOURS[state.colour] ? state.colour : "moved";
  const panel = el("div", { class: "panel", "aria-live": "polite" }, el("p", { class: "note" }, "Point at a cell, or choose one with the arrow keys."));
  const cells = { run, rounds, colour, panel, at: place(state.cell, run) };
  let svg;
  const map = responsive((width) => (svg = draw(width, cells, (cell) => changed({ cell: cell.join(",") }))));
  const options = Object.entries(COLOURS).map(([key, [text]]) => [key, text]);
  const tools = el("span", { class: "tools" },
    el("button", { type: "button", click: () => savePng("layers", svg), "aria-label": "the layer map as PNG" }, "PNG"), " ",
    el("button", { type: "button", click: () => saveCsv("layers", rows(run, rounds)), "aria-label": "the layer map as CSV" }, "CSV"));
  const about = el("small", {}, `layer × round, ${COLOURS[colour][2]}; blank: not trained`);
  return el("div", {},
    el("div", { class: "choices" }, choice("colour:", options, colour, (value) => changed({ colour: value }))),
    el("figure", {}, el("figcaption", {}, "Layers", about, tools), map, legend(cells)),
    panel);
}

function place(cell, run) {
  const [round, layer] = (cell ?? "").split(",").map(Number);
  return round > 0 && layer >= 0 && layer < run.layers ? [round, layer] : null;
}

function rows(run, rounds) {
  const names = ["round", "layer", "clients", "examples", "moved", "importance", "who"];
  const layers = [...Array(run.layers).keys()];
  const who = (round, layer) => Object.entries(round.who[layer]).map(([name, n]) => `${n} x ${name}`).join("; ");
  return [names, ...rounds.flatMap((r) => layers.map((l) => [r.round, l, r.trained[l], r.examples[l], r.moved[l], r.importance[l], who(r, l)]))];
}

function draw(width, cells, chosen) {
  const { run, rounds, colour, panel } = cells;
  const every = Math.max(1, Math.ceil((rounds.length * LEAST_WIDTH) / (width - LEFT)));
  const columns = [];
  for (let k = 0; k < rounds.length; k += every) columns.push(rounds.slice(k, k + every));
  const step = Math.min((width - LEFT) / columns.length, 60);
  const height = run.layers * ROW + 34;
  const top = (layer) => (run.layers - 1 - layer) * ROW;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "application", "aria-label": `layers of ${rounds.length} rounds; arrow keys choose a cell` });
  const colours = groupColours(run.groups);
  const value = valueOf(cells);
  const most = Math.max(...rounds.flatMap((round) => round.moved.map((_, layer) => value(round, layer) ?? 0)), 1e-300);
  const painted = new Map(); // colour -> its cells as one path, as thousands of elements are slow
  const paint = (fill, x, layer, wide) => painted.set(fill, `${painted.get(fill) ?? ""}M${x.toFixed(1)} ${top(layer)}h${wide.toFixed(1)}v${ROW - 1}h-${wide.toFixed(1)}z`);
  columns.forEach((own, k) => {
    const [x, wide] = [LEFT + k * step, Math.max(step - (step > 6 ? 1 : 0), 0.5)];
    for (let layer = 0; layer < run.layers; layer += 1) {
      if (colour === "who") stripes(own, layer, colours, (fill, from, share) => paint(fill, x + from * wide, layer, share * wide));
      else {
        const known = own.map((round) => value(round, layer)).filter((each) => each !== null && each !== undefined);
        const mean = known.length ? known.reduce((sum, each) => sum + each, 0) / known.length : null;
        paint(mean === null ? NO_COLOUR : scaled(mean / most), x, layer, wide);
      }
    }
  });
  for (const [fill, d] of painted) svg.append(shape("path", { d, fill }));
  axes(svg, run, columns, step, height, every);
  const mark = shape("rect", { fill: "none", stroke: "var(--ink)", "stroke-width": 2, width: step, height: ROW - 1, visibility: "hidden" });
  svg.append(mark);
  const point = (round, layer) => {
    const k = Math.floor(rounds.findIndex((each) => each.round === round) / every);
    cells.at = [round, layer];
    mark.setAttribute("x", LEFT + k * step);
    mark.setAttribute("y", top(layer));
    mark.setAttribute("visibility", "visible");
    tell(run, rounds.find((each) => each.round === round), layer, panel, () => cells.at[0] === round && cells.at[1] === layer);
  };
  const under = (event) => {
    const box = svg.getBoundingClientRect();
    const k = Math.floor((event.clientX - box.left - LEFT) / step);
    const layer = run.layers - 1 - Math.floor((event.clientY - box.top) / ROW);
    return columns[k] && layer >= 0 && layer < run.layers ? [columns[k][0].round, layer] : null;
  };
  svg.addEventListener("pointermove", (event) => {
    const cell = under(event);
    if (cell && String(cell) !== String(cells.at)) point(...cell);
  });
  svg.addEventListener("click", (event) => under(event) && chosen(under(event)));
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-every, 0], ArrowRight: [every, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const [round, layer] = cells.at ?? [rounds[0].round - move[0], 0 - move[1]];
    const next = rounds[Math.min(Math.max(rounds.findIndex((each) => each.round === round) + move[0], 0), rounds.length - 1)];
    point(next.round, Math.min(Math.max(layer + move[1], 0), run.layers - 1));
  });
  if (cells.at && rounds.some((round) => round.round === cells.at[0])) point(...cells.at);
  return svg;
}

/** Return a function of a round and a layer: the value that colours the cell. */
function valueOf({ colour }) {
  if (colour !== "importance") return COLOURS[colour][1] ?? (() => null);
  return (round, layer) => {
    const sum = round.importance.reduce((total, each) => total + (each ?? 0), 0);
    return sum && round.importance[layer] !== null ? round.importance[layer] / sum : null;
  };
}

/** Paint a cell's stripes, one for each group that trained the layer: its first place and width, shares of the cell. */
function stripes(rounds, layer, colours, paint) {
  const counts = new Map();
  for (const round of rounds) for (const [name, n] of Object.entries(round.who[layer])) counts.set(name, (counts.get(name) ?? 0) + n);
  const all = [...counts.values()].reduce((sum, n) => sum + n, 0);
  if (!all) return paint(NO_COLOUR, 0, 1);
  let from = 0;
  for (const [name, colour] of colours) {
    const share = (counts.get(name) ?? 0) / all;
    if (share) paint(colour, from, share);
    from += share;
  }
}

function axes(svg, run, columns, step, height, every) {
  for (let layer = 0; layer < run.layers; layer += run.layers > 16 ? 4 : 1) {
    svg.append(shape("text", { class: "tick", x: LEFT - 6, y: (run.layers - 1 - layer) * ROW + 14, "text-anchor": "end" }, `${layer}`));
  }
  const sparse = Math.ceil(34 / step);
  columns.forEach((own, k) => {
    if (k % sparse === 0) svg.append(shape("text", { class: "tick", x: LEFT + (k + 0.5) * step, y: height - 20, "text-anchor": "middle" }, `${own[0].round}`));
  });
  const note = every > 1 ? `round; each cell is the mean of ${every} rounds, as more do not fit` : "round";
  svg.append(shape("text", { class: "tick", x: LEFT, y: height - 4 }, note));
  svg.append(shape("text", { class: "tick", x: 0, y: height - 20 }, "layer"));
}

function legend(cells) {
  const { run, rounds, colour } = cells;
  if (colour === "who") {
    return el("p", { class: "note" }, [...groupColours(run.groups)].map(([name, own]) => [swatch(own), `${name}  `]));
  }
  const value = valueOf(cells);
  const known = rounds.flatMap((round) => round.moved.map((_, layer) => value(round, layer))).filter((each) => each !== null && each !== undefined);
  if (!known.length) return el("p", { class: "note" }, "This run did not measure it.");
  const steps = [0, 0.25, 0.5, 0.75, 1].map((share) => swatch(scaled(share)));
  return el("p", { class: "note" }, "0 ", steps, ` ${number(Math.max(...known))}`);
}

/** Return a small square of a colour. */
export function swatch(colour) {
  return shape("svg", { viewBox: "0 0 12 12", class: "swatch", "aria-hidden": "true" },
    shape("rect", { width: 12, height: 12, fill: colour }));
}

/** Say what happened in a layer in a round; who did it comes when it is there, if `still` chosen. */
async function tell(run, round, layer, panel, still) {
  const facts = [
    `trained by ${round.trained[layer]} of ${round.clients} clients, on ${round.examples[layer]} examples`,
    `moved by ${number(round.moved[layer])} (mean L2 norm)`,
    `importance ${number(round.importance[layer])}`,
  ];
  const head = el("strong", {}, `Round ${round.round}, layer ${layer}`);
  panel.replaceChildren(head, el("ul", {}, facts.map((fact) => el("li", {}, fact))));
  try {
    const details = await load("round", { name: run.name, round: round.round });
    if (!still()) return;
    const own = details.clients.filter((client) => client.layers.includes(layer));
    const covers = details.stand_ins.filter(({ layers }) => {
      const [first, last] = layers.split("-").map(Number);
      return first <= layer && layer <= last;
    });
    const lines = own.slice(0, 12).map((client) => {
      const who = `client ${client.client}${client.device ? ` (${client.device})` : ""}`;
      if (client.failure) return `${who} failed: ${client.failure}`;
      const moved = client.norms ? `, moved it by ${number(client.norms[client.layers.indexOf(layer)])}` : "";
      return `${who}: layers ${spans(client.layers)}, ${client.examples} examples${moved}`;
    });
    if (own.length > 12) lines.push(`and ${own.length - 12} more clients`);
    if (covers.length) lines.push(`stand-in error where the layer was replaced: ${covers.map(({ layers, error }) => `${number(error)} (layers ${layers})`).join(", ")}`);
    panel.replaceChildren(head, el("ul", {}, [...facts, ...lines].map((line) => el("li", {}, line))));
  } catch (error) {
    if (still()) panel.append(el("p", { class: "note" }, `Who trained it: ${error.message}.`));
  }
}
