// @ts-check
/** A key or a link that the server tells this once, in a dialog with a button to copy it. */
import { $ } from "./dom.js";

/** @param {Event} event `tunesmith:shown-once`, with what the API answered */
function show(event) {
  const told = /** @type {CustomEvent} */ (event).detail, dialog = $("shown-once"), text = told.key ?? told.link ?? "";
  $("shown-once-text").value = text;
  $("shown-once-copy").dataset.copy = text;
  $("shown-once-sent").hidden = !told.sent;
  dialog.showModal();
  $("shown-once-text").select();
  document.body.dispatchEvent(new CustomEvent(dialog.dataset.event));
}

export function startShownOnce() {
  document.body.addEventListener("tunesmith:shown-once", show);
  $("shown-once").addEventListener("close", () => { $("shown-once-text").value = ""; $("shown-once-copy").dataset.copy = ""; });
}
