// @ts-check
/** Settings: only what was changed is sent; sizes and times in a unit of one's choice; a folder is tried before it is used. */
import { showProblems, clearProblems, valuesOf } from "../actions.js";
import { call } from "../api.js";
import { choose, chosen } from "../appearance.js";
import { $, attempt, icon, make } from "../dom.js";
import { toastNext } from "../toast.js";
import { bytes } from "../words.js";

/** @param {HTMLFormElement} form @returns {Record<string, unknown>} an empty text is nothing */
function read(form) {
  return Object.fromEntries(Object.entries(valuesOf(form)).map(([name, value]) => [name, value === "" ? null : value]));
}

for (const measure of document.querySelectorAll("[data-measure]")) {
  const [shown, kept] = /** @type {HTMLInputElement[]} */ ([...measure.querySelectorAll("input")]);
  const unit = /** @type {HTMLSelectElement} */ (measure.querySelector("select"));
  measure.addEventListener("input", () => { kept.value = shown.value.trim() && shown.validity.valid ? String(Math.round(Number(shown.value) * Number(unit.value))) : shown.value; });
}

for (const form of /** @type {NodeListOf<HTMLFormElement>} */ (document.querySelectorAll("form[data-settings]"))) {
  const before = read(form);
  form.addEventListener("submit", async event => {
    event.preventDefault();
    clearProblems(form);
    try {
      const changed = Object.entries(read(form)).filter(([name, value]) => value !== before[name]);
      await call("/system/settings", { method: "PATCH", json: Object.fromEntries(changed) });
      toastNext(changed.length ? "Saved." : "Nothing was changed.");
      location.reload();
    } catch (error) {
      showProblems(form, error);
    }
  });
}

$("try")?.addEventListener("click", () => {
  const place = $("tried"), path = $("field-output_dir").value.trim();
  void attempt($("try"), place, async () => {
    place.className = "";
    const found = await call("/system/settings/test-directory", { json: path ? { path } : {} });
    const made = found.exists ? "" : " It will be made.";
    place.className = "note tried";
    place.replaceChildren(icon("circle-check"), make("span", `${found.path} is writable: ${bytes(found.free_bytes)} free of ${bytes(found.total_bytes)}, 64 kB written and flushed in ${found.took_ms} ms.${made}`));
    place.hidden = false;
  });
});

for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("#here input"))) {
  const name = /** @type {import("../appearance.js").Choice} */ (radio.name.replace("here-", ""));
  radio.checked = chosen(name) === radio.value;
  radio.addEventListener("change", () => choose(name, radio.value));
}
