// @ts-check
/**
 * Buttons and forms that say in their markup what they do:
 *   data-action="POST /api/v1/jobs/3/pause"   data-body='{"a": 1}'   data-done="Pausing."
 *   data-confirm="Delete it?"  data-more="what else to know"  data-word="Delete"  data-typed="the name to type"
 *   data-then="reload | /address/{id} | name of an event"   (without it the live parts of the page are asked to refresh)
 *   data-undo="POST /api/v1/…"   a toast offers to take it back
 *   data-later="“support” will be deleted."   done some seconds later, or when the page is left, unless it is taken back; its row is hidden meanwhile
 * A form sends its fields as JSON: `name="a.b"` nests, data-type="number|boolean|text|json|list" converts; an empty number, text, json or list
 * is left out, or sent as null with data-empty="null". Problems of a 422 are shown at the fields they name.
 */
import { call } from "./api.js";
import { announce, detailsOf, make, showProblem, clearProblem, sure } from "./dom.js";
import { toast, toastError, toastNext } from "./toast.js";

/** @param {string} text such as "DELETE /api/v1/jobs/3" @param {unknown} [body] @param {RequestInit} [options] */
function perform(text, body, options = {}) {
  const [, method, path] = /^(GET|POST|PUT|PATCH|DELETE) (\S+)$/.exec(text) ?? [];
  if (!path) throw new Error(`data-action cannot be read: ${text}`);
  return call(path, body === undefined ? { ...options, method } : { ...options, method, json: body });
}

/** Everything on the page that stays fresh asks again. */
export function refreshParts() {
  for (const name of ["tunesmith:jobs", "tunesmith:datasets"]) document.body.dispatchEvent(new CustomEvent(name));
}

/** @param {DOMStringMap} data @param {any} answer */
function after(data, answer) {
  const then = (data.then ?? "").replace(/\{(\w+)\}/g, (_, key) => encodeURIComponent(answer?.[key] ?? ""));
  if (then === "reload" || then.startsWith("/")) {
    if (data.done) toastNext(data.done);
    if (then === "reload") location.reload();
    else location.href = then;
    return;
  }
  if (data.undo) toast(data.done ?? "Done.", { action: "Undo", act: () => void perform(/** @type {string} */ (data.undo)).then(refreshParts, toastError) });
  else if (data.done) toast(data.done);
  if (then) document.body.dispatchEvent(new CustomEvent(then, { detail: answer }));
  else refreshParts();
}

/** @param {HTMLElement} asker @param {unknown} body @param {(error: any) => void} failed */
async function run(asker, body, failed) {
  const data = { ...asker.dataset }; // a refresh may make another button of it while somebody is asked
  if (asker.getAttribute("aria-busy") === "true") return;
  if (data.later) return putOff(data, body, failed);
  if (data.confirm && !await sure(data.confirm, { action: data.word ?? asker.textContent?.trim() ?? "Yes", more: data.more, typed: data.typed })) return;
  asker.setAttribute("aria-busy", "true");
  try {
    after(data, await perform(/** @type {string} */ (data.action), body));
    asker.dispatchEvent(new CustomEvent("tunesmith:done", { bubbles: true }));
  } catch (error) {
    failed(error);
  } finally {
    asker.removeAttribute("aria-busy");
  }
}

const UNDO_MS = 8000;
/** What is put off: its action → what does it now. @type {Map<string, (options?: RequestInit) => void>} */
const putOffs = new Map();

/** @param {string} action @param {boolean} hidden */
function hideRow(action, hidden) {
  const row = /** @type {HTMLElement | null | undefined} */ (document.querySelector(`[data-action="${CSS.escape(action)}"]`)?.closest("tr, li:not(.menu li)"));
  if (row) row.hidden = hidden;
}

/** @param {DOMStringMap} data @param {unknown} body @param {(error: any) => void} failed */
function putOff(data, body, failed) {
  const action = /** @type {string} */ (data.action);
  if (putOffs.has(action)) return;
  const stop = () => { clearTimeout(timer); putOffs.delete(action); box.remove(); };
  const now = async (/** @type {RequestInit} */ options = {}) => {
    stop();
    try { after(data, await perform(action, body, options)); } catch (error) { hideRow(action, false); failed(error); }
  };
  const timer = setTimeout(() => void now(), UNDO_MS);
  putOffs.set(action, now);
  hideRow(action, true);
  const takeBack = () => {
    if (putOffs.get(action) !== now) return; // it has been done
    stop();
    hideRow(action, false);
    announce("Taken back.");
  };
  const box = toast(data.later ?? "", { action: "Undo", tone: "info", act: takeBack });
}

