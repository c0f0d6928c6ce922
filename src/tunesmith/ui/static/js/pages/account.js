// @ts-check
/** One's own account: a new key is shown once, and a form begins empty each time. */
import { $ } from "../dom.js";
import { startShownOnce } from "../shown_once.js";

if ($("new-key")) {
  startShownOnce();
  $("new-key").addEventListener("close", () => $("new-key").querySelector("form").reset());
}
