// Drawn figures: what belongs together lights up together, under the pointer or with the keyboard.
for (const figure of document.querySelectorAll(".setr-drawn")) {
  const parts = [...figure.querySelectorAll("[data-of]")];
  const light = (names) => {
    for (const part of parts) {
      const on = part.dataset.of.split(" ").some((name) => names.includes(name));
      part.classList.toggle("d-on", on);
    }
  };
  const namesOf = (event) => {
    const part = event.target.closest("[data-lights]");
    return part ? part.dataset.lights.split(" ") : [];
  };
  if (!parts.length) continue;
  for (const kind of ["pointerover", "focusin"]) figure.addEventListener(kind, (e) => light(namesOf(e)));
  for (const kind of ["pointerleave", "focusout"]) figure.addEventListener(kind, () => light([]));
}
