// The page of one run.
import { chart } from "./chart.js";
import { el, shape, whileShown } from "./dom.js";
import { ago, bytes, number, option, percent, seconds, spans } from "./format.js";
import { layerMap } from "./layers.js";
import { isFile, load } from "./source.js";
import { plainTable, sortable } from "./table.js";
import { textsOf } from "./texts.js";

const STALE = 10; // rounds' time without news, after which a run may have been interrupted
const AGAIN = 5; // seconds between looks at the clock, and at the network's devices

/** Return the page of a run's values; `state` is of the address, and `changed` sets it. */
export function runPage(run, state, changed) {
  return el("article", {},
    el("h1", {}, run.name),
    head(run),
    run.problem && el("p", { class: "bad" }, `Problem: ${run.problem}.`),
    el("div", { class: "grid" }, curves(run)),
    el("h2", {}, "Layers"),
    layerMap(run, state, changed),
    el("h2", {}, "Devices"),
    devices(run, state, changed),
    el("h2", {}, "Failures"),
    failures(run),
    el("h2", {}, "Texts"),
    textsOf(run.texts),
    el("h2", {}, "Before and after"),
    tests(run),
    el("h2", {}, "Options"),
    options(run, state, changed));
}

/** Return what a run is and how far it is; how long ago that was goes on. */
function head(run) {
  const place = el("div");
  const began = performance.now();
  const draw = () => place.replaceChildren(facts(run, run.now + (performance.now() - began) / 1000));
  draw();
  if (!isFile) whileShown(place, AGAIN, draw);
  return place;
}

function facts(run, now) {
  const silent = run.written && now - run.written;
  const usual = run.rounds_done ? run.seconds / run.rounds_done : Infinity;
  const quiet = !run.finished && silent > Math.max(60, STALE * usual);
  const fact = (name, value) => el("li", {}, el("span", {}, name), el("strong", {}, value));
  const state = run.finished ? "finished" : `round ${run.rounds_done} of ${run.rounds_asked ?? "?"}`;
  return el("div", {},
    el("ul", { class: "facts" },
      fact("state", state),
      run.seconds_left !== null && fact("left", quiet ? "unknown" : seconds(run.seconds_left)),
      fact("task", run.task ?? "–"),
      fact("model", run.model ?? "–"),
      fact("method", run.method ?? "–"),
      fact(run.metric_name, number(run.metric)),
      fact("down, all rounds", bytes(run.download)),
      fact("up, all rounds", bytes(run.upload)),
      fact("time", seconds(run.seconds)),
      fact("written", isFile && run.written ? new Date(1000 * run.written).toLocaleString() : ago(run.written, now))),
    run.who && el("p", { class: "note" }, run.who),
    quiet && el("p", { class: "bad" }, `Nothing was written for ${seconds(Math.round(silent))}. If the run was interrupted, leff resume ${run.folder} goes on.`));
}

function curves(run) {
  const of = (name, key, colour, dash) => ({
    name, colour, dash,
    points: run.rounds.filter((round) => round[key] !== null).map((round) => ({ x: round.round, y: round[key] })),
  });
  const sum = (name, key, colour, dash) => {
    let total = 0;
    return { name, colour, dash, points: run.rounds.map((round) => ({ x: round.round, y: (total += round[key] ?? 0) })) };
  };
  const x = { label: "round", whole: true };
  const own = run.colours[run.method] ?? "#9A8700";
  const found = [
    chart({ title: "Loss", note: "nats per label", x, y: {}, series: [of("full model, validation", "loss", own, ""), of("clients, training", "train_loss", "#6B6B6B", "7 3")] }),
    chart({ title: run.metric_name, note: "validation", x, y: {}, series: [of(run.metric_name, "metric", own, "")] }),
    chart({ title: "Bytes", note: "all clients, up to each round", x, y: { text: bytes }, series: [sum("down", "download_bytes", own, ""), sum("up", "upload_bytes", own, "7 3")] }),
    chart({ title: "Time", note: "seconds of each round", x, y: { text: seconds }, series: [of("whole round", "seconds", own, ""), of("training", "train_seconds", "#E09200", "7 3"), of("measuring", "evaluation_seconds", "#6B6B6B", "2 3")] }),
  ];
  if (run.rounds.some((round) => round.plug_in_gap !== null)) {
    found.splice(2, 0, chart({ title: "Plug-in gap", note: "nats: the full model's loss minus the client model's, after training", x, y: {}, series: [of("gap", "plug_in_gap", own, "")] }));
  }
  if (run.rounds.some((round) => round.epsilon !== null)) {
    found.push(chart({ title: "Privacy", note: "ε spent up to each round", x, y: {}, series: [of("ε", "epsilon", own, "")] }));
  }
  if (run.rounds.some((round) => round.round_seconds_simulated !== null)) {
    found.push(chart({ title: "Time on the devices", note: "by the virtual clock", x, y: { text: seconds }, series: [of("round", "round_seconds_simulated", own, "")] }));
    found.push(chart({ title: "Idle", note: "mean share of a round that a client waits", x, y: { text: percent }, series: [of("idle", "idle_share", own, "")] }));
  }
  return found;
}

function devices(run, state, changed) {
  return el("div", {},
    run.clients.length ? clients(run, state, changed) : el("p", { class: "note" }, "No client was asked yet."),
    run.engine === "flower" && !isFile && network(run));
}

