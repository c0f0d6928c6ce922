// @ts-check
/** The audit log: the server goes through all of it and says whether it is as it was written. */
import { call } from "../api.js";
import { $, attempt, icon, make, showProblem } from "../dom.js";

const zone = /** @type {HTMLInputElement} */ (document.querySelector(".audit-filters [name=zone]"));
zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone;

$("verify").addEventListener("click", () => attempt($("verify"), $("verified"), async () => {
  const place = $("verified"), found = await call("/audit/verify");
  place.className = "";
  if (!found.ok) return showProblem(place, { message: found.message, hint: "Compare with a backup of the database, and find out who can write to it." });
  place.className = "note tried";
  place.setAttribute("role", "status");
  place.replaceChildren(icon("shield-check"), make("span", found.message));
  place.hidden = false;
}));
