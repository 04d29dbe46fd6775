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

// Draws itself to its width: at once when it comes onto the page, and again whenever that changes.
class Drawing extends HTMLElement {
  #width = 0;
  #watch = new ResizeObserver(() => requestAnimationFrame(() => this.#fit()));

  connectedCallback() {
    this.#fit();
    this.#watch.observe(this);
  }

  disconnectedCallback() {
    this.#watch.disconnect();
  }

  #fit() {
    const now = Math.round(this.clientWidth);
    if (!now || now === this.#width) return;
    this.#width = now;
    this.replaceChildren(this.draw(now));
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
