// Elements of HTML and SVG.  Texts are always texts: nothing here reads markup out of data.

// the name of SVG's elements, asked of the browser
const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;

/** Return an HTML element; a function is a listener, and null or false leaves an attribute out. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const undrawn = new Set(); // drawings that came onto the page together

/** Draw what is undrawn: all widths are read first, so that the page is laid out once. */
function drawAll() {
  const widths = [...undrawn].map((each) => [each, Math.round(each.clientWidth)]);
  undrawn.clear();
  for (const [each, width] of widths) each.fit(width);
}

// Draws itself to its width: as soon as it is on the page, and again whenever that changes.
class Drawing extends HTMLElement {
  #width = 0;
  #watch = new ResizeObserver(() => requestAnimationFrame(() => this.fit(Math.round(this.clientWidth))));

  connectedCallback() {
    if (!undrawn.size) queueMicrotask(drawAll);
    undrawn.add(this);
    this.#watch.observe(this);
  }

  disconnectedCallback() {
    this.#watch.disconnect();
  }

  fit(width) {
    if (!width || width === this.#width) return;
    this.#width = width;
    this.replaceChildren(this.draw(width));
  }
}
customElements.define("own-drawing", Drawing);

/** Return an element that `draw(width)` fills. */
export function responsive(draw) {
  return Object.assign(document.createElement("own-drawing"), { draw });
}

/** Call `again` every so many seconds, for as long as an element is on the page. */
export function whileShown(element, every, again) {
  const timer = setInterval(() => (element.isConnected ? again() : clearInterval(timer)), 1000 * every);
}

/** Return a labelled choice of one of `options`, pairs of a value and a text. */
export function choice(label, options, value, chosen) {
  const list = options.map(([own, text]) => el("option", { value: own, selected: own === value }, text));
  const select = el("select", { "aria-label": label, change: (event) => chosen(event.target.value) }, list);
  return el("label", {}, el("span", { class: "soft" }, `${label} `), select);
}
