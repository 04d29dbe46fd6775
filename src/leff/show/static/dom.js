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

/** Return an element that `draw(width)` fills, again whenever its width changes. */
export function responsive(draw) {
  const place = el("div");
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.round(place.clientWidth);
    if (now && now !== width) {
      width = now;
      requestAnimationFrame(() => place.replaceChildren(draw(width)));
    }
  }).observe(place);
  return place;
}

/** Return a labelled choice of one of `options`, pairs of a value and a text. */
export function choice(label, options, value, chosen) {
  const list = options.map(([own, text]) => el("option", { value: own, selected: own === value }, text));
  const select = el("select", { "aria-label": label, change: (event) => chosen(event.target.value) }, list);
  return el("label", {}, el("span", { class: "soft" }, `${label} `), select);
}
