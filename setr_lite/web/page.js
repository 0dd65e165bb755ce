"use strict";
/* The page of `setr-lite export --format web`: an image in, its labels out. client.js stands before
 * this file. */

(() => {
  const $ = (id) => document.getElementById(id);
  const page = $("page");
  const NAMES = { naive: "Naive", pup: "PUP", mla: "MLA" };
  let about, engine, found;
  let asked = 0; // how many images; an answer to an earlier one comes too late

  const percent = (share) =>
    share < 0.0005 ? "below 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  const pen = (id) => $(id).getContext("2d", { willReadFrequently: true });

  async function start() {
    engine = await SetrClient.engine("model").ready;
    about = engine.about;
    const [height, width] = about.grid.map((side) => side * about.patch);
    for (const id of ["picture", "labels"]) Object.assign($(id), { width, height });
    const head = NAMES[about.head] || about.head;
    document.title = `${about.name}: SETR-${head}, ${about.classes.length} classes`;
    $("title").textContent = document.title;
    $("said").textContent = `Ready for an image; it will be brought to ${height} x ${width} pixels.`;
    page.dataset.state = "ready";
  }

  /* The largest middle part of the model's shape, at the model's size. */
  function draw(bitmap) {
    const { width, height } = $("picture");
    const scale = Math.min(bitmap.width / width, bitmap.height / height);
    const [w, h] = [width * scale, height * scale];
    const context = pen("picture");
    context.imageSmoothingQuality = "high";
    context.drawImage(
      bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, width, height,
    );
    return context.getImageData(0, 0, width, height).data;
  }

  async function read(file) {
    if (!file || !about) return;
    const id = ++asked;
    page.dataset.state = "busy";
    try {
      const bitmap = await createImageBitmap(file).catch(() => null);
      if (id !== asked) return;
      if (bitmap) await label(draw(bitmap), file.name, id);
      else $("said").textContent = `${file.name} is no image that this browser can read.`;
    } catch (error) {
      $("said").textContent = `${file.name}: the model failed (${error.message}).`;
    }
    if (id === asked) page.dataset.state = "ready";
  }

  async function label(rgba, name, id) {
    clear();
    $("picture").setAttribute("aria-label", name);
    $("said").textContent = `The model reads ${name}.`;
    const answer = await engine.ask(page, { rgba });
    if (id === asked) show({ ...answer, name });
  }

  /* Labels of another image must not stand beside this one. */
  function clear() {
    pen("labels").clearRect(0, 0, $("labels").width, $("labels").height);
    $("labels").setAttribute("aria-label", "No labels yet");
    $("legend").replaceChildren();
    $("save").disabled = $("paint").disabled = true;
  }

  function image(color) {
    const picture = pen("labels").createImageData($("labels").width, $("labels").height);
    found.label.forEach((k, i) => picture.data.set([...color(k), 255], 4 * i));
    return picture;
  }

  function show(answer) {
    found = answer;
    pen("labels").putImageData(image((k) => about.palette[k]), 0, 0);
    const counts = new Map();
    for (const k of found.label) counts.set(k, (counts.get(k) || 0) + 1);
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    const words = sorted.map(([k, n]) => `${about.classes[k]} ${percent(n / found.label.length)}`);
    $("legend").replaceChildren(
      ...sorted.map(([k], i) => {
        const item = document.createElement("li"), swatch = document.createElement("i");
        swatch.style.background = `rgb(${about.palette[k].join()})`;
        item.append(swatch, words[i]);
        return item;
      }),
    );
    $("said").textContent = `${words.slice(0, 3).join(", ")}; ${found.ms.toFixed(0)} ms`;
    $("labels").setAttribute("aria-label", `Labels: ${words.join(", ")}`);
    $("save").disabled = $("paint").disabled = false;
  }

  /* A PNG of the model's size: the class's number in all three channels, or its colour. */
  function save(what, color) {
    const canvas = Object.assign(document.createElement("canvas"), {
      width: $("labels").width, height: $("labels").height,
    });
    canvas.getContext("2d").putImageData(image(color), 0, 0);
    const link = Object.assign(document.createElement("a"), {
      href: canvas.toDataURL("image/png"),
      download: `${found.name.replace(/\.[^.]*$/, "")}_${what}.png`,
    });
    link.click();
  }

  $("file").addEventListener("change", (event) => read(event.target.files[0]));
  $("save").addEventListener("click", () => save("labels", (k) => [k, k, k]));
  $("paint").addEventListener("click", () => save("colours", (k) => about.palette[k]));
  addEventListener("paste", (event) => read(event.clipboardData.files[0]));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    page.classList.add("over");
  });
  addEventListener("dragleave", () => page.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    page.classList.remove("over");
    read(event.dataTransfer.files[0]);
  });
  start().catch((error) => {
    page.dataset.state = "failed";
    $("said").textContent = `The model could not start: ${error.message || "its worker failed"}.`;
  });
})();
