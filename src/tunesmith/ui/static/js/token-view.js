// @ts-check
/** Rows as a model reads them: every token, colored by whether it is learned, only read, or cut off. */
import { call } from "./api.js";
import { attempt, make } from "./dom.js";
import { number, plural } from "./words.js";

const KINDS = /** @type {Record<string, string>} */ ({ learned: "learned", masked: "read only", cut: "cut off" });
const NOTES = /** @type {Record<string, string>} */ ({
  no_end_mark: "The template ends no answer; the end-of-text token stands for the end mark.",
  rewritten_turns: "The template writes this answer in another way later on, so it is learned in a text of its own.",
  lost_turns: "The template does not write every answer as it was said; those are not learned.",
  lost_text: "The template leaves a message out.",
  doubled_marks: "The row carries the model's own start or end tokens; here they stand once.",
  joined_turns: "Several user messages in a row are joined, as the template refuses them.",
});

/** @param {any} token */
function drawToken(token) {
  const text = token.text === "" ? "·" : token.text.replaceAll("\n", "↵\n");
  return make("span", text, { "data-kind": token.kind, ...(token.special ? { "data-special": "" } : {}), title: `${token.id}, ${KINDS[token.kind]}` });
}

/** @param {any} row @param {any} text @param {number} place */
function drawText(row, text, place) {
  const facts = [`${plural(text.num_tokens, "token")}`, `${number(text.num_learned)} learned`, ...(text.num_cut ? [`${number(text.num_cut)} cut off${text.loses_end ? ", with the end of the turn" : ""}`] : [])];
  const title = row.texts.length > 1 ? `Row ${row.row}, text ${place + 1} of ${row.texts.length}` : `Row ${row.row}`;
  const body = make("div", undefined, { class: "tokens", tabindex: "0", role: "group", "aria-label": `${title}: ${facts.join(", ")}`, dir: "auto" }, text.tokens.map(drawToken));
  if (text.tokens.length < text.num_tokens) body.append(make("span", ` … ${number(text.num_tokens - text.tokens.length)} more`, { class: "muted" }));
  return make("div", undefined, { class: "stack" }, [
    make("div", undefined, { class: "spread" }, [make("strong", title), make("span", facts.join(" · "), { class: "muted small num" })]), body,
    ...text.notes.map((/** @type {string} */ note) => make("p", NOTES[note] ?? note, { class: "muted small" })),
  ]);
}

/** @param {any} row */
function drawRow(row) {
  if (row.problem) return [make("div", undefined, { class: "note", "data-tone": "bad" }, [make("strong", `Row ${row.row} cannot be learned from. `), make("span", `${row.problem} ${row.hint}`)])];
  return [...row.texts.map((/** @type {any} */ text, /** @type {number} */ place) => drawText(row, text, place)), ...row.remarks.map((/** @type {string} */ remark) => make("p", `Row ${row.row}: ${remark}`, { class: "muted small" }))];
}

/** @param {any} found */
function draw(found) {
  const legend = make("p", undefined, { class: "row small tokens-legend" }, Object.entries(KINDS).map(([kind, words]) => make("span", words, { "data-kind": kind })));
  const used = Object.entries(found.used_columns).map(([role, column]) => role === column ? column : `${column} as ${role}`).join(", ");
  const columns = make("p", `Columns used: ${used}. Not used: ${found.unused_columns.join(", ") || "none"}. An answer ends with ${found.end_marks.join(" or ")}.`, { class: "muted small" });
  return [legend, ...found.rows.flatMap(drawRow), columns];
}

/** Show rows of a dataset in `place`. @param {HTMLElement} place @param {number | string} dataset @param {Record<string, any>} asked as the API takes it */
export async function showTokens(place, dataset, asked) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(asked)) for (const one of Array.isArray(value) ? value : [value]) if (one !== "" && one !== null && one !== undefined) query.append(name, String(one));
  place.setAttribute("aria-busy", "true");
  try { place.replaceChildren(...draw(await call(`/datasets/${dataset}/tokens?${query}`))); }
  finally { place.removeAttribute("aria-busy"); }
}

/** A form with the model, a row's number and the longest row; shows the first rows at once when a model is chosen. @param {HTMLFormElement} form */
export function startTokens(form) {
  const place = /** @type {HTMLElement} */ (document.getElementById(form.dataset.tokens ?? "")), problem = /** @type {HTMLElement} */ (form.querySelector("[data-problems]")), button = /** @type {HTMLButtonElement} */ (form.querySelector("[type=submit]"));
  const show = () => attempt(button, problem, () => {
    const given = Object.fromEntries(new FormData(form));
    return showTokens(place, form.dataset.dataset ?? "", { model: given.model, rows: given.row, max_length: given.max_length, tool_calls: given.tool_calls, version: form.dataset.version });
  });
  form.addEventListener("submit", event => { event.preventDefault(); void show(); });
  if (new FormData(form).get("model")) void show();
}
