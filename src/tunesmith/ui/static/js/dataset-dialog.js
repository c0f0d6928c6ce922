// @ts-check
/** One whole row in a dialog: to read, to edit, to delete. An edit makes a new version and can be undone. */
import { call, post } from "./api.js";
import { MEDIA, cells, chat, media, messagesOf, remember, shown } from "./dataset-row.js";
import { icon, make, setText, showProblem, clearProblem, sure } from "./dom.js";
import { toast, toastError } from "./toast.js";

/** @typedef {import("./dataset-row.js").Data} Data */

/** @param {string} text @param {string} name @param {Record<string, string>} attributes @param {() => void} press */
function button(text, name, attributes, press) {
  const made = make("button", undefined, { type: "button", class: "btn", ...attributes }, [icon(name), ...(text ? [text] : [])]);
  made.addEventListener("click", press);
  return made;
}

/** Ask the page to show what is new. */
const refresh = () => document.body.dispatchEvent(new CustomEvent("tunesmith:dataset"));

/**
 * @param {Data} data
 * @param {string[]} columns
 * @param {number} first the row's number
 * @param {(by: number) => number | null} step to a row nearby; its number
 * @param {() => void} closed
 */
export function openRow(data, columns, first, step, closed) {
  const title = make("h2", "", { id: "row-title" }), body = make("div", undefined, { class: "row-body stack" }), problem = make("div", undefined, { hidden: "" });
  const foot = make("footer"), dialog = make("dialog", undefined, { class: "modal is-wide row-dialog", "aria-labelledby": "row-title" });
  let at = first, editing = false;
  /** @type {any} */
  let row = null;

  const outline = { "data-variant": "outline", "data-size": "icon-sm" };
  const earlier = button("", "chevron-left", { ...outline, "aria-label": "Row before" }, () => void move(-1));
  const later = button("", "chevron-right", { ...outline, "aria-label": "Next row" }, () => void move(1));
  const close = button("", "x", { "data-variant": "ghost", "data-size": "icon-sm", "aria-label": "Close" }, () => dialog.close());
  dialog.append(make("div", undefined, { class: "spread row-head" }, [title, make("div", undefined, { class: "row" }, [earlier, later, close])]), problem, body, foot);

  /** @param {number} by */
  async function move(by) {
    const next = editing ? null : step(by);
    if (next !== null) await load(next);
  }

  /** @param {number} next */
  async function load(next) {
    at = next;
    setText(title, `Row ${next.toLocaleString("en")}`);
    clearProblem(problem);
    try {
      const answer = remember(await call(`/datasets/${data.id}/preview?version=${data.version}&row=${next}`));
      if (at !== next) return;
      row = answer.rows[0];
      read();
    } catch (error) {
      showProblem(problem, error);
    }
  }

  function read() {
    editing = false;
    const talk = messagesOf(row);
    body.replaceChildren();
    if (MEDIA.includes(data.type)) body.append(make("div", undefined, { class: "row-media" }, [media(data, row, true)]));
    if (talk) body.append(chat(talk));
    const used = talk ? Object.values(data.mapping) : [], others = columns.filter(column => !used.includes(column));
    if (others.length) body.append(cells(row, others));
    foot.replaceChildren(...(data.newest ? [button("Delete row", "trash", { "data-variant": "ghost" }, () => void drop()), button("Edit", "pencil", { "data-variant": "outline" }, edit)] : []));
  }

  function edit() {
    editing = true;
    const form = make("form", undefined, { class: "stack" });
    const fields = columns.filter(column => !(MEDIA.includes(data.type) && column === "media")).map((column, i) => {
      const area = make("textarea", undefined, { class: "textarea", id: `cell-${i}`, rows: String(Math.min(12, Math.max(1, Math.ceil(shown(row[column]).length / 80)))) });
      area.value = shown(row[column]);
      form.append(make("div", undefined, { class: "field" }, [make("label", column, { for: `cell-${i}` }), area]));
      return { column, area };
    });
    form.addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); void save(fields); });
    body.replaceChildren(form);
    foot.replaceChildren(button("Cancel", "undo-2", { "data-variant": "outline" }, read), button("Save as a new version", "check", {}, () => form.requestSubmit()));
    fields[0]?.area.focus();
  }

  /** @param {{column: string, area: any}[]} fields */
  async function save(fields) {
    const changed = fields.filter(({ column, area }) => area.value !== shown(row[column]));
    if (!changed.length) return read();
    await change({ cells: changed.map(({ column, area }) => ({ row: at, column, value: area.value })) }, `Row ${at} is saved in a new version.`);
  }

  async function drop() {
    if (await sure(`Delete row ${at}?`, { action: "Delete row", more: "A new version is made without it; the old one stays." })) await change({ drop_rows: [at] }, `Row ${at} is deleted in a new version.`);
  }

  /** @param {unknown} json @param {string} done */
  async function change(json, done) {
    clearProblem(problem);
    try {
      await post(`/datasets/${data.id}/edit?version=${data.version}`, json);
    } catch (error) {
      return showProblem(problem, error);
    }
    dialog.close();
    toast(done, { action: "Undo", act: () => void undo() });
    refresh();
  }

  /** Back to the version that was edited, as soon as the new one is there. */
  async function undo() {
    try {
      for (let tries = 0; (await call(`/datasets/${data.id}`)).status === "processing" && tries < 200; tries++) await new Promise(resolve => setTimeout(resolve, 300));
      await post(`/datasets/${data.id}/versions/${data.version}/restore`);
      toast("Undone.");
      refresh();
    } catch (error) {
      toastError(error);
    }
  }

  dialog.addEventListener("close", () => { dialog.remove(); closed(); });
  dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (editing || /** @type {Element} */ (event.target).closest("audio, video, input, textarea")) return;
    if (event.key === "ArrowLeft" || event.key === "k") void move(-1);
    if (event.key === "ArrowRight" || event.key === "j") void move(1);
  });
  document.body.append(dialog);
  dialog.showModal();
  void load(first);
}
