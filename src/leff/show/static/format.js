// Values as people read them.  A value that is not known is a dash.

const NONE = "–";
const WHOLE = new Intl.NumberFormat("en"); // one, as each takes long to make
const known = (value) => value !== null && value !== undefined;

/** Return a number with four significant digits. */
export function number(value) {
  if (!known(value)) return NONE;
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return WHOLE.format(value);
  return Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

/** Return bytes as kB, MB or GB, powers of ten. */
export function bytes(value) {
  if (!known(value)) return NONE;
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

/** Return seconds as s, min, h or days. */
export function seconds(value) {
  if (!known(value)) return NONE;
  if (value >= 172800) return `${(value / 86400).toFixed(1)} days`;
  if (value >= 7200) return `${(value / 3600).toFixed(1)} h`;
  if (value >= 120) return `${(value / 60).toFixed(1)} min`;
  return `${Number(value.toPrecision(3))} s`;
}

export function percent(value) {
  return known(value) ? `${(100 * value).toFixed(0)}%` : NONE;
}

/** Return how long ago a time was; both are seconds since 1970. */
export function ago(time, now) {
  return known(time) ? `${seconds(Math.max(0, Math.round(now - time)))} ago` : "never";
}

/** Return numbers in order, runs of them as spans: 0-2, 5. */
export function spans(numbers) {
  const found = [];
  for (const each of [...numbers].sort((a, b) => a - b)) {
    const last = found.at(-1);
    if (last && each === last[1] + 1) last[1] = each;
    else found.push([each, each]);
  }
  return found.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ");
}

/** Return a value of an option as TOML has it. */
export function option(value) {
  return known(value) ? JSON.stringify(value) : "not set";
}

/** Return round numbers from `low` to `high`, about `count` of them; of a whole axis if `whole`. */
export function ticks(low, high, count, whole = false) {
  const raw = (high - low) / Math.max(1, count) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999) ?? raw;
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}