/** @param {any} field an input, select or textarea @returns {unknown} undefined: leave it out */
function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  const text = field.value, type = field.dataset.type;
  if (!type) return text;
  if (text.trim() === "") return field.dataset.empty === "null" ? null : type === "list" ? [] : undefined;
  if (type === "number") return Number(text);
  if (type === "boolean") return text === "true";
  if (type === "text") return text;
  if (type === "list") return text.split(/[,\n]/).map((/** @type {string} */ part) => part.trim()).filter(Boolean);
  try { return JSON.parse(text); } catch { throw Object.assign(new Error("This is not JSON."), { details: [{ loc: field.name, message: "This is not JSON." }] }); }
}

/** What a form holds, as the API takes it. Throws with `details` when a field cannot be read. @param {HTMLFormElement} form */
export function valuesOf(form) {
  /** @type {Record<string, any>} */
  const values = {};
  for (const field of /** @type {any} */ (form.elements)) {
    if (!field.name || field.disabled || ["submit", "button", "file"].includes(field.type) || (field.type === "radio" && !field.checked)) continue;
    const many = field.type === "checkbox" && field.dataset.type === "list";
    const value = many ? field.value : valueOf(field);
    if (value === undefined || (many && !field.checked && values[field.name])) continue;
    const parts = field.name.split("."), last = parts.pop();
    const place = parts.reduce((/** @type {any} */ at, /** @type {string} */ part) => at[part] ??= {}, values);
    if (many) place[last] = [...(place[last] ?? []), ...(field.checked ? [value] : [])];
    else place[last] = value;
  }
  return values;
}

/** @param {HTMLFormElement} form */
export function clearProblems(form) {
  for (const note of form.querySelectorAll("[data-problem]")) note.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  const place = /** @type {HTMLElement | null} */ (form.querySelector("[data-problems]"));
  if (place) clearProblem(place);
}

/** Each problem at its field; what belongs to none, above the form's buttons. @param {HTMLFormElement} form @param {any} error */
export function showProblems(form, error) {
  clearProblems(form);
  const rest = [];
  for (const detail of error.details ?? []) {
    const loc = String(detail.loc ?? "");
    const field = [...form.elements].find(one => { const name = one.getAttribute("name"); return name && (name === loc || loc.startsWith(`${name}.`) || loc.endsWith(`.${name}`)); });
    if (!field) { rest.push(detail); continue; }
    const note = make("p", detail.message, { "data-problem": "", id: `problem-${field.id || field.getAttribute("name")}` });
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-errormessage", note.id);
    (field.closest(".field") ?? field.parentElement)?.append(note);
  }
  for (const fold of form.querySelectorAll("details:has([aria-invalid])")) fold.setAttribute("open", "");
  const first = /** @type {HTMLElement | null} */ (form.querySelector("[aria-invalid]"));
  const place = /** @type {HTMLElement | null} */ (form.querySelector("[data-problems]"));
  if (place && (rest.length || !first)) showProblem(place, { ...error, message: error.message, details: rest });
  else if (!first) toastError(error);
  first?.focus();
  announce([error.message, ...detailsOf(error)].join(" "));
}

/** @param {HTMLElement} button @returns {unknown} */
const bodyOf = button => button.dataset.body ? JSON.parse(button.dataset.body) : undefined;

export function startActions() {
  addEventListener("pagehide", () => { for (const now of [...putOffs.values()]) now({ keepalive: true }); });
  document.addEventListener("htmx:after:swap", () => { for (const action of putOffs.keys()) hideRow(action, true); });
  document.addEventListener("click", event => {
    const asker = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("[data-action]:not(form)"));
    if (!asker || asker.closest("[aria-disabled=true]")) return;
    event.preventDefault();
    void run(asker, bodyOf(asker), toastError);
  });
  document.addEventListener("submit", event => {
    const form = /** @type {HTMLFormElement} */ (event.target);
    if (!form.dataset?.action) return;
    event.preventDefault();
    clearProblems(form);
    try {
      void run(form, valuesOf(form), error => showProblems(form, error));
    } catch (error) {
      showProblems(form, error);
    }
  });
}
