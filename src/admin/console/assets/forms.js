// What an operator does: purges, looks at an entry, reads the journal and the settings.

import { $, ask, bytes, cell, el, facts, fill, none, number, span, text, time, whole } from "./dom.js";

const LABELS = {
  tags: ["Tags, parted by spaces", "rates:USD rates:EUR"],
  path: ["Path; with a query one answer, with /* at its end all below", "/public/rates?base=USD"],
  key: ["Key, as an entry shows it", "32 hexadecimal digits"],
  all: ["", ""],
};

let picture = null;
// What the button orders, and how often the form was changed: an answer that comes after a change is of something else.
let order = null;
let changes = 0;

export const see = (newest) => (picture = newest);

function failed(node, error) {
  node.replaceChildren(el("p", { class: "error" }, error.message));
}

function wish() {
  const form = new FormData($("purge"));
  const [kind, what, mode] = ["kind", "what", "mode"].map((name) => form.get(name)?.trim());
  if (kind === "all") return { all: true, mode };
  return { [kind]: kind === "tags" ? what.split(/\s+/).filter(Boolean) : what, mode };
}

function forget() {
  order = null;
  changes += 1;
  $("purge-go").hidden = true;
  $("purge-result").replaceChildren();
}

async function preview(event) {
  event.preventDefault();
  forget();
  const [wanted, asked] = [wish(), changes];
  try {
    const found = wanted.all
      ? { entries: picture?.status.cache.entries ?? 0, of_entries: picture?.status.cache.entries ?? 0, bytes: picture?.status.cache.bytes ?? 0, tags: [], examples: [] }
      : await ask("POST", "/admin/cache/preview", wanted);
    if (asked !== changes) return;
    order = wanted;
    const lines = [el("p", {}, el("b", {}, `${whole(found.entries)} of ${whole(found.of_entries)} entries`), ` of this instance fall (${bytes(found.bytes)}). Other instances and L2 follow.`)];
    if (found.tags.length) lines.push(el("p", { class: "soft" }, "By ", el("code", {}, found.tags.join(" "))));
    if (found.examples.length) lines.push(el("ul", {}, ...found.examples.map((path) => el("li", {}, el("code", {}, path)))));
    if (found.entries > found.examples.length && found.examples.length) lines.push(el("p", { class: "soft" }, `and ${whole(found.entries - found.examples.length)} more`));
    $("purge-result").replaceChildren(...lines);
    text($("purge-go"), wanted.all ? `Purge everything, ${wanted.mode}` : `Purge, ${wanted.mode}`);
    $("purge-go").hidden = false;
  } catch (error) {
    if (asked === changes) failed($("purge-result"), error);
  }
}

async function purge() {
  const [{ all, ...body }, asked] = [order, changes];
  $("purge-go").disabled = true;
  try {
    const done = all ? await ask("POST", `/admin/cache/flush?mode=${body.mode}`) : await ask("POST", "/admin/cache/purge", body);
    const { instances, regions } = done;
    const missing = instances.known - instances.confirmed;
    forget();
    $("purge-result").replaceChildren(
      el("p", { class: missing || regions.unreached.length ? "w" : "o" }, missing || regions.unreached.length ? "Purged here, and not everywhere:" : "Purged."),
      el("dl", { class: "facts" }, ...facts([
        ["Instances", `${instances.confirmed} of ${instances.known} have confirmed`],
        ["Regions", regions.reached.join(", ") || "–"],
        ...(regions.unreached.length ? [["Not reached", regions.unreached.join(", ")]] : []),
        ["Id", el("code", {}, done.id)],
      ])),
    );
    $("purge-preview").focus();
  } catch (error) {
    // Another preview may have come meanwhile: no button stays that its words do not stand beside.
    if (asked !== changes) forget();
    failed($("purge-result"), error);
  } finally {
    $("purge-go").disabled = false;
  }
}

export async function look(event) {
  event?.preventDefault();
  const [path, result] = [$("entry-path").value.trim(), $("entry-result")];
  try {
    const entry = await ask("GET", `/admin/cache/entry?path=${encodeURIComponent(path)}`);
    const code = (value) => el("code", {}, value ?? "–");
    result.replaceChildren(el("dl", { class: "facts" }, ...facts([
      ["Standing", el("span", { class: { current: "o", unknown: "w", purged: "w", forbidden: "c" }[entry.standing] ?? "" }, entry.standing)],
      ["Freshness", entry.ttl_s >= 0 ? `fresh for ${span(entry.ttl_s)}` : `stale since ${span(-entry.ttl_s)}`],
      ["Age", span(entry.age_s)],
      ["Layer", `${entry.layer}, ${entry.origin}, from ${entry.detail}`],
      ["Status", `${entry.status}, ${bytes(entry.bytes)}, ${number(entry.hits)} hits`],
      ["Route", code(entry.route)],
      ["Tags", code(entry.tags.join(" "))],
      ["Key", code(entry.key)],
      ["ETag", code(entry.etag)],
      ["Told", code(entry.told)],
      ["As of", code(entry.as_of)],
    ])));
  } catch (error) {
    failed(result, error);
  }
}

const KINDS = { degraded: "w", recovered: "o", health: "" };

export async function journal() {
  const { events } = await ask("GET", "/admin/journal");
  const rows = events.map(({ at, kind, by, what, result, id }) => el("tr", {},
    cell(time(at), "t mono"), cell(kind, KINDS[kind] ?? ""), cell(by, "t"), cell(what, "wide"), cell(id ? `${result}, ${id}` : result, "wide")));
  fill($("journal"), rows.length ? rows : [none(5, "Nothing has happened yet.")]);
}

let settings = null;

function showSettings() {
  const [filter, onlyChanged] = [$("settings-filter").value.trim().toLowerCase(), $("settings-changed").checked];
  const rows = (settings ?? [])
    .filter(({ key, is_default }) => key.includes(filter) && !(onlyChanged && is_default))
    .map(({ key, value, is_default }) => el("tr", is_default ? {} : { class: "changed" },
      el("td", { class: "mono t" }, key), el("td", { class: "mono wide" }, typeof value === "string" ? value : JSON.stringify(value))));
  $("settings").replaceChildren(...(rows.length ? rows : [none(2, settings ? "No setting is like this." : "Asking…")]));
}

async function openSettings() {
  if (!$("settings-open").open || settings) return;
  showSettings();
  try {
    settings = (await ask("GET", "/admin/settings")).settings;
    showSettings();
  } catch (error) {
    $("settings").replaceChildren(none(2, error.message));
  }
}

export function prepare() {
  $("purge").addEventListener("submit", preview);
  $("purge").addEventListener("input", ({ target }) => {
    forget();
    if (target.name !== "kind") return;
    const [label, example] = LABELS[target.value];
    text($("purge-label"), label);
    $("purge-what").placeholder = example;
    $("purge-what").hidden = $("purge-label").hidden = target.value === "all";
  });
  $("purge-go").addEventListener("click", purge);
  $("entry").addEventListener("submit", look);
  $("settings-open").addEventListener("toggle", openSettings);
  $("settings-filter").addEventListener("input", showSettings);
  $("settings-changed").addEventListener("input", showSettings);
}

export function reset() {
  settings = null;
  forget();
  for (const id of ["settings", "journal", "entry-result"]) { $(id).replaceChildren(); delete $(id).dataset.shown; }
  $("settings-open").open = false;
}
