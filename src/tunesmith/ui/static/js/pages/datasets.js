// @ts-check
/** The list of datasets and the page of uploads: files dropped anywhere, a selection, and what is done with it. */
import { call } from "../api.js";
import { addFiles, filesOf, startUploads } from "../dataset-upload.js";
import { $, setText, sure } from "../dom.js";
import { toast, toastError } from "../toast.js";
import { plural } from "../words.js";

/** Selected datasets, with their names; stays while the list is refreshed. @type {Map<number, string>} */
const picked = new Map();

const boxes = () => /** @type {HTMLInputElement[]} */ ([...document.querySelectorAll("#datasets input[name=pick]")]);

function showPicked() {
  const all = boxes();
  for (const box of all) box.checked = picked.has(Number(box.value));
  const whole = $("pick-all"), here = all.filter(box => box.checked).length;
  if (whole) { whole.checked = all.length > 0 && here === all.length; whole.indeterminate = here > 0 && here < all.length; }
  if (!$("bulk")) return;
  $("bulk").hidden = picked.size === 0;
  setText($("bulk-count"), `${picked.size} selected`);
}

/** @param {HTMLInputElement[]} all @param {boolean} on */
function setPicked(all, on) {
  for (const box of all) {
    if (on) picked.set(Number(box.value), (box.getAttribute("aria-label") ?? "").replace(/^Select /, ""));
    else picked.delete(Number(box.value));
  }
  showPicked();
}

/** @param {Event} event */
function pick(event) {
  const box = /** @type {HTMLInputElement} */ (event.target);
  if (box.id === "pick-all" || box.name === "pick") setPicked(box.id === "pick-all" ? boxes() : [box], box.checked);
}

/** @param {"tag" | "untag"} action @returns {Promise<string[]>} */
function askTags(action) {
  const dialog = $("tagging"), field = $("tagging-tags"), word = action === "tag" ? "Tag" : "Untag";
  setText($("tagging-title"), `${word} ${plural(picked.size, "dataset")}`);
  setText($("tagging-yes"), word);
  field.value = "";
  field.onkeydown = (/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter") { event.preventDefault(); dialog.close("yes"); } };
  dialog.returnValue = "";
  dialog.showModal();
  field.focus();
  return new Promise(resolve => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? field.value.split(",").map((/** @type {string} */ tag) => tag.trim()).filter(Boolean) : []), { once: true }));
}

/** @param {string} action */
async function bulk(action) {
  const ids = [...picked.keys()], count = plural(ids.length, "dataset");
  let tags = /** @type {string[]} */ ([]);
  if (action === "delete") {
    const names = [...picked.values()].slice(0, 5).map(name => `“${name}”`).join(", ") + (ids.length > 5 ? ", …" : "");
    if (!await sure(`Delete ${count}?`, { action: "Delete", more: `${names} and all their versions and files. This cannot be undone.`, typed: count })) return;
  } else {
    tags = await askTags(/** @type {"tag" | "untag"} */ (action));
    if (!tags.length) return;
  }
  const { items } = await call("/datasets/bulk", { json: { action, ids, tags } });
  const failed = items.filter((/** @type {any} */ item) => item.error), done = items.length - failed.length;
  for (const item of items) if (!item.error) picked.delete(item.id);
  if (done) toast(`${plural(done, "dataset")} ${{ delete: "deleted", tag: "tagged", untag: "untagged" }[action]}.`);
  if (failed.length) toastError({ message: `${plural(failed.length, "dataset")} could not be changed.`, details: failed.map((/** @type {any} */ item) => ({ message: item.error.message })), hint: failed[0].error.hint });
  document.body.dispatchEvent(new CustomEvent("tunesmith:datasets"));
  showPicked();
}

function startList() {
  const main = /** @type {HTMLElement} */ (document.querySelector("main"));
  main.addEventListener("change", pick, true);
  setPicked(boxes().filter(box => box.checked), true); // before this script was there
  main.addEventListener("click", event => {
    const action = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("[data-bulk]"))?.dataset.bulk;
    if (action === "none") { picked.clear(); showPicked(); } else if (action) bulk(action).catch(toastError);
  });
  document.addEventListener("htmx:after:swap", showPicked);
  $("filter").addEventListener("formdata", (/** @type {FormDataEvent} */ event) => {
    for (const [name, value] of [...event.formData]) if (!value || (name === "sort" && value === "created")) event.formData.delete(name);
  });
  $("close-uploads").addEventListener("click", () => { $("dropped").hidden = true; });
}

/** A drop counts anywhere on the page. */
function startDrop() {
  let depth = 0;
  const veil = $("drop-veil"), area = document.querySelector(".drop");
  const over = (/** @type {boolean} */ on) => { if (veil) veil.hidden = !on; else area?.classList.toggle("is-over", on); };
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", event => { if (hasFiles(event)) { depth++; over(true); } });
  addEventListener("dragleave", event => { if (hasFiles(event) && --depth <= 0) { depth = 0; over(false); } });
  addEventListener("dragover", event => { if (hasFiles(event)) event.preventDefault(); });
  addEventListener("drop", event => {
    if (!event.dataTransfer || !hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    const files = filesOf(event.dataTransfer);
    if (!files.length) return;
    if ($("dropped")) $("dropped").hidden = false;
    addFiles(files);
    $("uploader").scrollIntoView({ block: "nearest" });
  });
}

startUploads();
if (document.body.dataset.may?.includes("train")) startDrop();
if ($("filter")) startList();
