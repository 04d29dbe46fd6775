// What is shown as a file: rows as CSV, a chart as PNG.
import { el } from "./dom.js";

const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font", "opacity", "text-anchor", "dominant-baseline"];

/** Save rows, the first of them the names of the columns. */
export function saveCsv(name, rows) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    // a text that a spreadsheet would take for a formula
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const text = rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  save(`${name}.csv`, new Blob([text], { type: "text/csv" }));
}

/** Save an SVG as it looks, twice its size. */
export async function savePng(name, svg) {
  const copy = svg.cloneNode(true);
  const styled = [...svg.querySelectorAll("*")];
  [...copy.querySelectorAll("*")].forEach((element, k) => {
    const style = getComputedStyle(styled[k]);
    for (const key of KEPT) element.style.setProperty(key, style.getPropertyValue(key));
  });
  const { width, height } = svg.getBoundingClientRect();
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await image.decode();
  const canvas = el("canvas", { width: 2 * width, height: 2 * height });
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => save(`${name}.png`, blob));
}

function save(name, blob) {
  const address = URL.createObjectURL(blob);
  el("a", { href: address, download: name.replaceAll(/[^\w.-]+/g, "-") }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
