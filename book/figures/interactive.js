/* The script of MatrixExplorer. Sent on one line: block comments only, semicolons everywhere. */
async function (script, name) {
  const root = (script && script.closest(".setr-figure")) || document.getElementById(name);
  const find = (selector) => root.querySelector(selector);
  const { rows: h, columns: w, label } = find(".setr-panels").dataset;
  const pick = find(".setr-pick"), heat = find(".setr-heat"), select = find("select");
  const bytes = (url) => Uint8Array.from(atob(url.split(",")[1]), (c) => c.charCodeAt(0));
  const bar = find(".setr-table"), table = bytes(bar.dataset.table);
  const paint = (canvas, width, height, level) => {
    canvas.width = width; canvas.height = height;
    const image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      image.data.set(table.subarray(3 * level(i), 3 * level(i) + 3), 4 * i);
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
  /* A grey picture is the matrix itself: pixel (row, column) is the 8-bit number. */
  const load = async (option) => {
    const image = new Image();
    image.src = option.dataset.rows;
    await image.decode();
    const board = document.createElement("canvas");
    board.width = image.width; board.height = image.height;
    const context = board.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return {
      pixels: context.getImageData(0, 0, image.width, image.height).data,
      ends: new Float32Array(bytes(option.dataset.ends).buffer),
    };
  };
  const maps = await Promise.all([...select.options].map(load));
  const canvas = document.createElement("canvas");
  canvas.className = "dark-light";
  canvas.setAttribute("role", "img");
  heat.querySelector("img").replaceWith(canvas);
  heat.style.backgroundImage = `url(${pick.querySelector("img").src})`;
  paint(bar, 256, 1, (i) => i);
  const n = h * w;
  const place = (i) => `row ${Math.floor(i / w)}, column ${i % w}`;
  let query = Number(pick.getAttribute("aria-valuenow"));
  const draw = (q) => {
    const { pixels, ends } = maps[select.selectedIndex];
    const low = ends[2 * q], high = ends[2 * q + 1];
    const level = (i) => pixels[4 * (q * n + i)];
    const short = (x) => Math.abs(x) < 1e-4 * Math.abs(high - low) ? "0" : x.toPrecision(2);
    const value = (i) => short(low + (high - low) * level(i) / 255);
    let best = q ? 0 : 1;
    for (let i = 0; i < n; i++) if (i !== q && level(i) > level(best)) best = i;
    paint(canvas, w, h, level);
    for (const mark of root.querySelectorAll(".setr-mark")) {
      Object.assign(mark.style, {
        left: `${100 * (q % w) / w}%`, top: `${100 * Math.floor(q / w) / h}%`,
        width: `${100 / w}%`, height: `${100 / h}%`,
      });
    }
    find(".setr-low").textContent = short(low);
    find(".setr-high").textContent = short(high);
    const text = `patch at ${place(q)}: ${label} to another patch largest at ${place(best)} (${value(best)})`;
    find(".setr-readout").textContent = text;
    canvas.setAttribute("aria-label", text);
    pick.setAttribute("aria-valuenow", q);
    pick.setAttribute("aria-valuetext", place(q));
  };
  const under = (event) => {
    const box = pick.getBoundingClientRect();
    const cell = (at, size, count) => Math.min(count - 1, Math.max(0, Math.floor(at / size * count)));
    return cell(event.clientY - box.top, box.height, h) * w + cell(event.clientX - box.left, box.width, w);
  };
  /* Hovering previews a patch, a click or a tap keeps it. */
  pick.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") draw(under(event)); });
  pick.addEventListener("pointerleave", () => draw(query));
  pick.addEventListener("click", (event) => { query = under(event); draw(query); });
  pick.addEventListener("keydown", (event) => {
    const row = Math.floor(query / w), column = query % w;
    const to = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: [row, 0], End: [row, w - 1],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    query = Math.min(h - 1, Math.max(0, to[0])) * w + Math.min(w - 1, Math.max(0, to[1]));
    draw(query);
  });
  select.addEventListener("change", () => draw(query));
  find("input").addEventListener("change", (event) => { canvas.style.opacity = event.target.checked ? 0.65 : 1; });
  draw(query);
}
