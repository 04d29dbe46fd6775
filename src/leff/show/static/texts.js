// Texts of the model by round, beside what they should be.
import { el } from "./dom.js";

const SHOWN = 3; // references

/** Return each text that was followed: its input, its references, and what the model made of it. */
export function textsOf(texts) {
  if (!texts.length) return el("p", { class: "note" }, "This run generates no texts, or keeps none (evaluation.texts).");
  return el("div", {}, texts.map((text) => el("section", {},
    el("h3", {}, text.input),
    text.references.slice(0, SHOWN).map((own) => el("blockquote", {}, el("span", { class: "soft" }, "reference  "), own)),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "round"), el("th", { scope: "col" }, "output"))),
      el("tbody", {}, same(text.outputs).map(({ first, last, output }) => el("tr", {},
        el("td", {}, first === last ? `${first}` : `${first} to ${last}`),
        el("td", { class: "words" }, output || el("span", { class: "soft" }, "nothing"))))))))));
}

/** Return outputs with equal ones of successive rounds together. */
function same(outputs) {
  const found = [];
  for (const { round, output } of outputs) {
    const before = found.at(-1);
    if (before && before.output === output) before.last = round;
    else found.push({ first: round, last: round, output });
  }
  return found;
}
