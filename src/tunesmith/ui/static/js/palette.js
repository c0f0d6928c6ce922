// @ts-check
/** Ctrl-K: pages, actions, and the jobs, datasets and models that fit what is typed. */
import { call } from "./api.js";
import { nextTheme } from "./app.js";
import { $, announce, debounce, icon, make } from "./dom.js";
import { plural } from "./words.js";

/** @typedef {{text: string, icon: string, group: string, hint?: string, href?: string, act?: () => void}} Item */

const MOST = 5, WAIT_MS = 120;

/** @type {Item[]} */
const ACTIONS = [
  ...(/\btrain\b/.test(document.body.dataset.may ?? "") ? [
    { group: "Actions", text: "New training job", icon: "plus", href: "/jobs/new" },
    { group: "Actions", text: "Upload a dataset", icon: "upload", href: "/datasets/new" },
  ] : []),
  { group: "Actions", text: "Chat with a model", icon: "message-square", href: "/playground" },
  { group: "Actions", text: "Change theme", icon: "sun-moon", act: nextTheme },
  { group: "Actions", text: "Keyboard shortcuts", icon: "keyboard", act: () => $("shortcuts").showModal() },
];

/** @returns {Item[]} */
const pages = () => [...document.querySelectorAll(".side nav a")].map(link => {
  const { title = "", icon: name = "", key } = /** @type {HTMLElement} */ (link).dataset;
  return { group: "Pages", text: title, icon: name, hint: key ? `g ${key}` : "", href: link.getAttribute("href") ?? "/" };
});

/** @type {Item[]} */
let items = [];
let at = 0, asked = 0;

/** Each word typed begins somewhere in the text. @param {string} text @param {string} typed */
const fits = (text, typed) => typed.toLowerCase().split(/\s+/).filter(Boolean).every(word => text.toLowerCase().includes(word));

/** A list that fails is left out; the rest is still found. @param {string} path @param {(found: any) => Item} draw @returns {Promise<Item[]>} */
async function ask(path, draw) {
  try {
    return (await call(path)).items.slice(0, MOST).map(draw);
  } catch {
    return [];
  }
}

/** @param {string} typed @returns {Promise<Item[]>} */
async function search(typed) {
  const q = encodeURIComponent(typed.slice(0, 100)), limit = `limit=${MOST}`;
  const found = await Promise.all([
    ask(`/jobs/?${limit}${q && `&q=${q}`}`, job => ({ group: q ? "Jobs" : "Recent jobs", text: job.name, icon: "activity", hint: `job ${job.id} · ${job.status}`, href: `/jobs/${job.id}` })),
    ask(`/datasets/?${limit}${q && `&q=${q}`}`, set => ({ group: q ? "Datasets" : "Recent datasets", text: set.name, icon: "database", hint: set.num_rows == null ? set.status : plural(set.num_rows, "row"), href: `/datasets/${set.id}` })),
    q ? models(typed) : [],
  ]);
  return found.flat();
}

/** @param {string} typed @returns {Promise<Item[]>} */
async function models(typed) {
  try {
    const all = (await call("/models/")).items;
    const fitting = all.filter((/** @type {any} */ model) => fits(`${model.name} ${model.base_model ?? ""}`, typed)).slice(0, MOST);
    return fitting.map((/** @type {any} */ model) => ({ group: "Models", text: model.name, icon: "box", hint: model.base_model ? "tuned" : "base", href: `/models/${model.name.split("/").map(encodeURIComponent).join("/")}` }));
  } catch {
    return [];
  }
}

function draw() {
  const list = $("palette-list"), input = $("palette-input");
  let group = "";
  const rows = items.flatMap((item, i) => {
    const row = make("div", undefined, { role: "option", id: `palette-${i}`, "aria-selected": String(i === at) }, [icon(item.icon), make("span", item.text)]);
    if (item.hint) row.append(make("small", item.hint));
    row.addEventListener("click", () => choose(i));
    row.addEventListener("pointermove", () => mark(i));
    const heading = item.group === group ? [] : [make("div", item.group, { class: "palette-group", role: "presentation" })];
    group = item.group;
    return [...heading, row];
  });
  list.replaceChildren(...rows);
  input.setAttribute("aria-expanded", String(items.length > 0));
  $("palette-empty").hidden = items.length > 0;
  if (!items.length) $("palette-empty").textContent = `No matches “${input.value.trim()}”.`;
  mark(at);
}

/** @param {number} index */
function mark(index) {
  at = items.length ? (index + items.length) % items.length : 0;
  for (const row of $("palette-list").querySelectorAll("[role=option]")) row.setAttribute("aria-selected", String(row.id === `palette-${at}`));
  const row = $(`palette-${at}`);
  if (row) $("palette-input").setAttribute("aria-activedescendant", row.id);
  else $("palette-input").removeAttribute("aria-activedescendant");
  row?.scrollIntoView({ block: "nearest" });
}

/** @param {number} index */
function choose(index) {
  const item = items[index];
  if (!item) return;
  $("palette").close();
  if (item.act) item.act();
  else if (item.href) location.href = item.href;
}

/** What is known at once, then what the server finds. */
async function find() {
  const typed = $("palette-input").value.trim(), mine = ++asked;
  const known = [...ACTIONS, ...pages()].filter(item => fits(item.text, typed));
  items = known;
  at = 0;
  draw();
  const found = await search(typed);
  if (mine !== asked || !$("palette").open) return;
  items = typed ? [...found, ...known] : [...known.slice(0, 3), ...found, ...known.slice(3)];
  draw();
  announce(plural(items.length, "result"));
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  const moves = /** @type {Record<string, number>} */ ({ ArrowDown: at + 1, ArrowUp: at - 1, PageDown: Math.min(at + 6, items.length - 1), PageUp: Math.max(at - 6, 0) });
  if (event.key in moves) mark(moves[event.key]);
  else if (event.key === "Enter") choose(at);
  else return;
  event.preventDefault();
}

let ready = false;

/** The dialog is open; what has been typed already counts. */
export function fillPalette() {
  const input = $("palette-input");
  if (!ready) {
    input.addEventListener("input", debounce(() => void find(), WAIT_MS));
    input.addEventListener("keydown", pressed);
    $("palette").addEventListener("close", () => { input.value = ""; asked++; });
    ready = true;
  }
  void find();
}