function clients(run, state, changed) {
  const all = [
    { key: "client", label: "client", number: true },
    { key: "device", label: "class" },
    { key: "capacity", label: "layers it reported", number: true },
    { key: "state", label: "memory", value: (row) => row.predicted ?? row.state, show: memory },
    { key: "layers", label: "trained layers", value: (row) => row.layers.length, show: (row) => spans(row.layers.map(([layer]) => layer)) },
    { key: "rounds", label: "rounds", number: true },
    { key: "examples", label: "examples", number: true },
    { key: "download", label: "down", number: true, show: (row) => bytes(row.download) },
    { key: "upload", label: "up", number: true, show: (row) => bytes(row.upload) },
    { key: "busy", label: "training", number: true, show: (row) => seconds(row.busy) },
    { key: "simulated", label: "on the device", number: true, show: (row) => seconds(row.simulated) },
    { key: "idle_share", label: "idle", number: true, show: (row) => percent(row.idle_share) },
    { key: "failures", label: "failures", number: true },
  ];
  const columns = all.filter(({ key }) => run.clients.some((row) => row[key] !== null));
  return el("div", {},
    sortable(run.clients, columns, state.devices ?? "client", (key) => changed({ devices: key }), "clients of the run"),
    run.clients.some((row) => row.memory) && el("p", { class: "note" }, "Memory: weights, gradients and optimizer as measured (dark), the predicted peak of a step (light), beside what the device reported."));
}

/** Return what a client holds in words, and as a bar if it reported its memory. */
function memory(row) {
  const part = (value) => `${Math.min(100, (100 * (value ?? 0)) / row.memory).toFixed(1)}%`;
  const words = [bytes(row.state), row.predicted && `peak ${bytes(row.predicted)}`, row.memory && `of ${bytes(row.memory)}`].filter(Boolean).join(", ");
  if (!row.memory) return words;
  return [shape("svg", { viewBox: "0 0 100 8", class: "bar", preserveAspectRatio: "none", role: "img", "aria-label": words },
    shape("rect", { width: "100%", height: 8, fill: "var(--line)" }),
    shape("rect", { width: part(row.predicted), height: 8, fill: "#4CABE8" }),
    shape("rect", { width: part(row.state), height: 8, fill: "#0072B2" })), words];
}

/** Return the network's devices as they are now, looked at again and again. */
function network(run) {
  const place = el("div", { id: "devices-now" });
  const look = async () => {
    try {
      const { server, problem } = await load("devices", { name: run.name });
      place.replaceChildren(...(server ? devicesNow(server) : [el("p", { class: "note" }, `The server's own list: ${problem}.`)]));
    } catch (error) {
      place.replaceChildren(el("p", { class: "note" }, error.message));
    }
  };
  look();
  whileShown(place, AGAIN, look);
  return place;
}

function devicesNow(server) {
  const now = Date.now() / 1000;
  const rows = server.devices.map(({ number: own, name, state, last_seen: seen, capacity, refused }) =>
    [own, name, state, ago(seen, now), bytes(capacity?.memory_bytes), capacity?.layers ?? null, capacity?.examples ?? null, refused ?? ""]);
  return [
    el("h3", {}, `Devices now, at ${server.address}${server.running ? "" : " (the server does not run)"}`),
    plainTable([["", "name", "state", "last seen", "memory", "layers it reported", "examples", "why it took no part"], ...rows]),
  ];
}

function failures(run) {
  const found = [];
  if (run.sat_out.length) {
    found.push(el("ul", {}, run.sat_out.map(({ reason, clients, times }) =>
      el("li", {}, `Clients ${spans(clients)} sat out, ${times} times in all: ${reason}`))));
  }
  if (run.failures.length) {
    const rows = run.failures.map(({ round, client, reason }) => [round, client, reason]);
    const more = run.failed - run.failures.length;
    found.push(plainTable([["round", "client", "what went wrong"], ...rows]));
    if (more > 0) found.push(el("p", { class: "note" }, `and ${more} earlier ones`));
  }
  return found.length ? el("div", {}, found) : el("p", { class: "note" }, "No client failed, and none sat out.");
}

function tests(run) {
  const { before, after } = run.tests;
  if (!after) return el("p", { class: "note" }, "The run is not finished.");
  const names = Object.keys({ ...before?.metrics, ...after.metrics });
  const rows = names.map((name) => [name, before?.metrics?.[name] ?? null, after.metrics[name] ?? null, after.notes?.[name] ?? ""]);
  const found = [plainTable([[`${after.split}, ${after.examples} examples`, "before", "after", "note"], ...rows])];
  if (after.confusion) {
    const own = Object.entries(after.confusion);
    const columns = Object.keys(own[0]?.[1] ?? {});
    found.push(el("h3", {}, "What was taken for what"), plainTable([["class", ...columns], ...own.map(([name, counts]) => [name, ...columns.map((key) => counts[key])])]));
  }
  return el("div", {}, found);
}

function options(run, state, changed) {
  const all = state.options === "all";
  const rows = run.options.filter((each) => all || each.changed);
  const toggle = el("button", { type: "button", click: () => changed({ options: all ? null : "all" }) }, all ? "only what differs from the defaults" : `all ${run.options.length} options`);
  return el("div", {},
    el("div", { class: "choices" }, toggle, el("span", { class: "note" }, run.versions.leff ? `leff ${run.versions.leff}, torch ${run.versions.torch}, on ${run.device}` : "")),
    plainTable([["option", "value", "default", "what it means"], ...rows.map((each) => [each.key, option(each.value), option(each.default), each.meaning])]));
}
