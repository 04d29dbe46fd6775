// Which page is shown: by the address behind #, which can be shared.
import { el } from "./dom.js";
import { planPage } from "./plan.js";
import { runPage } from "./run.js";
import { drawnRuns, runsPage } from "./runs.js";
import { follow, isFile, load } from "./source.js";

const view = document.getElementById("view");
const crumbs = document.getElementById("crumbs");
const live = document.getElementById("live");
let stop = () => {};
let turn = 0; // counts pages, so that a slow answer does not replace a newer page

/** Return the page's kind, name and state of an address such as #/run/a?colour=who. */
function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [kind, ...name] = path.split("/");
  return { kind: kind || "runs", name: decodeURIComponent(name.join("/")), state: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

/** Put what changed into the address, and draw the page again where it is. */
function change(changes) {
  const { kind, name, state } = address();
  const next = Object.entries({ ...state, ...changes }).filter(([, value]) => value !== null && value !== undefined);
  const query = new URLSearchParams(next).toString();
  history.replaceState(null, "", `#/${kind}${name ? `/${encodeURIComponent(name)}` : ""}${query ? `?${query}` : ""}`);
  show();
}

async function page({ kind, name, state }) {
  if (kind === "run") {
    const run = await load("run", { name });
    return { title: name, run: name, version: run.version, content: () => runPage(run, state, change) };
  }
  if (kind === "plan") {
    const plan = await load("plan", { name });
    return { title: name, content: () => planPage(plan) };
  }
  const index = await load("index");
  if (kind === "runs" && !Object.keys(state).length && index.runs.length + index.plans.length === 1) {
    const only = index.runs[0] ? `run/${encodeURIComponent(index.runs[0].name)}` : `plan/${encodeURIComponent(index.plans[0])}`;
    location.replace(`#/${only}`);
    return null;
  }
  const curves = await Promise.all(drawnRuns(index, state).map((own) => load("curve", { name: own })));
  return { title: "runs", run: null, version: index.version, content: () => runsPage(index, curves, state, change) };
}

async function show(fresh = false) {
  const mine = (turn += 1);
  const where = address();
  const [x, y] = fresh ? [0, 0] : [scrollX, scrollY];
  stop();
  try {
    const found = await page(where);
    if (!found || mine !== turn) return;
    const [focus, open] = [focused(), fresh ? [] : unfolded()];
    view.replaceChildren(found.content());
    unfold(open);
    document.title = `${found.title} · LEFF`;
    crumbs.replaceChildren(el("a", { href: "#/runs?" }, "all runs"), where.kind === "runs" ? "" : ` / ${where.kind} / ${where.name}`);
    live.textContent = isFile ? "a file, as it was" : "";
    if (found.version !== undefined) stop = follow(found.run, found.version, () => show(), (state) => (live.textContent = state));
    requestAnimationFrame(() => {
      scrollTo(x, y);
      refocus(focus);
    });
  } catch (error) {
    if (mine !== turn) return;
    view.replaceChildren(el("p", { class: "bad" }, `${error.message}.`), el("p", {}, el("a", { href: "#/runs?" }, "all runs")));
  }
}

/** Return which of the page's controls has the focus, by its place among them. */
function focused() {
  return [...view.querySelectorAll("button, select, input, a, svg[tabindex], summary")].indexOf(document.activeElement);
}

/** Return whether each of the page's folds is open. */
function unfolded() {
  return [...view.querySelectorAll("details")].map((fold) => fold.open);
}

/** Open the folds that were open, unless the page has other folds now. */
function unfold(open) {
  const folds = [...view.querySelectorAll("details")];
  if (folds.length === open.length) folds.forEach((fold, k) => (fold.open = open[k]));
}

function refocus(place) {
  if (place >= 0) view.querySelectorAll("button, select, input, a, svg[tabindex], summary")[place]?.focus({ preventScroll: true });
}

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
addEventListener("hashchange", () => show(true));
show(true);
