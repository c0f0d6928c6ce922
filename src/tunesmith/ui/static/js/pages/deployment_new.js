// @ts-check
/** Deploying a model: its name is suggested until somebody types one. */
import { $ } from "../dom.js";

const model = $("field-model"), name = $("field-name");
let isOurs = !name.value || name.value === suggested();

/** As the server does it. */
function suggested() {
  const plain = model.value.split("@")[0].split("/").pop().toLowerCase();
  return plain.replace(/[^a-z0-9.-]/g, "-").slice(0, 80).replace(/^[.-]+|[.-]+$/g, "");
}

model.addEventListener("input", () => { if (isOurs) name.value = suggested(); });
name.addEventListener("input", () => { isOurs = !name.value; });
