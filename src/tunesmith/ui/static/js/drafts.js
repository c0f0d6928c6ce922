// @ts-check
/**
 * What was typed into a form and not sent is there again after a reload, Back, or a login that had ended: kept for this tab, by address and form.
 * Forms with a password are left alone, and so are those that say data-no-draft.
 */
import { toast } from "./toast.js";

const PREFIX = "tunesmith.form:";

/** @param {HTMLFormElement} form @returns {any[]} */
const fieldsOf = form => /** @type {any[]} */ ([...form.elements]).filter(field => field.name && !field.readOnly && !["submit", "button", "file", "hidden", "password", "fieldset"].includes(field.type));
/** @param {HTMLFormElement} form */
const isKept = form => Boolean(form.dataset.action) && form.dataset.noDraft === undefined && !form.querySelector("[type=password]");
/** @param {HTMLFormElement} form */
const keyOf = form => `${PREFIX}${location.pathname}#${form.id || form.closest("[id]")?.id || form.dataset.action}`;
/** @param {any} field */
const isChoice = field => ["checkbox", "radio"].includes(field.type);
/** A checkbox of several under one name is known by its value too. @param {any} field */
const nameOf = field => isChoice(field) ? `${field.name}=${field.value}` : field.name;
/** @param {any} field */
const stateOf = field => isChoice(field) ? field.checked : field.value;
/** As the server sent it. @param {any} field */
const sentOf = field => isChoice(field) ? field.defaultChecked : field.localName === "select" ? ([...field.options].find(option => option.defaultSelected) ?? field.options[0])?.value ?? "" : field.defaultValue;

/** @param {string} key @returns {Record<string, string | boolean>} */
function read(key) {
  try { return JSON.parse(sessionStorage.getItem(key) ?? "{}"); } catch { return {}; }
}

/** @param {HTMLFormElement} form */
function keep(form) {
  const changed = Object.fromEntries(fieldsOf(form).filter(field => stateOf(field) !== sentOf(field)).map(field => [nameOf(field), stateOf(field)]));
  try {
    if (Object.keys(changed).length) sessionStorage.setItem(keyOf(form), JSON.stringify(changed));
    else sessionStorage.removeItem(keyOf(form));
  } catch { /* forbidden or full: nothing is kept */ }
}

/** @param {HTMLFormElement} form */
function forget(form) {
  try { sessionStorage.removeItem(keyOf(form)); } catch { /* forbidden: there is none */ }
}

/** @param {HTMLFormElement} form @returns {boolean} whether anything became another */
function restore(form) {
  const kept = read(keyOf(form));
  let changed = false;
  for (const field of fieldsOf(form)) {
    const value = kept[nameOf(field)];
    if (value === undefined || value === stateOf(field)) continue;
    if (isChoice(field)) field.checked = value;
    else field.value = value;
    changed = true;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }
  return changed;
}

export function startDrafts() {
  const forms = /** @type {HTMLFormElement[]} */ ([...document.forms]).filter(isKept);
  const restored = forms.filter(restore).filter(form => !form.closest("dialog:not([open])"));
  if (restored.length) toast("What you had typed is back.", { tone: "info", action: "Discard", act: () => { restored.forEach(forget); location.reload(); } });
  const changed = (/** @type {Event} */ event) => {
    const form = /** @type {any} */ (event.target).form;
    if (form && isKept(form)) keep(form);
  };
  document.addEventListener("input", changed);
  document.addEventListener("change", changed);
  document.addEventListener("tunesmith:done", event => { if (event.target instanceof HTMLFormElement) forget(event.target); });
  document.addEventListener("htmx:after:swap", () => { for (const form of document.forms) if (isKept(form)) restore(form); }); // fields that a choice brought
}
