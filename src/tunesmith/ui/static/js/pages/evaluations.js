// @ts-check
/** The list of evaluations: which are ticked can be compared; the form for a new one opens when the address asks for it. */
import { $, setText } from "../dom.js";

const MOST = 8;
/** @type {Set<string>} */
const chosen = new Set();

function show() {
  const bar = $("bulk");
  if (!bar) return;
  bar.hidden = !chosen.size;
  setText($("bulk-count"), chosen.size === 1 ? "Tick another one to compare" : `${chosen.size} evaluations`);
  const link = $("bulk-compare");
  link.hidden = chosen.size < 2 || chosen.size > MOST;
  link.href = `/evaluations/compare?ids=${[...chosen].join()}`;
  for (const box of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("[data-select]"))) box.checked = chosen.has(box.value);
}

document.addEventListener("change", event => {
  const box = /** @type {HTMLInputElement} */ (event.target);
  if (!box.matches?.("[data-select]")) return;
  if (box.checked) chosen.add(box.value);
  else chosen.delete(box.value);
  show();
});
document.addEventListener("htmx:after:swap", show);
$("bulk-clear")?.addEventListener("click", () => { chosen.clear(); show(); });
if ($("new-evaluation")?.dataset.open !== undefined) $("new-evaluation").showModal();

/** Rows of its own has only a model that was tuned here: for another one a dataset is chosen at once. */
function suggestData() {
  const model = $("field-model"), data = $("field-dataset_id");
  if (!model || !data) return;
  const ownRows = data.querySelector('option[value=""]'), isTuned = /^job:|@/.test(model.value);
  ownRows.disabled = !isTuned;
  if (!isTuned && !data.value) data.value = [...data.options].find(option => option.value)?.value ?? "";
}

document.addEventListener("change", event => { if (/** @type {HTMLElement} */ (event.target).id === "field-model") suggestData(); });
suggestData();
