// @ts-check
/** What the job would take, and what stands in its way, beside the form. */
import { $, make } from "../dom.js";
import { bytes, duration, number, plural } from "../words.js";
import { REFUSED } from "./new_job_bad_rows.js";

const PARTS = /** @type {Record<string, string>} */ ({ process: "libraries", weights: "weights", gradients: "gradients", optimizer: "optimizer", activations: "activations", logits: "logits" });
const TO_DO = /** @type {Record<string, string>} */ ({
  dataset_id: "Choose a dataset", model: "Choose a model", eval_dataset_id: "Choose the dataset that is held out",
  not_before: "Say when it may start", after_job_id: "Choose the job to wait for",
});

const TITLES = /** @type {Record<string, string>} */ ({ dataset_id: "Dataset", eval_dataset_id: "Held-out dataset", model: "Model", method: "Method", name: "Name", tags: "Tags" });

/** @param {string} name @returns {any} */
const place = name => document.querySelector(`[data-estimate="${name}"]`);

/** @param {number} seconds */
const about = seconds => duration(seconds < 60 ? Math.max(1, Math.round(seconds)) : seconds < 3600 ? Math.round(seconds / 60) * 60 : Math.round(seconds / 900) * 900).replace(/^([\d.]+)\.0 s$/, "$1 s").replace(/ 0 (s|min|h)$/, "");

/** @param {any} estimate of a plan @returns {string} `about 14 min` */
export const timeOf = estimate => estimate?.duration_s == null ? "" : `about ${about(estimate.duration_s)}`;

/** @param {any} estimate of a plan; null while it is not known @param {string} [waiting] why it is not @param {number} [least] memory, bytes, of a model that is not here yet */
export function showEstimate(estimate, waiting = "", least) {
  const has = estimate && "memory_bytes" in estimate, model = has && estimate.fits !== null;
  place("time").textContent = has && estimate.duration_s != null ? timeOf(estimate) : "–";
  const range = has ? estimate.duration_range_s : null;
  place("time-from").textContent = has ? `${range && about(range[0]) !== about(range[1]) ? `${about(range[0])} to ${about(range[1])}. ` : ""}${estimate.duration_from ?? ""}` : waiting;
  place("memory").textContent = model ? `${bytes(estimate.memory_bytes)} of ${bytes(estimate.memory_available_bytes)}${estimate.device === "cuda" ? " on the GPU" : ""}` : has && least ? `at least ${bytes(least)} of ${bytes(estimate.memory_available_bytes)}` : "–";
  place("memory").toggleAttribute("data-bad", Boolean(model && !estimate.fits));
  const bar = place("memory-bar");
  bar.hidden = !model;
  if (model) bar.value = Math.min(1, estimate.memory_bytes / estimate.memory_available_bytes);
  place("memory-parts").textContent = model ? (estimate.fits ? largest(estimate.memory_parts_bytes) : "It does not fit: choose QLoRA, a smaller model or shorter rows.") : "";
  const short = has && estimate.disk_bytes > (estimate.disk_free_bytes ?? Infinity);
  place("disk").textContent = has && estimate.disk_bytes ? `${bytes(estimate.disk_bytes)} of ${bytes(estimate.disk_free_bytes)} free${short ? ": too little" : ""}` : "–";
  place("disk").toggleAttribute("data-bad", Boolean(short));
  place("steps").textContent = has ? `${number(estimate.total_steps)}${estimate.num_tokens ? ` · ${compact(estimate.num_tokens)} tokens` : ""}` : "–";
  place("short").textContent = has ? timeOf(estimate) || plural(estimate.total_steps, "step") : waiting || "–";
  place("short-more").textContent = model ? ` · ${bytes(estimate.memory_bytes)} of memory` : "";
}

/** @param {Record<string, number>} parts */
const largest = parts => Object.entries(parts).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([name, size]) => `${PARTS[name] ?? name} ${bytes(size)}`).join(" · ");

