// @ts-check
/** Keys of a page of jobs: what they do, told in the list that `?` shows, and whether they are meant. */
import { isShortcut } from "../appearance.js";
import { make } from "../dom.js";

/** @param {Record<string, [string, () => void]>} keys what each says it does, and does */
export function startKeys(keys) {
  const list = document.querySelector("#shortcuts .keys");
  for (const [key, [text]] of Object.entries(keys)) {
    list?.append(make("div", undefined, {}, [make("dt", text), make("dd", undefined, {}, [make("kbd", key, { class: "kbd" })])]));
  }
  addEventListener("keydown", event => { // on the window, after those of every page: a letter after `g` is theirs
    const inMenu = /** @type {Element} */ (event.target).closest?.("[popover]:popover-open");
    if (!event.defaultPrevented && !inMenu && event.key in keys && isShortcut(event)) keys[event.key][1]();
  });
}
