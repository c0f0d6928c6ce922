// @ts-check
/** A clean-up says what it would delete before it deletes anything. */
import { call, post } from "../api.js";
import { $, attempt, clearProblem, make, setText } from "../dom.js";
import { toast, toastError } from "../toast.js";
import { bytes, plural } from "../words.js";

let name = "";

/** @param {any} found as of GET /system/storage/cleanups/{name} */
function ask(found) {
  setText($("cleanup-title"), `${found.title}: free ${bytes(found.frees_bytes)}?`);
  setText($("cleanup-about"), found.about);
  const rows = found.items.map((/** @type {any} */ item) => make("li", undefined, {}, [make("span", item.what), make("span", bytes(item.size_bytes), { class: "num muted" })]));
  if (found.num_items > found.items.length) rows.push(make("li", `and ${plural(found.num_items - found.items.length, "smaller thing")}`, { class: "muted" }));
  $("cleanup-items").replaceChildren(make("ul", undefined, {}, rows));
  setText($("cleanup-yes"), `Delete ${plural(found.num_items, "thing")}`);
  $("cleanup-yes").disabled = !found.num_items || Boolean(found.why_not);
  clearProblem($("cleanup-problem"));
  $("cleanup").showModal();
}

document.addEventListener("click", async event => {
  const button = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("[data-cleanup]"));
  if (!button) return;
  name = button.dataset.cleanup ?? "";
  try {
    ask(await call(`/system/storage/cleanups/${name}`));
  } catch (error) {
    toastError(error);
  }
});

$("cleanup-yes").addEventListener("click", () => attempt($("cleanup-yes"), $("cleanup-problem"), async () => {
  const done = await post(`/system/storage/cleanups/${name}`);
  $("cleanup").close();
  toast(`${bytes(done.freed_bytes)} freed.`);
  document.body.dispatchEvent(new CustomEvent("tunesmith:storage"));
}));
