// Colours: of methods, as in every picture; of groups of clients; and a scale from little to much.

const OTHERS = ["#0072B2", "#E09200", "#00A776", "#CB5500", "#4CABE8", "#EE74B6", "#6B6B6B", "#9A8700"];
const SCALE = ["#e7f0f7", "#9ecae1", "#4f9bcb", "#1f66ad", "#0a2f66"];
const STEPS = 64; // of the scale
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

/** Return a colour for each name, in their order. */
export function groupColours(names) {
  return new Map(names.map((name, k) => [name, OTHERS[k % OTHERS.length]]));
}

/** Return a colour and a dash for each run: its method's colour; a dash sets those of one apart. */
export function runStyles(runs, methods) {
  const drawn = new Map();
  return new Map(
    runs.map((run) => {
      const times = drawn.get(run.method) ?? 0;
      drawn.set(run.method, times + 1);
      return [run.name, { colour: methods[run.method] ?? "#9A8700", dash: DASHES[times % DASHES.length] }];
    }),
  );
}

/** Return the colour of a share from 0 to 1, in steps that no eye tells apart. */
export function scaled(share) {
  const place = (Math.round(Math.min(Math.max(share, 0), 1) * STEPS) / STEPS) * (SCALE.length - 1);
  const k = Math.min(Math.floor(place), SCALE.length - 2);
  const parts = [1, 3, 5].map((at) => {
    const [low, high] = [SCALE[k], SCALE[k + 1]].map((hex) => parseInt(hex.slice(at, at + 2), 16));
    return Math.round(low + (high - low) * (place - k));
  });
  return `rgb(${parts.join(",")})`;
}
