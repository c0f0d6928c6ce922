// @ts-check
/** Rows of the chosen dataset that cannot be used for training: which they are, and the ways to go on. */
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

/** @param {any[]} some findings or details of a plan @returns {number} */
const countOf = some => some.reduce((sum, one) => sum + (one.count || 0), 0);

/** Whether nothing but rows and lines that cannot be used stands in the way. @param {any[]} details of a refused plan */
export const areRows = details => details.length > 0 && details.every(detail => REFUSED.includes(detail.code));

/** How many rows a dataset has, by dataset and version. @type {Map<string, Promise<number>>} */
const sizes = new Map();

/** Whether no row of a dataset of the job could be used. @param {Record<string, any>} job @param {string} loc @param {number} count of its bad rows */
async function isAll(job, loc, count) {
  const path = `/datasets/${job[loc]}/statistics${loc === "dataset_id" && job.dataset_version ? `?version=${job.dataset_version}` : ""}`;
  if (!count) return false;
  if (!sizes.has(path)) sizes.set(path, call(path).then(found => found.total_rows));
  return count >= /** @type {number} */ (await sizes.get(path));
}

/** What a click on start would do besides, where it would help. @param {Record<string, any>} job @param {any[]} details why the plan was refused @returns {Promise<string>} the words of the button; empty where skipping does not do */
export async function skipWords(job, details) {
  if (!areRows(details)) return "";
  for (const loc of ["dataset_id", "eval_dataset_id"]) {
    if (await isAll(job, loc, countOf(details.filter(detail => detail.loc === loc)))) return "";
  }
  const count = countOf(details);
  return count ? `Skip ${plural(count, "row")} and start` : "Start without these lines";
}

/** Every button that starts the job says what a click does. @param {string} text empty: as it is without bad rows */
export function labelStart(text) {
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("button[data-start]"))) {
    const words = /** @type {HTMLElement} */ (button.querySelector("span"));
    button.dataset.words ??= words.textContent ?? "";
    words.textContent = text || button.dataset.words;
  }
}

/** @param {Record<string, any>} job @param {any[]} details why the plan was refused @param {(skip: boolean) => void} skip @param {() => void} repaired */
export async function showBadRows(job, details, skip, repaired) {
  const place = $("bad-rows"), asked = JSON.stringify([job.dataset_id, job.dataset_version, job.hyperparameters.skip_bad_rows, details]);
  if (place.dataset.asked === asked) return;
  place.dataset.asked = asked;
  if (!job.dataset_id) { place.hidden = true; return; }
  /** @type {any[]} */
  let findings = [], none = false;
  const refused = details.filter(detail => detail.code === "refused_by_template" && detail.loc === "dataset_id");
  try {
    findings = await findingsOf(job);
    none = await isAll(job, "dataset_id", countOf([...findings.filter(isOfRows), ...refused]));
  } catch { /* the plan says what is wrong with the dataset */ }
  if (place.dataset.asked !== asked) return;
  place.hidden = !findings.length && !refused.length;
  if (!place.hidden) place.replaceChildren(...draw(job, findings, refused, none, skip, repaired));
}

/** @param {any} found a finding */
const isOfRows = found => OF_ROWS.includes(found.code);

/** @param {Record<string, any>} job @param {any[]} findings @param {any[]} refused @param {boolean} none whether no row is left that could be used @param {(skip: boolean) => void} skip @param {() => void} repaired */
function draw(job, findings, refused, none, skip, repaired) {
  const rows = findings.filter(isOfRows), count = countOf([...rows, ...refused]), lines = countOf(findings) - countOf(rows);
  const both = [count ? plural(count, "row") : "", lines ? plural(lines, "line") : ""].filter(Boolean).join(" and ");
  const said = [count ? `${plural(count, "row")} cannot be used for training` : "", lines ? `${plural(lines, "line")} of the file could not be read` : ""].filter(Boolean).join(" and ");
  const list = make("ul", undefined, { class: "bad-rows-list" }, [...findings.map(found => item(job, found.message, found.rows, isOfRows(found))), ...refused.map(detail => item(job, detail.message, detail.rows, true))]);
  if (job.hyperparameters.skip_bad_rows && !none) {
    const undo = make("button", "Do not skip them", { class: "btn", "data-variant": "outline", "data-size": "sm", type: "button" });
    undo.addEventListener("click", () => skip(false));
    return [make("p", undefined, { class: "bad-rows-title" }, [icon("check"), make("strong", `${both} will be skipped`)]), list, make("div", undefined, { class: "row" }, [undo])];
  }
  const problem = make("div", undefined, { hidden: "" }), buttons = make("div", undefined, { class: "row" });
  /** @param {string} name of an icon @param {string} text @param {(button: HTMLElement) => void} act */
  const add = (name, text, act) => {
    const button = make("button", undefined, { class: "btn", "data-variant": buttons.childElementCount ? "outline" : "primary", type: "button" }, [icon(name), make("span", text)]);
    button.addEventListener("click", () => act(button));
    buttons.append(button);
  };
  if (rows.some(found => found.repair === "answer_lists")) add("wrench", "Keep the first answer of each row", button => void repairRows(job, { answer_lists: "first" }, "one answer in a row", button, problem, repaired));
  if (rows.length && !none) add("wrench", `Drop ${plural(countOf(rows), "row")} from the dataset`, button => void repairRows(job, { drop_bad_rows: true }, "these rows left out", button, problem, repaired));
  if (!none) add("skip-forward", `Skip ${both} in this job`, () => skip(true));
  buttons.append(make("a", "Fix them by hand", { class: "btn", "data-variant": buttons.childElementCount ? "ghost" : "primary", href: `/datasets/${job.dataset_id}?tab=validation` }));
  return [make("p", undefined, { class: "bad-rows-title" }, [icon("triangle-alert"), make("strong", none ? `No row can be used for training${lines ? `, and ${plural(lines, "line")} of the file could not be read` : ""}` : said)]), list, buttons, problem];
}

/** @param {Record<string, any>} job @param {string} message @param {number[]} rows @param {boolean} linked */
function item(job, message, rows, linked) {
  const shown = rows.slice(0, SHOWN).map(row => linked ? make("a", number(row), { class: "tag num", href: `/datasets/${job.dataset_id}?tab=rows&at=${row}`, "aria-label": `Row ${row}` }) : make("span", number(row), { class: "tag num" }));
  return make("li", undefined, {}, [make("span", message), make("span", undefined, { class: "row small" }, [make("span", linked ? "Rows" : "Lines", { class: "muted" }), ...shown])]);
}

/** The dataset gets a repaired version, and the job is looked at again. @param {Record<string, any>} job @param {Record<string, unknown>} repairs @param {string} words what the version has @param {HTMLElement} button @param {HTMLElement} problem @param {() => void} repaired */
async function repairRows(job, repairs, words, button, problem, repaired) {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  clearProblem(problem);
  try {
    await post(`/datasets/${job.dataset_id}/repair${job.dataset_version ? `?version=${job.dataset_version}` : ""}`, repairs);
    for (;;) {
      const now = await call(`/datasets/${job.dataset_id}`);
      if (now.status !== "processing") {
        if (now.error) throw now.error;
        break;
      }
      await new Promise(resolve => setTimeout(resolve, LOOK_MS));
    }
    reports.clear();
    sizes.clear();
    announce(`The dataset has a new version with ${words}.`);
    repaired();
  } catch (error) {
    showProblem(problem, error);
  } finally {
    button.removeAttribute("aria-busy");
  }
}
