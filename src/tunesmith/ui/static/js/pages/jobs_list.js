// @ts-check
/** Selecting jobs in the list, comparing them, and doing one thing with all of them. */
import { call } from "../api.js";
import { refreshParts } from "../actions.js";
import { $, sure } from "../dom.js";
import { toast } from "../toast.js";
import { plural } from "../words.js";
import { startKeys } from "./jobs_keys.js";

const MOST_COMPARED = 8, AT_ONCE = 4;
/** @type {Record<string, {when: string[], done: string}>} */
const WORK = {
  start: { when: ["created"], done: "started" },
  pause: { when: ["running", "queued"], done: "pausing" },
  resume: { when: ["paused", "failed", "cancelled"], done: "waiting for their turn" },
  stop: { when: ["running", "queued", "paused"], done: "stopping" },
  delete: { when: ["created", "completed", "failed", "cancelled"], done: "deleted" },
};
/** Ids; they stay selected while the list changes. @type {Set<string>} */
const selected = new Set();

/** @returns {any[]} */
const boxes = () => [...document.querySelectorAll("[data-select]")];
/** Selected and on the page. @param {string} [work] only those it can be done with @returns {HTMLElement[]} */
const rows = work => /** @type {any[]} */ ([...document.querySelectorAll("tr[data-job]")]).filter(row => selected.has(row.dataset.job) && (!work || WORK[work].when.includes(row.dataset.status)));

function draw() {
  for (const box of boxes()) box.checked = selected.has(box.value);
  const chosen = rows().map(row => /** @type {string} */ (row.dataset.job)), all = /** @type {any} */ (document.querySelector("[data-select-all]"));
  if (all) {
    all.checked = chosen.length > 0 && chosen.length === boxes().length;
    all.indeterminate = chosen.length > 0 && !all.checked;
  }
  $("bulk").hidden = !chosen.length;
  $("bulk-count").textContent = `${chosen.length} selected`;
  const compare = $("bulk-compare"), fits = chosen.length > 1 && chosen.length <= MOST_COMPARED;
  compare.hidden = chosen.length < 2;
  compare.href = `/jobs/compare?ids=${chosen.slice(0, MOST_COMPARED).join()}`;
  compare.title = fits ? "" : `The first ${MOST_COMPARED} of them`;
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-bulk]"))) button.hidden = !rows(button.dataset.bulk).length;
}

/** @param {string} work @param {string} id */
const perform = (work, id) => work === "delete" ? call(`/jobs/${id}`, { method: "DELETE" }) : call(`/jobs/${id}/${work}`, { method: "POST" });

/** One after the other in a few lanes; those that refuse are named. @param {string} work @param {string[]} ids */
async function performAll(work, ids) {
  const waiting = [...ids], /** @type {string[]} */ refused = [];
  const lane = async () => {
    for (let id = waiting.shift(); id; id = waiting.shift()) {
      try {
        await perform(work, id);
        selected.delete(id);
      } catch (error) {
        refused.push(/** @type {any} */ (error).message);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  const done = ids.length - refused.length;
  if (done) toast(`${plural(done, "job")} ${WORK[work].done}.`);
  if (refused.length) toast(`${plural(refused.length, "job")} refused.`, { tone: "bad", details: refused });
}

/** @param {HTMLElement} button */
async function bulk(button) {
  const work = /** @type {string} */ (button.dataset.bulk), ids = rows(work).map(row => /** @type {string} */ (row.dataset.job));
  const count = plural(ids.length, "job");
  if (work === "delete" && !await sure(`Delete ${count}?`, { action: "Delete", more: "Their models, checkpoints, logs and curves go with them. This cannot be undone.", typed: `delete ${ids.length}` })) return;
  if (work === "stop" && !await sure(`Stop ${count}?`, { action: "Stop", more: "Their checkpoints stay, so that they can be resumed later." })) return;
  button.setAttribute("aria-busy", "true");
  await performAll(work, ids);
  button.removeAttribute("aria-busy");
  draw();
  refreshParts();
}

/** @returns {HTMLElement[]} */
const links = () => /** @type {any[]} */ ([...document.querySelectorAll(".job-name")]);
const place = () => links().findIndex(link => link.closest("tr")?.contains(document.activeElement));

/** Press the first of these buttons that fits what is selected. @param {string[]} works */
function key(...works) {
  if ($("bulk").hidden) return;
  /** @type {HTMLElement | undefined} */ (works.map(work => /** @type {HTMLElement} */ (document.querySelector(`[data-bulk="${work}"]`))).find(button => !button.hidden))?.click();
}

function nothing() {
  selected.clear();
  draw();
}

document.addEventListener("change", event => {
  const box = /** @type {HTMLInputElement} */ (event.target);
  if (box.matches("#find [name=sort]")) box.form?.querySelector("[name=order]")?.remove(); // what is chosen has an order of its own
  if (box.matches("[data-select-all]")) for (const one of boxes()) selected[box.checked ? "add" : "delete"](one.value);
  else if (box.matches("[data-select]")) selected[box.checked ? "add" : "delete"](box.value);
  else return;
  draw();
});
if ($("bulk")) {
  document.addEventListener("click", event => {
    const button = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("[data-bulk]"));
    if (button && button.getAttribute("aria-busy") !== "true") void bulk(button);
  });
  $("bulk-clear").addEventListener("click", nothing);
  startKeys({
    j: ["Next job", () => links()[Math.min(place() + 1, links().length - 1)]?.focus()],
    k: ["Job before", () => links()[Math.max(place() - 1, 0)]?.focus()],
    x: ["Select the job", () => links()[place()]?.closest("tr")?.querySelector("input")?.click()],
    c: ["Compare the selected jobs", () => { if (!$("bulk-compare").hidden && !$("bulk").hidden) $("bulk-compare").click(); }],
    p: ["Pause or resume the selected jobs", () => key("start", "pause", "resume")],
    s: ["Stop the selected jobs", () => key("stop")],
    Escape: ["Clear the selection", nothing],
  });
  document.addEventListener("htmx:after:swap", draw);
  draw();
}