/** @param {number} count */
const compact = count => new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(count);

/** @param {string} loc @returns {HTMLElement | null} where on the page it belongs */
export function placeOf(loc) {
  for (let name = loc; name; name = name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : "") {
    const found = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(`[data-loc="${CSS.escape(name)}"], [data-loc^="${CSS.escape(name)}."]`)]).find(one => !one.closest("[data-setting][hidden]"));
    if (found) return found;
  }
  return null;
}

function clearMarks() {
  for (const note of document.querySelectorAll("#new-job [data-problem]")) note.remove();
  for (const field of document.querySelectorAll("#new-job [aria-invalid]")) field.removeAttribute("aria-invalid");
  for (const field of document.querySelectorAll('#new-job [aria-describedby*="problem-"]')) describe(field, "");
  for (const link of document.querySelectorAll(".nj-steps [data-trouble]")) link.removeAttribute("data-trouble");
}

/**
 * Each problem at its field and in the list; one that is only a choice not made yet is no fault.
 * @param {{loc: string, message: string}[]} details @param {Record<string, any>} job @param {string} hint
 */
export function showProblems(details, job, hint) {
  clearMarks();
  const list = $("to-do-list"), missing = details.filter(detail => TO_DO[detail.loc] && !job[detail.loc]), wrong = details.filter(detail => !missing.includes(detail));
  list.replaceChildren(...missing.map(detail => make("li", undefined, {}, [link(detail.loc, TO_DO[detail.loc])])), ...wrong.map(mark));
  $("to-do-title").textContent = wrong.length ? `${plural(wrong.length, "problem")} to fix${hint ? `. ${hint}` : ""}` : details.length ? "Still to do" : "";
  $("to-do").hidden = !details.length;
  $("to-do").toggleAttribute("data-wrong", wrong.length > 0);
  if (details.length) place("short").textContent = wrong.length ? `${plural(wrong.length, "problem")} to fix` : TO_DO[missing[0].loc];
}

/** The hint stays, the problem of before goes. @param {Element} field @param {string} id of what describes it too */
function describe(field, id) {
  const kept = (field.getAttribute("aria-describedby") ?? "").split(" ").filter(one => one && !one.startsWith("problem-"));
  field.setAttribute("aria-describedby", [...kept, id].filter(Boolean).join(" "));
}

/** @param {{loc: string, message: string, code?: string}} detail */
function mark(detail) {
  const found = placeOf(detail.loc), title = found?.dataset.title ?? TITLES[detail.loc] ?? detail.loc, text = `${title}: ${detail.message}`;
  if (!found) return make("li", text);
  const step = /** @type {HTMLElement} */ (found.closest("[data-step]")).dataset.step ?? "";
  document.querySelector(`.nj-steps [data-go="${step}"]`)?.setAttribute("data-trouble", "");
  const field = /** @type {HTMLElement} */ (found.querySelector("[data-control]") ?? found), card = found.closest(".nj-cards, .nj-choice");
  if (!found.matches("[type=radio]")) field.setAttribute("aria-invalid", "true");
  if (detail.loc === "dataset_id" && REFUSED.includes(detail.code ?? "")) return make("li", undefined, {}, [link(detail.loc, text)]); // a panel of its own tells more
  const note = make("p", detail.message, { "data-problem": "", id: `problem-${detail.loc.replaceAll(".", "-")}` });
  describe(field, note.id);
  if (found.matches("[type=radio]")) card?.before(note);
  else (found.closest(".field") ?? found.parentElement)?.append(note);
  return make("li", undefined, {}, [link(detail.loc, text)]);
}

/** @param {string} loc @param {string} text */
function link(loc, text) {
  const step = placeOf(loc)?.closest("[data-step]")?.id ?? "dataset";
  return make("a", text, { href: `#${step}`, "data-go": step, "data-to": loc });
}
