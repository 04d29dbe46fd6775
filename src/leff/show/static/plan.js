// The page of a plan: what each class of a fleet can train, against its memory, beside what ran.
import { el, shape } from "./dom.js";
import { bytes, number, seconds } from "./format.js";
import { plainTable } from "./table.js";

const COMPARED = [
  ["layers", "layers", number], ["state_bytes", "weights, gradients, optimizer", bytes], ["steps", "steps", number],
  ["download_bytes", "down", bytes], ["upload_bytes", "up", bytes], ["round_seconds", "a round", seconds],
];

/** Return the page of a plan's values. */
export function planPage(plan) {
  const fits = plan.classes.filter((each) => !each.problem);
  return el("article", {},
    el("h1", {}, plan.name),
    el("p", { class: "note" }, `What each class of devices can train of ${plan.model} in a round.`),
    el("h2", {}, "Memory"),
    el("figure", {}, el("figcaption", {}, "Predicted peak of a training step", el("small", {}, "in the memory that the class has for it")), bars(fits)),
    el("h2", {}, "Classes"),
    plainTable([["class", "devices", "layers", "in place of others", "peak", "memory", "steps of all", "first download", "down", "up", "download", "training", "upload", "a round"],
      ...fits.map((each) => [each.class, each.count, each.layers, each.context ?? "–", bytes(each.predicted_bytes), bytes(each.memory_bytes), `${each.steps} of ${each.all_steps}`,
        bytes(each.setup_bytes), bytes(each.download_bytes), bytes(each.upload_bytes), seconds(each.download_seconds), seconds(each.compute_seconds), seconds(each.upload_seconds), seconds(each.round_seconds)])]),
    plan.classes.filter((each) => each.problem).map((each) => el("p", { class: "bad" }, `${each.class} sits out: ${each.problem}`)),
    el("h2", {}, "Prediction beside what was measured"),
    measured(fits));
}

function bars(classes) {
  const most = Math.max(...classes.map((each) => each.memory_bytes ?? each.predicted_bytes), 1);
  return el("div", {}, classes.map((each) => {
    const share = (value) => (100 * (value ?? 0)) / most;
    const words = `${each.class}: ${bytes(each.predicted_bytes)} of ${bytes(each.memory_bytes)}, ${each.layers} layers`;
    return el("div", {}, el("span", {}, words),
      shape("svg", { viewBox: "0 0 100 6", height: 14, preserveAspectRatio: "none", role: "img", "aria-label": words },
        shape("rect", { width: share(each.memory_bytes), height: 6, fill: "var(--line)" }),
        shape("rect", { width: share(each.predicted_bytes), height: 6, fill: "#0072B2" })));
  }));
}

function measured(classes) {
  const rows = classes.filter((each) => each.measured).flatMap((each) =>
    COMPARED.map(([key, label, text]) => [each.class, label, text(each[key]), text(each.measured[key]), `${each.measured.jobs} jobs of ${each.measured.runs.join(", ")}`]));
  if (!rows.length) return el("p", { class: "note" }, "No shown run has this model and method, and devices of these classes. Show one beside the plan: leff show RUN PLAN.");
  return el("div", {}, plainTable([["class", "", "planned", "in runs, mean", "of"], ...rows]),
    el("p", { class: "note" }, "Of weights, gradients and optimizer it is the most that a job had. A round's time is by the run's virtual clock. No run measures the peak of a step."));
}
