// Where values come from: a server that follows runs, or the file that the page was exported to.

const held = document.getElementById("data");
const exported = held && JSON.parse(held.textContent);

/** Whether the page is an exported file, which stays as it is. */
export const isFile = Boolean(exported);

/** Return the values of an address such as run?name=a.  Throws an Error in plain words. */
export async function load(page, parameters = {}) {
  const plain = Object.entries(parameters).map(([key, value]) => `${key}=${value}`).join("&");
  const address = plain ? `${page}?${plain}` : page;
  if (exported) {
    if (!(address in exported)) throw new Error("this file has not got that; it was left out to keep the file small");
    return exported[address];
  }
  const query = new URLSearchParams(parameters).toString();
  let answer;
  try {
    answer = await fetch(`api/${page}${query ? `?${query}` : ""}`);
  } catch {
    throw new Error("the page's server does not answer; start `leff show` again");
  }
  const values = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(values.problem ?? `the server answered ${answer.status}`);
  return values;
}

/** Call `changed` whenever a run, or any run, has something new; return a function that stops it. */
export function follow(run, version, changed, state) {
  if (exported) return () => {};
  const query = new URLSearchParams(run === null ? { since: version } : { run, since: version });
  const events = new EventSource(`api/events?${query}`);
  events.addEventListener("changed", changed);
  events.onopen = () => state("live");
  events.onerror = () => state("not connected");
  return () => events.close();
}
