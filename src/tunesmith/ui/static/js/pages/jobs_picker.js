// @ts-check
/** A list of jobs to choose from, with search. */
import { call } from "../api.js";
import { $, debounce, make, showProblem } from "../dom.js";
import { toastError } from "../toast.js";

const LISTED = 12, LOOKED_AT = 100, NO_CURVES = ["evaluate", "compress"];

/**
 * @param {(id: number) => boolean} isChosen
 * @param {(id: number, on: boolean) => unknown} choose may fail
 * @param {(id: number) => boolean} [fits] those that are left out give false
 */
export function startPicker(isChosen, choose, fits = () => true) {
  const dialog = $("pick-run"), text = $("pick-run-text"), list = $("pick-run-list");
  const row = (/** @type {any} */ job) => {
    const box = make("input", undefined, { type: "checkbox", class: "input" });
    box.checked = isChosen(job.id);
    box.addEventListener("change", async () => {
      try { await choose(job.id, box.checked); } catch (error) { box.checked = !box.checked; toastError(error); }
    });
    return make("li", undefined, {}, [make("label", undefined, {}, [box, make("span", job.name), make("small", `#${job.id} · ${job.status}`)])]);
  };
  const find = async () => {
    try {
      const found = (await call(`/jobs/?limit=${LOOKED_AT}&q=${encodeURIComponent(text.value.trim())}`)).items.filter((/** @type {any} */ job) => fits(job.id) && job.step && !NO_CURVES.includes(job.method)).slice(0, LISTED);
      list.classList.remove("problem");
      list.replaceChildren(...(found.length ? found.map(row) : [make("li", text.value.trim() ? "No job with curves has this name." : "No other job has curves yet. Train a second one to compare.", { class: "muted" })]));
    } catch (error) { showProblem(list, error); }
  };
  $("add-run").addEventListener("click", () => { dialog.showModal(); text.focus(); void find(); });
  text.addEventListener("input", debounce(() => void find(), 200));
}
