// Exercises that are answered on the page. Nothing is stored or sent.

// "12,596,224", "0.75", "0,75", "3/4", "82.5 %": NaN if it is none of these
function numberOf(text) {
  let t = text.trim().replace(/[\s_]/g, "");
  const percent = t.endsWith("%");
  if (percent) t = t.slice(0, -1);
  if (/^-?\d{1,3}(,\d{3})+(\.\d+)?$/.test(t)) t = t.replaceAll(",", "");
  t = t.replace(",", ".");
  const [above, below = "1", more] = t.split("/");
  if (!above || !below || more !== undefined) return NaN;
  return Number(above) / Number(below) / (percent ? 100 : 1);
}

function checkNumbers(fields) {
  const wrong = [];
  for (const field of fields) {
    const value = numberOf(field.value), name = field.parentElement.textContent.trim();
    const { answer, within } = field.dataset;
    const good = Math.abs(value - answer) <= Number(within) + 1e-9 * Math.abs(answer);
    field.setAttribute("aria-invalid", String(!good));
    if (Number.isNaN(value)) return [false, `${name}: a number, please.`];
    if (!good) wrong.push(name);
  }
  return wrong.length ? [false, `Not yet: ${wrong.join(", ")}.`] : [true, "Right."];
}

function checkChoices(fields) {
  const taken = fields.filter((field) => field.checked);
  if (!taken.length) return [false, "Choose first."];
  const wrong = taken.find((field) => !("right" in field.dataset));
  if (wrong) return [false, `Not yet. ${wrong.dataset.reply}`];
  const missing = fields.some((field) => "right" in field.dataset && !field.checked);
  return missing ? [false, "Right so far, but something is missing."] : [true, "Right."];
}

for (const form of document.querySelectorAll("form.setr-quiz")) {
  const output = form.querySelector("output");
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = [...form.querySelectorAll("input")];
    const written = fields.filter((field) => field.dataset.answer);
    const chosen = fields.filter((field) => !field.dataset.answer);
    let [right, words] = written.length ? checkNumbers(written) : [true, "Right."];
    if (right && chosen.length) [right, words] = checkChoices(chosen);
    form.dataset.state = right ? "right" : "wrong";
    output.innerHTML = words;
  });
  // on a street up and down go a row, where a radio button alone would go to its neighbour
  form.querySelector(".patches")?.addEventListener("keydown", (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const box = event.currentTarget, fields = [...box.querySelectorAll("input")];
    const columns = Number(box.style.getPropertyValue("--columns"));
    fields[fields.indexOf(event.target) + step * columns]?.focus();
    document.activeElement.click();
  });
  form.addEventListener("input", () => { delete form.dataset.state; output.textContent = ""; });
}
