// @ts-check
/** Before the first paint: theme, density, motion and the side bar as they were left, else as the server's settings say. Not a module, so that nothing flashes.
 * Until the other scripts are there, buttons wait and a form that they send is not sent as an address. */
(() => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = (/** @type {string} */ name) => {
    try { return localStorage.getItem(`tunesmith.${name}`); } catch { return null; } // storage may be forbidden
  };
  const apply = () => {
    const theme = kept("theme") ?? root.dataset.firstTheme ?? "system";
    root.dataset.theme = theme;
    root.classList.toggle("dark", theme === "dark" || (theme !== "light" && dark.matches));
    root.dataset.density = kept("density") ?? root.dataset.firstDensity ?? "normal";
    root.dataset.motion = kept("motion") ?? root.dataset.firstMotion ?? "system";
    root.dataset.side = kept("side") ?? "wide";
    document.dispatchEvent(new CustomEvent("tunesmith:theme"));
  };
  dark.addEventListener("change", apply);
  addEventListener("storage", apply);
  document.addEventListener("tunesmith:appearance", apply);
  apply();
  root.dataset.starting = "";
  document.addEventListener("DOMContentLoaded", () => delete root.dataset.starting);
  addEventListener("submit", event => {
    if ("starting" in root.dataset && !(/** @type {Element} */ (event.target).hasAttribute("action"))) event.preventDefault();
  }, true);
})();
