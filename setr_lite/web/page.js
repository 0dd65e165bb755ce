"use strict";
/* The page of `setr-lite export --format web`: a picture in, its labels out. client.js stands before
 * this file. */

(() => {
  const $ = (id) => document.getElementById(id);
  const page = $("page");
  let about, engine, found;

  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  const pen = (id) => $(id).getContext("2d", { willReadFrequently: true });

  async function start() {
    engine = await SetrClient.engine("model").ready;
    about = engine.about;
    const [height, width] = about.grid.map((side) => side * about.patch);
    for (const id of ["picture", "labels"]) Object.assign($(id), { width, height });
    $("title").textContent = `${about.name}: SETR-${about.head}, ${about.classes.length} classes`;
    $("said").textContent = `Ready for a picture; it will be brought to ${height} x ${width}.`;
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
    page.dataset.state = "busy";
    try {
      const rgba = draw(await createImageBitmap(file));
      $("picture").setAttribute("aria-label", file.name || "The picture");
      const answer = await engine.ask(page, { rgba });
      if (answer) show(answer);
    } catch (error) {
      $("said").textContent = `${file.name} is no picture that this browser can read.`;
    }
    page.dataset.state = "ready";
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
  function save(name, color) {
    const canvas = Object.assign(document.createElement("canvas"), {
      width: $("labels").width, height: $("labels").height,
    });
    canvas.getContext("2d").putImageData(image(color), 0, 0);
    const link = Object.assign(document.createElement("a"), {
      href: canvas.toDataURL("image/png"), download: name,
    });
    link.click();
  }

  $("file").addEventListener("change", (event) => read(event.target.files[0]));
  $("save").addEventListener("click", () => save("labels.png", (k) => [k, k, k]));
  $("paint").addEventListener("click", () => save("colours.png", (k) => about.palette[k]));
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
