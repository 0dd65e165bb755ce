// Only on pages that hold widgets, and before the embedder.
if (document.currentScript.dataset.assets) {
  // Icon fonts of the widgets: ours, not the CDN's.
  const assets = new URL(document.currentScript.dataset.assets, document.currentScript.src);
  window.__jupyter_widgets_assets_path__ = assets.href;
}

// The embedder speaks to MathJax 2 for every description; pass its requests on to MathJax 3.
window.addEventListener("load", () => {
  const mathjax = window.MathJax;
  if (mathjax && mathjax.startup && !mathjax.Hub) {
    const typeset = (element) => mathjax.startup.promise.then(() => mathjax.typesetPromise([element]));
    mathjax.Hub = { Queue: (command) => typeset(command[2]) };
  }
});

// ipywidgets gives sliders and Play buttons no accessible name, and its slider says an index.
const PLAY_BUTTONS = ["Play or pause", "Stop", "Repeat"];
function nameControls() {
  for (const handle of document.querySelectorAll(".jupyter-widgets .noUi-handle")) {
    const row = handle.closest(".widget-inline-hbox");
    if (!row) continue;
    const label = row.querySelector(".widget-label"), value = row.querySelector(".widget-readout");
    const set = (name, text) => handle.getAttribute(name) !== text && handle.setAttribute(name, text);
    if (label) set("aria-label", label.textContent);
    if (value) set("aria-valuetext", value.textContent);
  }
  for (const play of document.querySelectorAll(".widget-play")) {
    const buttons = play.querySelectorAll("button:not([aria-label])");
    buttons.forEach((button, i) => button.setAttribute("aria-label", PLAY_BUTTONS[i]));
  }
  // The embedder means to remove stills itself, but looks for a tag name in the wrong case.
  for (const area of document.querySelectorAll(".widget-subarea")) {
    if (!area.firstElementChild) continue;
    const still = area.parentElement.querySelector("img.setr-still");
    if (still) (still.closest(".setr-paper, .setr-card") || still).remove();
  }
}
document.addEventListener("DOMContentLoaded", () => {
  const watch = new MutationObserver(nameControls);
  watch.observe(document.body, { childList: true, subtree: true, characterData: true });
});
