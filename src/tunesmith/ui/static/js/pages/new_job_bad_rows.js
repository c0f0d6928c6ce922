// @ts-check
/** Rows of the chosen dataset that cannot be used for training: which they are, and two ways to go on. */
import { call, post } from "../api.js";
import { $, announce, icon, make, showProblem, clearProblem } from "../dom.js";
import { number, plural } from "../words.js";

const OF_ROWS = ["empty_rows", "bad_rows", "bad_conversation", "answer_lists", "tags_do_not_fit"], OF_LINES = ["ragged_lines", "bad_json"];
/** Codes of problems that skipping solves. */
export const REFUSED = ["bad_rows", "refused_by_template"];
const SHOWN = 8, LOOK_MS = 400;
/** What validation found, by dataset and version. @type {Map<string, Promise<any[]>>} */
const reports = new Map();

/** @param {Record<string, any>} job @returns {Promise<any[]>} findings */
function findingsOf(job) {
  const key = `${job.dataset_id}?${job.dataset_version ? `version=${job.dataset_version}` : ""}`;
  if (!reports.has(key)) {
    reports.set(key, call(`/datasets/${job.dataset_id}/validation${key.slice(key.indexOf("?"))}`).then(report => report.findings.filter((/** @type {any} */ found) => found.level === "error" && [...OF_ROWS, ...OF_LINES].includes(found.code))));
  }
  return /** @type {Promise<any[]>} */ (reports.get(key));
}

/** How many rows stand in the way, where nothing else does. @param {any[]} details of a refused plan @returns {number} 0 where there is something else */
export const skippable = details => details.length && details.every(detail => REFUSED.includes(detail.code)) ? details.reduce((sum, detail) => sum + (detail.count || 0), 0) || 1 : 0;

/** Every button that starts the job says what a click does. @param {number} count of rows that have to be skipped */
export function labelStart(count) {
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("button[data-start]"))) {
    const words = /** @type {HTMLElement} */ (button.querySelector("span"));
    button.dataset.words ??= words.textContent ?? "";
    words.textContent = count ? `Skip ${plural(count, "row")} and start` : button.dataset.words;
  }
}

/** @param {Record<string, any>} job @param {any[]} details why the plan was refused @param {(skip: boolean) => void} skip @param {() => void} repaired */
export async function showBadRows(job, details, skip, repaired) {
  const place = $("bad-rows"), asked = JSON.stringify([job.dataset_id, job.dataset_version, job.hyperparameters.skip_bad_rows, details]);
  if (place.dataset.asked === asked) return;
  place.dataset.asked = asked;
  if (!job.dataset_id) { place.hidden = true; return; }
  /** @type {any[]} */
  let findings = [];
  try { findings = await findingsOf(job); } catch { /* the plan says what is wrong with the dataset */ }
  if (place.dataset.asked !== asked) return;
  const refused = details.filter(detail => detail.code === "refused_by_template" && detail.loc === "dataset_id");
  place.hidden = !findings.length && !refused.length;
  if (!place.hidden) place.replaceChildren(...draw(job, findings, refused, skip, repaired));
}

/** @param {Record<string, any>} job @param {any[]} findings @param {any[]} refused @param {(skip: boolean) => void} skip @param {() => void} repaired */
function draw(job, findings, refused, skip, repaired) {
  const rows = findings.filter(found => OF_ROWS.includes(found.code)), count = [...findings, ...refused].reduce((sum, found) => sum + found.count, 0);
  const what = rows.length || refused.length ? "row" : "line", cannot = what === "row" ? "cannot be used for training" : "of the file could not be read";
  const list = make("ul", undefined, { class: "bad-rows-list" }, [...findings.map(found => item(job, found.message, found.rows, OF_ROWS.includes(found.code))), ...refused.map(detail => item(job, detail.message, detail.rows, true))]);
  if (job.hyperparameters.skip_bad_rows) {
    const undo = make("button", "Do not skip them", { class: "btn", "data-variant": "outline", "data-size": "sm", type: "button" });
    undo.addEventListener("click", () => skip(false));
    return [make("p", undefined, { class: "bad-rows-title" }, [icon("check"), make("strong", `${plural(count, what)} will be skipped`)]), list, make("div", undefined, { class: "row" }, [undo])];
  }
  const problem = make("div", undefined, { hidden: "" }), buttons = make("div", undefined, { class: "row" });
  if (rows.length) {
    const repair = make("button", undefined, { class: "btn", type: "button" }, [icon("wrench"), make("span", `Drop ${plural(rows.reduce((sum, found) => sum + found.count, 0), "row")} from the dataset`)]);
    repair.addEventListener("click", () => void mend(job, repair, problem, repaired));
    buttons.append(repair);
  }
  const leave = make("button", undefined, { class: "btn", "data-variant": rows.length ? "outline" : "", type: "button" }, [icon("skip-forward"), make("span", `Skip ${plural(count, what)} in this job`)]);
  leave.addEventListener("click", () => skip(true));
  buttons.append(leave, make("a", "Fix them by hand", { class: "btn", "data-variant": "ghost", href: `/datasets/${job.dataset_id}?tab=validation` }));
  return [make("p", undefined, { class: "bad-rows-title" }, [icon("triangle-alert"), make("strong", `${plural(count, what)} ${cannot}`)]), list, buttons, problem];
}

/** @param {Record<string, any>} job @param {string} message @param {number[]} rows @param {boolean} linked */
function item(job, message, rows, linked) {
  const shown = rows.slice(0, SHOWN).map(row => linked ? make("a", number(row), { class: "tag num", href: `/datasets/${job.dataset_id}?tab=rows&at=${row}`, "aria-label": `Row ${row}` }) : make("span", number(row), { class: "tag num" }));
  return make("li", undefined, {}, [make("span", message), make("span", undefined, { class: "row small" }, [make("span", linked ? "Rows" : "Lines", { class: "muted" }), ...shown])]);
}

/** The dataset gets a version without them, and the job is looked at again. @param {Record<string, any>} job @param {HTMLElement} button @param {HTMLElement} problem @param {() => void} repaired */
async function mend(job, button, problem, repaired) {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  clearProblem(problem);
  try {
    await post(`/datasets/${job.dataset_id}/repair${job.dataset_version ? `?version=${job.dataset_version}` : ""}`, { drop_bad_rows: true });
    for (;;) {
      const now = await call(`/datasets/${job.dataset_id}`);
      if (now.status !== "processing") {
        if (now.error) throw now.error;
        break;
      }
      await new Promise(resolve => setTimeout(resolve, LOOK_MS));
    }
    reports.clear();
    announce("The dataset has a new version without these rows.");
    repaired();
  } catch (error) {
    showProblem(problem, error);
  } finally {
    button.removeAttribute("aria-busy");
  }
}
