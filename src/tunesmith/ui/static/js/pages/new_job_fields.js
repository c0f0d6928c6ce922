// @ts-check
/** The settings of a method: chosen ones are shown, those that somebody sets are kept in the job's `hyperparameters`. */
import { make } from "../dom.js";
import { number, percent, signif } from "../words.js";

/** @typedef {Record<string, any>} Values */

/** @returns {HTMLElement[]} */
export const settings = () => /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-setting]")]);

/** @param {Values} values @param {string} path such as `early_stopping.patience` */
export const at = (values, path) => path.split(".").reduce((/** @type {any} */ place, part) => place?.[part], values);

/** @param {Values} values @param {string} path @param {unknown} value undefined takes it away, and what is left empty with it */
function put(values, path, value) {
  const [first, ...rest] = path.split(".");
  if (!rest.length) {
    if (value === undefined) delete values[first];
    else values[first] = value;
    return;
  }
  const inner = { ...values[first] };
  put(inner, rest.join("."), value);
  if (Object.keys(inner).length) values[first] = inner;
  else delete values[first];
}

/** Which of the fields belong to a method. @param {string} method */
export function showMethod(method) {
  for (const place of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-methods]"))) {
    place.hidden = !(place.dataset.methods ?? "").split(" ").includes(method);
  }
  for (const line of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-for]"))) {
    line.hidden = !(line.dataset.for ?? "").split(" ").includes(method);
  }
}

/** Settings that the method does not have are given up. @param {Values} given @param {string} method */
export function dropForeign(given, method) {
  for (const place of settings()) {
    const path = place.dataset.setting ?? "", mine = settings().some(other => other.dataset.setting === path && other.dataset.methods?.split(" ").includes(method));
    if (!mine) put(given, path, undefined);
  }
}

/** @param {HTMLElement} place @returns {any} */
const control = place => place.querySelector("[data-control]");

/** What stands in a field, as the API takes it; undefined when it is empty. Text that is no number goes as it is: the server says so. @param {HTMLElement} place */
function read(place) {
  const kind = place.dataset.kind, field = control(place);
  if (kind === "choices") return [...field.querySelectorAll("input:checked")].map((/** @type {HTMLInputElement} */ box) => box.value);
  if (field.type === "checkbox") return field.checked;
  const text = field.value, bare = text.trim();
  if (bare === "") return undefined;
  if (kind === "number" || kind === "integer") return Number.isNaN(Number(bare)) ? bare : Number(bare);
  if (kind === "boolean") return text === "true";
  if (kind === "names") return bare === "all-linear" ? bare : bare.split(/[\s,]+/).filter(Boolean);
  if (kind !== "object") return text;
  try { return JSON.parse(text); } catch { return text; }
}

/** @param {HTMLElement} place @param {any} value */
function write(place, value) {
  const kind = place.dataset.kind, field = control(place);
  if (field === document.activeElement && kind !== "boolean") return; // somebody types there
  if (kind === "choices") {
    for (const box of field.querySelectorAll("input")) box.checked = (value ?? []).includes(box.value);
  } else if (field.type === "checkbox") field.checked = Boolean(value);
  else if (kind === "names") field.value = Array.isArray(value) ? value.join(", ") : value ?? "";
  else if (kind === "object") field.value = value == null ? "" : JSON.stringify(value, null, 2);
  else field.value = value == null ? "" : String(value);
}

/** A value in words. @param {any} value @param {string} unit */
export function told(value, unit = "") {
  if (value == null) return "not set";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (Array.isArray(value)) return value.length ? value.join(", ") : "none";
  if (typeof value === "object") return JSON.stringify(value);
  if (unit === "share") return percent(value, value && value < .01 ? 2 : value < .1 && value ? 1 : 0);
  if (value === 1) unit = unit.replace(/(?<=(s|ch))es$|s$/, "");
  const text = typeof value === "number" ? (Number.isInteger(value) ? number(value) : signif(value)) : String(value).replaceAll("_", " ");
  return unit ? `${text} ${unit}` : text;
}

/** A field was changed by hand: keep it. @param {HTMLElement} place @param {Values} given */
export function take(place, given) {
  put(given, place.dataset.setting ?? "", read(place));
  const two = { max_steps: "epochs", warmup_steps: "warmup_ratio" }, other = Object.entries(two).find(([, name]) => name === place.dataset.setting)?.[0];
  if (other && at(given, place.dataset.setting ?? "") !== undefined) put(given, other, undefined); // the one would hide the other
}

/** @param {HTMLElement} place @param {Values} given */
export const giveUp = (place, given) => put(given, place.dataset.setting ?? "", undefined);

/** @param {string} group @param {Values} given */
export function giveUpGroup(group, given) {
  for (const place of settings()) if (place.closest(`[data-group="${group}"]`)) giveUp(place, given);
}

/**
 * Every field with its value: what was given, else what was chosen, else the default.
 * @param {Values} given @param {Values | null} complete of the plan @param {Record<string, string>} reasons
 */
export function show(given, complete, reasons) {
  for (const place of settings()) {
    const path = place.dataset.setting ?? "", mine = at(given, path), chosen = complete ? at(complete, path) : JSON.parse(place.dataset.default ?? "null");
    const pinned = mine !== undefined, value = pinned ? mine : chosen, reason = pinned ? "" : reasons[path.split(".")[0]] ?? "";
    write(place, value);
    place.toggleAttribute("data-pinned", pinned);
    /** @type {HTMLElement} */ (place.querySelector("[data-reset]")).hidden = !pinned;
    /** @type {HTMLElement} */ (place.querySelector("[data-chosen]")).textContent = told(value, place.dataset.unit);
    /** @type {HTMLElement} */ (place.querySelector("[data-reason]")).textContent = reason || unusual(place, pinned ? mine : null);
    place.toggleAttribute("data-unusual", !reason && Boolean(unusual(place, pinned ? mine : null)));
  }
}

/** @param {HTMLElement} place @param {any} value */
function unusual(place, value) {
  const [low, high] = (place.dataset.usual ?? "").split(" ").map(Number);
  if (typeof value !== "number" || !place.dataset.usual || (value >= low && value <= high)) return "";
  return `That is unusual: ${signif(low)} to ${signif(high)} is common.`;
}

/** Whether each group is chosen or set by hand, and what is in it. @param {string[]} byHand @param {Values} given */
export function showGroups(byHand, given) {
  for (const group of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-group]"))) {
    const key = group.dataset.group ?? "", mine = [.../** @type {NodeListOf<HTMLElement>} */ (group.querySelectorAll("[data-setting]"))].filter(place => !place.hidden);
    const set = mine.filter(place => at(given, place.dataset.setting ?? "") !== undefined), hand = byHand.includes(key) || set.length > 0 || key === "script";
    group.toggleAttribute("data-hand", hand);
    const box = /** @type {HTMLInputElement} */ (group.querySelector("[data-by-hand]"));
    box.checked = hand;
    /** @type {HTMLElement} */ (box.closest("label")).hidden = key === "script";
    const shown = (set.length ? set : mine).slice(0, 3).map(place => `${place.dataset.title} ${place.querySelector("[data-chosen]")?.textContent}`);
    const note = /** @type {HTMLElement} */ (group.querySelector("[data-group-note]"));
    note.replaceChildren(make("span", set.length ? `Set by you: ${shown.join(" · ")}` : shown.join(" · ")));
  }
}
