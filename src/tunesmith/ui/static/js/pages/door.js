// @ts-check
/** The pages of somebody who has not logged in: what stands after the # of a link goes into its field, and nowhere else. */
import { startActions } from "../actions.js";
import { $ } from "../dom.js";
import { startPasswords } from "../password.js";
import { showKept } from "../toast.js";

const said = new URLSearchParams(location.hash.slice(1));

for (const field of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("[data-from-hash]"))) {
  field.value ||= said.get(field.dataset.fromHash ?? "") ?? "";
}
for (const link of /** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll("a[data-keep-hash]"))) {
  if (said.has("invitation")) link.hash = location.hash;
}

const reset = /** @type {HTMLFormElement | null} */ ($("reset"));
if (reset && !said.get("token")) {
  reset.hidden = true;
  $("no-token").hidden = false;
}

document.body.addEventListener("tunesmith:reset", () => {
  history.replaceState(null, "", location.pathname); // the link has been used
  $("reset").hidden = true;
  $("reset-done").hidden = false;
  $("reset-done").focus();
});
document.body.addEventListener("tunesmith:sent", () => {
  $("forgot").hidden = true;
  $("sent").hidden = false;
});

startActions();
startPasswords();
showKept();
