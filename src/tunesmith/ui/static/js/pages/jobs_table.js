// @ts-check
/** The dialog that chooses the columns of the table of runs: found by name, shown in the order in which they were ticked. */
import { $, debounce } from "../dom.js";

const form = $("run-columns-form");
if (form) {
  const chosen = form.querySelector("[name=columns]");
  form.addEventListener("change", (/** @type {Event} */ event) => {
    const box = /** @type {any} */ (event.target);
    if (box.type !== "checkbox") return;
    const names = chosen.value.split(",").filter((/** @type {string} */ name) => name && name !== box.value);
    chosen.value = [...names, ...(box.checked ? [box.value] : [])].join(",");
  });
  form.addEventListener("submit", (/** @type {Event} */ event) => { // the page may be sorted and filtered otherwise than when it was loaded
    event.preventDefault();
    const url = new URL(location.href);
    for (const name of ["cursor", "offset"]) url.searchParams.delete(name);
    url.searchParams.set("columns", chosen.value);
    location.assign(url);
  });
  document.addEventListener("click", event => {
    if (/** @type {Element} */ (event.target).closest("[data-dialog=run-save]")) $("run-save").querySelector("[name=view]").value = $("run-tools").dataset.view;
  }, true);
  $("run-columns-find").addEventListener("input", debounce(() => {
    const text = $("run-columns-find").value.trim().toLowerCase();
    for (const label of form.querySelectorAll("[data-find]")) label.hidden = !label.dataset.find.includes(text);
    for (const group of form.querySelectorAll("fieldset")) group.hidden = !group.querySelector("label:not([hidden])");
  }, 100));
  $("run-columns-find").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter") event.preventDefault(); });
}
