/* The script of Laboratory. Sent on one line: block comments only, semicolons everywhere. */
function (script, name) {
  const root = (script && script.closest(".setr-figure")) || document.getElementById(name);
  const find = (selector) => root.querySelector(selector);
  const { cases, checks } = JSON.parse(find(".setr-cases").textContent);
  const played = cases.map(() => ({ bought: [], answer: "" }));
  const choice = find(".setr-case"), form = find(".setr-answer"), verdict = find(".setr-verdict");
  const answer = form.querySelector("select"), shop = [...root.querySelectorAll("[data-check]")];
  let at = 0;
  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    element.textContent = text;
    return parent.appendChild(element);
  };
  const time = (s) => s < 59.5 ? `${Number(s.toPrecision(2))}\u00a0s` : `${Number((s / 60).toPrecision(2))}\u00a0min`;
  const spent = (game) => game.bought.reduce((sum, i) => sum + checks[i].seconds, 0);
  const right = (i) => played[i].answer === cases[i].id;
  const list = (which) => which.map((i) => checks[i].name).join(", ");
  const count = (n, thing) => `${n} ${thing}${n === 1 ? "" : "s"}`;

  const showEvidence = (now) => {
    find(".setr-story").textContent = now.story;
    find(".setr-loss").setAttribute("d", now.loss);
    find(".setr-twin").setAttribute("d", now.twin);
    find(".setr-last").textContent = now.steps;
    find(".setr-curve").setAttribute("aria-label", now.lossWords);
    Object.assign(find(".setr-map img"), { src: now.map, alt: now.mapWords });
    find(".setr-readout").textContent = now.mapWords;
    find(".setr-miou").textContent = now.miou;
    root.querySelectorAll(".setr-iou tbody tr").forEach((row, i) => {
      row.querySelector("b").style.width = `${now.iou[i] || 0}%`;
      row.lastElementChild.textContent = now.iou[i] === null ? "–" : now.iou[i];
    });
  };
  const log = (check) => {
    const [alarm, says] = cases[at].says[check];
    const line = make("li", "", find(".setr-log"));
    line.className = alarm ? "setr-alarm" : "setr-pass";
    make("b", `${checks[check].name}: ${alarm ? "alarm" : alarm === null ? "not run" : "passes"}.`, line);
    make("i", ` ${checks[check].what}`, line);
    line.append(` ${says}`);
  };
  const showScore = () => {
    const done = cases.map((_, i) => i).filter((i) => played[i].answer);
    const all = played.reduce((sum, game) => sum + spent(game), 0);
    const soFar = done.length ? ` Right so far: ${done.filter(right).length} of ${done.length}, in ${time(all)} of checks.` : "";
    find(".setr-score").textContent = `Spent on this case: ${time(spent(played[at]))}.${soFar}`;
    done.forEach((i) => {
      choice.options[i].textContent = `${i + 1} of ${cases.length}, ${right(i) ? "right" : "wrong"}`;
    });
  };
  /* What was named, what it was, and what the bought checks say about both. */
  const judge = () => {
    const now = cases[at], game = played[at], over = Boolean(game.answer);
    form.hidden = find(".setr-shop").hidden = over;
    verdict.hidden = find(".setr-next").hidden = !over;
    verdict.replaceChildren();
    if (!over) return;
    const same = (other) => game.bought.every((i) => !other.says[i][0] === !now.says[i][0]);
    const named = cases.find((other) => other.id === game.answer);
    make("p", `${right(at) ? "Right" : `Not “${named.name}”`}: ${now.name}.`, verdict).className = "setr-word";
    make("p", `${now.what} ${now.cost}`, verdict);
    if (now.id !== "healthy") verdict.insertAdjacentHTML("beforeend", now.diff);
    const against = game.bought.filter((i) => !named.says[i][0] !== !now.says[i][0]);
    if (!right(at)) make("p", against.length ? `Against your answer: ${list(against)}.` : "No alarm that you bought rules it out.", verdict);
    const left = cases.filter(same).length;
    make("p", `You spent ${time(spent(game))} on ${count(game.bought.length, "check")}; their alarms alone leave ${left} of the ${cases.length} cases. ${now.par}`, verdict);
  };
  const show = () => {
    const game = played[at];
    choice.value = at;
    showEvidence(cases[at]);
    find(".setr-log").replaceChildren();
    game.bought.forEach(log);
    shop.forEach((button) => button.setAttribute("aria-disabled", game.bought.includes(Number(button.dataset.check))));
    answer.value = game.answer;
    find(".setr-what").textContent = "";
    judge();
    showScore();
  };
  shop.forEach((button) => button.addEventListener("click", () => {
    const check = Number(button.dataset.check);
    if (played[at].bought.includes(check)) return;
    played[at].bought.push(check);
    button.setAttribute("aria-disabled", true);
    log(check);
    showScore();
  }));
  answer.addEventListener("change", () => { find(".setr-what").textContent = answer.selectedOptions[0].dataset.what || ""; });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!answer.value) { find(".setr-what").textContent = "Choose first."; return; }
    played[at].answer = answer.value;
    judge();
    showScore();
    verdict.focus();
  });
  choice.addEventListener("change", () => { at = Number(choice.value); show(); });
  find(".setr-next").addEventListener("click", () => {
    const open = (i) => !played[i % cases.length].answer;
    let next = at + 1;
    while (next < at + cases.length && !open(next)) next++;
    at = next % cases.length;
    show();
    choice.focus();
  });
  find(".setr-beside").addEventListener("change", (event) => root.classList.toggle("setr-twins", event.target.checked));
  find(".setr-off").hidden = true;
  root.querySelectorAll(".setr-deal, .setr-desk, .setr-title label").forEach((part) => { part.hidden = false; });
  show();
}
