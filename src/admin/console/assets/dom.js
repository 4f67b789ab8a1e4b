// Elements and numbers. Texts go into the page as texts, never as markup.

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// What has not changed is left alone, so that nobody is told of it again and no selection is lost.
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

export function fill(node, children) {
  const shown = children.map((child) => child.outerHTML).join("");
  const mark = `${shown.length}:${hash(shown)}`;
  if (node.dataset.shown === mark) return;
  node.dataset.shown = mark;
  const held = node.contains(document.activeElement) && document.activeElement.dataset.path;
  node.replaceChildren(...children);
  if (held) node.querySelector(`[data-path="${CSS.escape(held)}"]`)?.focus();
}

function hash(value) {
  let sum = 0;
  for (let at = 0; at < value.length; at++) sum = (Math.imul(sum, 31) + value.charCodeAt(at)) | 0;
  return sum;
}

export const cell = (value, kind = "") => el("td", kind ? { class: kind } : {}, value);
export const none = (columns, why) => el("tr", {}, el("td", { class: "none", colspan: columns }, why));
export const facts = (pairs) => pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const known = (value) => value !== null && value !== undefined;

export const whole = (value) => (known(value) ? plain.format(value) : "–");

export function number(value) {
  if (!known(value)) return "–";
  if (value >= 1e6) return (value / 1e6).toFixed(1) + " M";
  if (value >= 100 || value === Math.round(value)) return plain.format(value);
  return value.toFixed(value < 1 ? 2 : 1);
}

export function millis(value) {
  if (!known(value)) return "–";
  if (value >= 10000) return span(value / 1000);
  if (value >= 1000) return (value / 1000).toFixed(1) + " s";
  if (value > 0 && value < 0.1) return Math.round(value * 1000) + " µs";
  return (value >= 10 ? Math.round(value) : Number(value.toPrecision(2))) + " ms";
}

export function span(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 1) return "0 s";
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  const [size, name] = parts[first];
  const rest = parts[first + 1] && Math.floor((seconds % size) / parts[first + 1][0]);
  const whole = `${Math.floor(seconds / size)} ${name}`;
  return rest ? `${whole} ${rest} ${parts[first + 1][1]}` : whole;
}

export function bytes(value) {
  if (!known(value)) return "–";
  const names = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  for (; value >= 1024 && at < names.length - 1; at++) value /= 1024;
  return (value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)) + " " + names[at];
}

export function percent(value) {
  if (!known(value)) return "–";
  const digits = Number.isInteger(value * 100) ? 0 : value > 0.995 ? 2 : 1;
  return (value * 100).toFixed(digits) + " %";
}

// As in the logs: UTC. The day stands there where it is not today.
export function time(iso) {
  const today = new Date().toISOString().slice(0, 10);
  return iso.slice(0, 10) === today ? iso.slice(11, 19) : `${iso.slice(0, 10)} ${iso.slice(11, 19)}`;
}

// Asks the listener; a problem document becomes an error that carries its sentence.
// The token of the page is told once. It is kept where all tabs of this address find it, and those of other ports do not.
const STORED = "csrf";
let csrf = "";

export function remember(value) {
  csrf = value;
  try { localStorage.setItem(STORED, csrf); } catch { /* This tab knows it. */ }
}

function proof() {
  try { return localStorage.getItem(STORED) ?? csrf; } catch { return csrf; }
}

export async function ask(method, path, body) {
  const headers = { "X-CSRF-Token": proof(), ...(method === "GET" ? {} : { "Content-Type": "application/json" }) };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(30000) });
  } catch {
    throw Object.assign(new Error("The instance does not answer."), { status: 0 });
  }
  if (answer.ok) return answer.json().catch(() => null);
  throw Object.assign(new Error(await sentence(answer)), { status: answer.status, wait: answer.headers.get("Retry-After") });
}

async function sentence(answer) {
  const problem = await answer.json().catch(() => null);
  return problem?.detail ? `${problem.code}: ${problem.detail}` : `The instance answered ${answer.status}.`;
}

// Why a stream is refused; nothing where it is not.
export async function why(path) {
  const end = new AbortController();
  try {
    const answer = await fetch(path, { signal: end.signal });
    return answer.ok ? "" : await sentence(answer);
  } catch {
    return "";
  } finally {
    end.abort();
  }
}
