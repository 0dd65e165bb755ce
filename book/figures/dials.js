/* The script of Dials. Sent on one line: block comments only, semicolons everywhere. */
function (script, name) {
  const root = (script && script.closest(".setr-figure")) || document.getElementById(name);
  const find = (selector) => root.querySelector(selector);
  const knobs = [...root.querySelectorAll("input")], bar = find(".setr-stack");
  const shown = knobs.map((knob) => JSON.parse(knob.dataset.shown));
  const { rows, most, marks, unit, total } = JSON.parse(bar.dataset.table);
  const number = (x) => String(Number(x.toPrecision(3)));
  const draw = () => {
    let row = 0;
    const words = knobs.map((knob, i) => {
      row = row * shown[i].length + Number(knob.value);
      const text = shown[i][knob.value];
      knob.setAttribute("aria-valuetext", text);
      knob.parentNode.querySelector("output").textContent = text;
      return `${knob.dataset.label} ${text}`;
    });
    const sum = rows[row].reduce((a, b) => a + b, 0);
    rows[row].forEach((value, i) => {
      bar.children[i].style.width = `${100 * value / Math.max(most, sum)}%`;
      root.querySelectorAll(".setr-key b")[i].textContent = `${number(value)} ${unit}`;
    });
    root.querySelectorAll(".setr-rule").forEach((rule, i) => {
      rule.style.left = `${100 * marks[i][1] / Math.max(most, sum)}%`;
    });
    const above = marks.filter((mark) => mark[1] < sum), below = marks.filter((mark) => mark[1] >= sum);
    const place = [above.length ? `more than ${above.pop()[0]}` : "", below.length ? `within ${below[0][0]}` : ""];
    const where = place.filter((text) => text).join(", ");
    const result = `${total} ${number(sum)} ${unit}${where && `: ${where}`}`;
    find(".setr-readout").textContent = result;
    bar.setAttribute("aria-label", `${words.join(", ")}. ${result}`);
  };
  knobs.forEach((knob) => knob.addEventListener("input", draw));
  draw();
}
