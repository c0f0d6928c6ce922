// @ts-check
/** Repairs: chosen, seen as before and after, then made. */
import { post } from "./api.js";
import { $, attempt, make } from "./dom.js";
import { toast } from "./toast.js";
import { number, plural } from "./words.js";

/** @type {Record<string, string>} */
const WORDS = { fix_encoding: "Mend wrongly decoded text", answer_lists: "One answer in a row", strip: "Cut blanks", drop_empty: "Drop empty rows", drop_bad_rows: "Drop unusable rows", drop_duplicates: "Drop duplicates", length_bounds: "Drop rows by length" };
const MOST_WORDS = 200;

/** Words of two texts, each marked as kept, gone or new (longest common subsequence). @param {string} before @param {string} after @returns {[string, "same" | "gone" | "new"][]} */
export function wordDiff(before, after) {
  const a = before.split(/(\s+)/).slice(0, MOST_WORDS), b = after.split(/(\s+)/).slice(0, MOST_WORDS);
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  /** @type {[string, "same" | "gone" | "new"][]} */
  const parts = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { parts.push([a[i], "same"]); i++; j++; }
    else if (j >= b.length || (i < a.length && table[i + 1][j] >= table[i][j + 1])) parts.push([a[i++], "gone"]);
    else parts.push([b[j++], "new"]);
  }
  return parts.filter(([text]) => text);
}

/** @param {string} before @param {string} after */
function drawDiff(before, after) {
  const line = make("p", undefined, { class: "diff-line" });
  for (const [text, kind] of wordDiff(before, after)) {
    const blank = kind !== "same" && !text.trim();
    line.append(kind === "same" ? text : make(kind === "gone" ? "del" : "ins", blank ? text.replace(/ /g, "␣").replace(/\n/g, "⏎") : text));
  }
  return line;
}

/** @param {any} example */
function drawExample(example) {
  const item = make("li", undefined, { class: "diff" }, [make("span", `Row ${number(example.row)}`, { class: "muted small" })]);
  for (const [column, text] of Object.entries(example.before)) {
    const cell = make("div", undefined, { class: "diff-cell" }, [make("span", column, { class: "muted small" })]);
    cell.append(example.after ? drawDiff(String(text), String(example.after[column])) : make("p", undefined, { class: "diff-line" }, [make("del", String(text) || "(empty)")]));
    item.append(cell);
  }
  return item;
}

/** @param {any} tried */
function drawTried(tried) {
  const parts = [make("p", undefined, { class: "repair-sum" }, [make("strong", `${number(tried.num_rows_before)} rows become ${number(tried.num_rows)}`)])];
  for (const step of tried.steps) {
    const count = step.rows_changed + step.rows_dropped, verb = step.rows_dropped ? "dropped" : "changed";
    const shown = step.examples.length < count ? `, ${step.examples.length} of them shown` : "";
    parts.push(make("section", undefined, { class: "stack", "aria-label": WORDS[step.repair] }, [
      make("h3", `${WORDS[step.repair]}: ${count ? `${plural(count, "row")} ${verb}${shown}` : "nothing to do"}`),
      ...(step.examples.length ? [make("ul", undefined, { class: "diffs" }, step.examples.map(drawExample))] : []),
    ]));
  }
  return parts;
}

/** @param {HTMLFormElement} form */
function chosen(form) {
  /** @type {Record<string, unknown>} */
  const values = {};
  for (const field of /** @type {any} */ (form.elements)) {
    if (field.type === "checkbox") values[field.name] = field.checked;
    else if (field.type === "number" && !$("bounds").hidden) values[field.name] = Number(field.value);
  }
  return values;
}

/** @param {HTMLFormElement} form */
export function startRepair(form) {
  const { id, version } = form.dataset, diff = $("repair-diff"), now = $("repair-now"), problem = $("repair-problem");
  const stale = () => { now.hidden = true; diff.replaceChildren(); };
  form.addEventListener("change", () => { $("bounds").hidden = !(/** @type {any} */ (form.elements).length_bounds.checked); stale(); });
  const preview = () => attempt(form, problem, async () => {
    diff.replaceChildren(make("p", "Trying it on every row…", { class: "muted" }));
    try {
      const tried = await post(`/datasets/${id}/repair/preview?version=${version}`, chosen(form));
      diff.replaceChildren(...drawTried(tried));
      now.hidden = tried.steps.every((/** @type {any} */ step) => !step.rows_changed && !step.rows_dropped) || tried.num_rows === 0;
    } catch (error) {
      stale();
      throw error;
    }
  });
  form.addEventListener("submit", event => { event.preventDefault(); void preview(); });
  now.addEventListener("click", () => attempt(now, problem, async () => {
    await post(`/datasets/${id}/repair?version=${version}`, chosen(form));
    stale();
    toast("A repaired version is being made.");
    document.body.dispatchEvent(new CustomEvent("tunesmith:dataset"));
  }));
  document.addEventListener("click", event => {
    const name = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("[data-choose-repair]"))?.dataset.chooseRepair;
    if (!name || !form.isConnected) return;
    /** @type {any} */ (form.elements)[name].checked = true;
    form.dispatchEvent(new Event("change"));
    form.scrollIntoView({ block: "center", behavior: "smooth" });
    void preview();
  });
}

