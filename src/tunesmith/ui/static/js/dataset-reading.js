// @ts-check
/** How a file is read: sheet, header, columns, encoding and delimiter, each shown where it applies. */
import { make } from "./dom.js";

/** @typedef {{sheet?: string, header_row?: number, columns?: string[], encoding?: string, delimiter?: string, split?: string}} FileOptions */
/** @typedef {{sheet: string | null, sheets: string[], header_row: number | null, delimiter: string | null, columns: string[], splits: Record<string, number>}} Layout */
/** @typedef {{format: string, encoding: string | null, layout: Layout}} Found */

const ENCODINGS = [["utf-8", "UTF-8"], ["utf-16", "UTF-16"], ["cp1252", "Western European (Windows-1252)"], ["iso8859-1", "Western European (Latin-1)"], ["cp1250", "Central European (Windows-1250)"], ["cp1251", "Cyrillic (Windows-1251)"], ["koi8-r", "Cyrillic (KOI8-R)"], ["cp1253", "Greek (Windows-1253)"], ["cp1255", "Hebrew (Windows-1255)"], ["cp1256", "Arabic (Windows-1256)"], ["shift_jis", "Japanese (Shift JIS)"], ["euc_jp", "Japanese (EUC-JP)"], ["gb18030", "Chinese (GB 18030)"], ["big5", "Chinese (Big5)"], ["euc_kr", "Korean (EUC-KR)"]];
const DELIMITERS = [[",", "Comma"], [";", "Semicolon"], ["\t", "Tab"], ["|", "Pipe"], [" ", "Space"]];
const TEXTS = ["csv", "tsv", "json", "jsonl", "text", "conll"];
/** More columns than this are typed, not ticked. */
const TICKED_COLUMNS = 40;

let count = 0;

/** @param {string} label @param {any} input @param {string} [hint] */
function field(label, input, hint = "") {
  input.id = `reading-${++count}`;
  const made = make("div", undefined, { class: "field" }, [make("label", label, { for: input.id }), input]);
  if (hint) {
    input.setAttribute("aria-describedby", `${input.id}-hint`);
    made.append(make("p", hint, { class: "hint", id: `${input.id}-hint` }));
  }
  return made;
}

/** @param {string[][]} options @param {string} value @param {string} name */
function choice(options, value, name) {
  const box = make("select", undefined, { class: "select", "data-option": name });
  for (const [key, text] of options.some(([key]) => key === value) ? options : [[value, value], ...options]) box.append(make("option", text, { value: key, dir: "auto" }));
  box.value = value;
  return box;
}

/**
 * The controls that apply to what was found; none for media and Parquet of one column.
 * @param {Found} found
 * @param {FileOptions} options as chosen so far
 * @param {(options: FileOptions) => void} onChange gets all options, those that were chosen before included
 */
export function readingControls(found, options, onChange) {
  const { layout, format } = found, place = make("div", undefined, { class: "mapping reading-options" });
  /** The sheet that is seen stays, whatever else is chosen. @type {FileOptions} */
  const sheet = layout.sheets.length > 1 && layout.sheet !== null ? { sheet: layout.sheet } : {};
  const change = (/** @type {FileOptions} */ some) => onChange({ ...options, ...some });
  if (layout.sheets.length > 1) {
    const box = choice(layout.sheets.map(name => [name, name]), layout.sheet ?? "", "sheet");
    box.addEventListener("change", () => onChange({ sheet: box.value })); // another sheet has its own header and columns
    place.append(field("Sheet", box));
  }
  if (layout.header_row !== null && format !== "json") {
    const box = make("input", undefined, { class: "input", type: "number", min: "0", step: "1", value: String(layout.header_row), "data-option": "header_row" });
    box.addEventListener("change", () => {
      const { columns: _, ...others } = options;
      if (box.checkValidity() && box.value !== "") onChange({ ...others, ...sheet, header_row: Number(box.value) });
    });
    place.append(field(format === "xlsx" ? "Header in row" : "Header in line", box, "0 when the file has no header."));
  }
  if (TEXTS.includes(format)) {
    const box = choice(ENCODINGS, options.encoding ?? (found.encoding === "latin-1" ? "iso8859-1" : found.encoding ?? "utf-8"), "encoding");
    box.addEventListener("change", () => change({ encoding: box.value }));
    place.append(field("Encoding", box));
  }
  if (layout.delimiter !== null) {
    const box = choice(DELIMITERS, layout.delimiter, "delimiter");
    box.addEventListener("change", () => onChange({ ...(options.encoding ? { encoding: options.encoding } : {}), delimiter: box.value }));
    place.append(field("Cells are separated by", box));
  }
  if (Object.keys(layout.splits).length > 1 || options.split) {
    const box = choice([["", "All splits"], ...Object.keys(layout.splits).map(name => [name, name])], options.split ?? "", "split");
    box.addEventListener("change", () => { const { split: _, ...others } = options; onChange(box.value ? { ...others, split: box.value } : others); });
    place.append(field("Split", box));
  }
  if (layout.columns.length > 1) place.append(columnsControl(layout, options, columns => { const { columns: _, ...others } = options; onChange({ ...others, ...(columns ? { ...sheet, columns } : {}), ...(layout.header_row === 0 ? { header_row: 0 } : {}) }); }));
  return place;
}

/** Names where there is no header, else a choice. @param {Layout} layout @param {FileOptions} options @param {(columns: string[] | null) => void} choose */
function columnsControl(layout, options, choose) {
  if (layout.header_row === 0 || layout.columns.length > TICKED_COLUMNS) {
    const box = make("input", undefined, { class: "input", autocomplete: "off", dir: "auto", "data-option": "columns", value: (options.columns ?? (layout.header_row === 0 ? layout.columns : [])).join(", "), placeholder: "question, answer" });
    box.addEventListener("change", () => { const names = box.value.split(",").map((/** @type {string} */ name) => name.trim()).filter(Boolean); choose(names.length ? names : null); });
    return field(layout.header_row === 0 ? "Columns, from left to right" : "Columns to keep", box, layout.header_row === 0 ? "What to call them, set apart by commas." : `Set apart by commas; all ${layout.columns.length.toLocaleString("en")} when empty.`);
  }
  const set = make("fieldset", undefined, { class: "field column-choice", "data-option": "columns" }, [make("legend", "Columns to keep")]), list = make("div", undefined, { class: "row" });
  const boxes = layout.columns.map(name => {
    const box = make("input", undefined, { class: "input", type: "checkbox", value: name });
    box.checked = !options.columns || options.columns.includes(name);
    list.append(make("label", undefined, { class: "row" }, [box, make("span", name, { dir: "auto" })]));
    box.addEventListener("change", () => {
      const kept = boxes.filter(one => one.checked).map(one => one.value);
      if (kept.length) choose(kept.length === boxes.length ? null : kept);
      else box.checked = true;
    });
    return box;
  });
  set.append(list);
  return set;
}
