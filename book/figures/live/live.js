"use strict";
/* The live figures of a page: <figure class="setr-live" data-tools="...">. Until this has run, and
 * without scripts, each is a still picture with its text. client.js stands before this file.
 *
 * One figure is a street, what may be done to it, and the answers of the models. The street is one
 * control: it takes the focus, arrow keys and Enter do what the mouse does, and every answer is
 * said in words below it. */

(() => {
  const W = 192,
    H = 96,
    P = 8,
    COLUMNS = W / P,
    ROWS = H / P,
    N = COLUMNS * ROWS,
    BLOCKS = 5,
    HEADS = 3;
  const NAMES = { naive: "SETR-Naive", pup: "SETR-PUP", mla: "SETR-MLA" };
  const STEP = 4; // pixels that an arrow key moves a stamp

  /* --- small helpers --- */

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value !== undefined)
        element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  }

  function choice(label, options, onchange, chosen) {
    const select = make(
      "select",
      { onchange },
      ...options.map(([value, text]) =>
        make("option", { value, selected: value === chosen }, text),
      ),
    );
    return { select, field: make("label", {}, `${label} `, select) };
  }

  function sheet(width = W, height = H) {
    const canvas = make("canvas", { width, height });
    return { canvas, pen: canvas.getContext("2d", { willReadFrequently: true }) };
  }

  async function pixels(url) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const { pen } = sheet(image.width, image.height);
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, image.width, image.height);
  }

  const first = (rgba) => Uint8Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i]);
  /* One opaque pixel; an array for each would keep the page's thread busy. */
  function paint(bytes, i, red, green, blue) {
    bytes[4 * i] = red;
    bytes[4 * i + 1] = green;
    bytes[4 * i + 2] = blue;
    bytes[4 * i + 3] = 255;
  }

  /* From a shade of grey, 0, to bright yellow, 1. */
  const glow = (bytes, i, v, grey) =>
    paint(bytes, i, grey + v * (255 - grey), grey + v * (190 - grey), grey * (1 - v));

  function softmax(scores) {
    const most = scores.reduce((a, b) => Math.max(a, b)),
      e = scores.map((z) => Math.exp(z - most)),
      sum = e.reduce((a, b) => a + b);
    return e.map((z) => z / sum);
  }

  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
  const limit = (value, most) => Math.max(0, Math.min(most, value));
  const patchAt = (x, y) => Math.floor(y / P) * COLUMNS + Math.floor(x / P);
  const middleOf = (patch) =>
    (Math.floor(patch / COLUMNS) * P + P / 2) * W + (patch % COLUMNS) * P + P / 2;
  const where = (patch) => `row ${Math.floor(patch / COLUMNS)}, column ${patch % COLUMNS}`;

  /* What all figures of a page share: pictures are decoded once. */
  const shared = {};
  function material() {
    shared.ready =
      shared.ready ||
      (async () => {
        const data = await SetrClient.part("streets");
        for (const stamp of data.stamps) stamp.pixels = await pixels(stamp.image);
        return data;
      })();
    return shared.ready;
  }
  async function street(i) {
    const entry = (await material()).streets[i];
    if (!entry.rgba) {
      const picture = await pixels(entry.image),
        label = await pixels(entry.label);
      Object.assign(entry, { rgba: picture.data, truth: first(label.data) });
    }
    return entry;
  }

  /* --- what is taken away --- */

  const ORDERS = {
    learned: null,
    none: () => -1,
    "upside down": (n) => (ROWS - 1 - Math.floor(n / COLUMNS)) * COLUMNS + (n % COLUMNS),
    shuffled: (n) => (n * 101) % N, // 101 and 288 have no common factor: each row once
  };
  const order = (name) => ORDERS[name] && Int32Array.from({ length: N }, (_, n) => ORDERS[name](n));

  /* --- one figure --- */

  class Live {
    constructor(figure) {
      this.figure = figure;
      this.tools = new Set(figure.dataset.tools.split(" "));
      this.chosen = {
        street: +figure.dataset.street,
        positions: "learned",
        attend: "5",
        bits: "32",
      };
      this.main = figure.dataset.head || "pup"; // whose words and attention are shown
      this.shown = new Set([this.main]); // the models that answer
      this.answers = {};
      this.placed = []; // { stamp, x, y }, x and y of its middle
      this.patch = +(figure.dataset.patch || 7 * COLUMNS + 12);
      this.asked = 0;
    }

    async start() {
      this.figure.dataset.state = "loading";
      this.data = await material();
      const panels = this.build();
      this.figure.querySelector(".setr-live-still").replaceWith(panels);
      await this.setStreet(this.chosen.street, this.figure.dataset.stamp);
    }

    has(tool) {
      return this.tools.has(tool);
    }

    /* -- what is on the page -- */

    build() {
      this.scene = sheet();
      this.mark = make("span", { class: "setr-mark" });
      this.stage = make(
        "div",
        {
          class: "setr-stage setr-street",
          tabindex: "0",
          role: "application",
          "aria-label": this.help(),
          onpointerdown: (e) => this.down(e),
          onpointermove: (e) => this.moved(e),
          onpointerup: () => this.release(),
          onpointercancel: () => this.release(),
          onkeydown: (e) => this.key(e),
        },
        this.scene.canvas,
        this.mark,
      );
      this.scene.canvas.setAttribute("aria-hidden", "true");
      this.said = make("p", { class: "setr-readout", role: "status" });
      const scene = make(
        "div",
        { class: "setr-panel" },
        make("p", { class: "setr-title" }, "The street"),
        this.stage,
        this.said,
      );
      this.panels = make(
        "div",
        { class: "setr-live-panels" },
        scene,
        ...(this.has("look") ? [this.buildLook()] : []),
      );
      for (const head of this.shown) this.panels.append(this.output(head));
      if (this.has("look")) this.last = this.buildOverview();
      if (this.has("stages")) this.last = this.buildStages();
      if (this.last) this.panels.append(this.last);
      const parts = [this.bar(), this.panels, this.legend()];
      if (this.has("measure")) parts.push(this.buildMeasure());
      if (this.has("walk"))
        parts.push((this.walk = new SetrWalk(this, { make, choice, where })).element);
      return make("div", { class: "setr-live-body" }, ...parts);
    }

    help() {
      const look = "Arrow keys move the patch that is looked at.";
      const put =
        " With a stamp chosen, Enter puts it there; then arrow keys move it, Delete takes it away, Escape lets go.";
      return `The street. ${look}${this.has("stamps") ? put : ""}`;
    }

    bar() {
      const bar = make("div", { class: "setr-bar setr-tools" });
      const names = this.data.streets.map((_, i) => [String(i), `street ${i + 1}`]);
      this.streets = choice(
        "Street",
        names,
        (e) => this.setStreet(+e.target.value),
        String(this.chosen.street),
      );
      bar.append(this.streets.field);
      if (this.has("stamps")) bar.append(this.buildStamps());
      if (this.has("own"))
        bar.append(
          make(
            "label",
            {},
            "An image of yours ",
            make("input", {
              type: "file",
              accept: "image/*",
              onchange: (e) => this.own(e.target.files[0]),
            }),
          ),
        );
      const setting = (name, label, options) =>
        bar.append(
          choice(label, options, (e) => this.set(name, e.target.value), this.chosen[name]).field,
        );
      if (this.has("positions"))
        setting(
          "positions",
          "Positions",
          Object.keys(ORDERS).map((name) => [name, name]),
        );
      if (this.has("attend"))
        setting("attend", "Attention in", [
          ["5", "all blocks"],
          ...[4, 3, 2, 1].map((n) => [String(n), `the first ${n}`]),
          ["0", "no block"],
        ]);
      if (this.has("bits"))
        setting(
          "bits",
          "Weights of",
          [32, 8, 6, 5, 4, 3].map((n) => [String(n), `${n} bits`]),
        );
      if (this.has("stages")) bar.append(this.unit.field, this.reading.field);
      if (this.has("heads")) bar.append(...this.buildHeads());
      return bar;
    }

    buildHeads() {
      return Object.keys(NAMES)
        .filter((head) => head !== this.main)
        .map((head) =>
          make(
            "button",
            { type: "button", onclick: (e) => this.addHead(head, e.currentTarget) },
            `add ${NAMES[head]}`,
          ),
        );
    }

    buildStamps() {
      const group = make("span", { class: "setr-stamps", role: "group", "aria-label": "Stamps" });
      this.buttons = this.data.stamps.map((stamp) =>
        make(
          "button",
          {
            type: "button",
            "aria-pressed": "false",
            onclick: () => this.arm(stamp),
          },
          make("img", { src: stamp.image, alt: "", class: "dark-light" }),
          stamp.name,
        ),
      );
      group.append(
        ...this.buttons,
        make("button", { type: "button", onclick: () => this.undo() }, "undo"),
      );
      return group;
    }

    buildLook() {
      this.heat = sheet();
      this.heat.canvas.setAttribute("role", "img");
      const numbers = (n) => Array.from({ length: n }, (_, i) => [String(i), String(i + 1)]);
      const redraw = () => this.drawHeat();
      this.layer = choice(
        "Block",
        [...numbers(BLOCKS), ["all", "rolled out over all"]],
        redraw,
        "2",
      );
      this.headChoice = choice("head", [["mean", "mean"], ...numbers(HEADS)], redraw, "mean");
      this.heatSaid = make("p", { class: "setr-readout" });
      const title = "What the patch attends to";
      return make(
        "div",
        { class: "setr-panel" },
        make("p", { class: "setr-title" }, title),
        make("div", { class: "setr-stage", style: this.still(title) }, this.heat.canvas),
        this.heatSaid,
        make("div", { class: "setr-bar" }, this.layer.field, this.headChoice.field),
      );
    }

    /* All blocks (across) and heads (down) at once. With the keyboard, the two choices above. */
    buildOverview() {
      this.all = sheet(BLOCKS * (COLUMNS + 1) - 1, HEADS * (ROWS + 1) - 1);
      this.all.canvas.setAttribute("role", "img");
      this.all.canvas.setAttribute(
        "aria-label",
        `An overview of all ${BLOCKS * HEADS} maps of this patch`,
      );
      this.allMark = make("span", { class: "setr-mark" });
      const pick = (event) => {
        const box = this.all.canvas.getBoundingClientRect();
        const part = (at, size, n) => String(limit(Math.floor((n * at) / size), n - 1));
        this.layer.select.value = part(event.clientX - box.left, box.width, BLOCKS);
        this.headChoice.select.value = part(event.clientY - box.top, box.height, HEADS);
        this.drawHeat();
      };
      return make(
        "div",
        { class: "setr-panel" },
        make("p", { class: "setr-title" }, `Blocks 1 to ${BLOCKS} across, heads 1 to ${HEADS} down`),
        make("div", { class: "setr-stage setr-all", onclick: pick }, this.all.canvas, this.allMark),
      );
    }

    /* What can be read before and after one unit of the decoder, on the grid where it works. */
    buildStages() {
      const redraw = () => this.drawStages();
      const names = this.common().map((k) => [String(k), this.data.classes[k]]);
      const pole = String(this.data.classes.indexOf("pole"));
      this.reading = choice("Read", [["", "all classes"], ...names], redraw, pole);
      const units = [1, 2, 4].map((n, i) => [String(i), `${i + 1}, ${n * ROWS} x ${n * COLUMNS}`]);
      this.unit = choice("Unit", units, redraw, "1");
      this.stages = ["before", "after"].map((side) => {
        const title = make("p", { class: "setr-title" }),
          said = make("p", { class: "setr-readout" });
        const { canvas, pen } = sheet();
        canvas.setAttribute("role", "img");
        return { side, title, said, canvas, pen };
      });
      const panels = this.stages.map(({ side, title, canvas, said }) =>
        make(
          "div",
          { class: "setr-panel", "data-stage": side },
          title,
          make("div", { class: "setr-stage" }, canvas),
          said,
        ),
      );
      return make("div", { class: "setr-live-panels setr-row" }, ...panels);
    }

    output(head) {
      const { canvas, pen } = sheet();
      canvas.setAttribute("role", "img");
      const said = make("p", { class: "setr-readout" }, "the model is loading");
      const panel = make(
        "div",
        { class: "setr-panel", "data-head": head },
        make("p", { class: "setr-title" }, NAMES[head]),
        make("div", { class: "setr-stage", style: this.still(NAMES[head]) }, canvas),
        said,
      );
      this.answers[head] = { canvas, pen, said };
      return panel;
    }

    /* What the still shows under a title that begins like this, behind the canvas until the model has answered. */
    still(title) {
      const panes = [...this.figure.querySelectorAll(".setr-live-still .setr-sheet > div")],
        same = panes.find((pane) => pane.firstChild.textContent.startsWith(title));
      return same ? `background-image: url("${same.querySelector("img").src}")` : "";
    }

    /* The classes that ToyTown draws. */
    common() {
      const seen = new Set(this.data.stamps.map((s) => s.label));
      for (const name of ["road", "sidewalk", "building", "fence", "vegetation", "terrain", "sky"])
        seen.add(this.data.classes.indexOf(name));
      return [...seen].sort((a, b) => a - b);
    }

    legend() {
      return make(
        "ul",
        { class: "setr-key" },
        ...this.common().map((k) =>
          make(
            "li",
            {},
            make("i", { style: `background:rgb(${this.data.palette[k].join()})` }),
            this.data.classes[k],
          ),
        ),
      );
    }

    buildMeasure() {
      this.rows = make("tbody");
      this.measured = {};
      const head = make(
        "tr",
        {},
        ...["what is changed", ...Object.values(NAMES)].map((text) =>
          make("th", { scope: "col" }, text),
        ),
      );
      this.measureButton = make(
        "button",
        { type: "button", onclick: () => this.measure() },
        "measure on 12 streets",
      );
      this.measureSaid = make("p", { class: "setr-readout", role: "status" });
      return make(
        "div",
        { class: "setr-measure" },
        this.measureButton,
        this.measureSaid,
        make(
          "table",
          { hidden: true },
          make("caption", {}, "mIoU over the 12 streets, in percent"),
          make("thead", {}, head),
          this.rows,
        ),
      );
    }

    /* -- the picture -- */

    /* `stamp`, such as "car 80 66", stands in the street and is chosen. */
    async setStreet(i, stamp) {
      const entry = await street(i);
      this.chosen.street = i;
      this.base = entry.rgba;
      this.baseTruth = entry.truth;
      this.placed = [];
      this.selected = null;
      if (stamp) {
        const [name, x, y] = stamp.split(" "),
          found = this.data.stamps.find((one) => one.name === name);
        this.selected = { stamp: found, x: +x, y: +y, seen: [] };
        this.placed.push(this.selected);
        this.patch = patchAt(+x, +y);
      }
      this.redraw();
    }

    async own(file) {
      if (!file) return;
      let bitmap;
      try {
        bitmap = await createImageBitmap(file);
      } catch {
        this.say(`${file.name} is no picture that this browser can read.`);
        return;
      }
      const { pen } = sheet(),
        height = Math.min(bitmap.height, bitmap.width / 2);
      pen.imageSmoothingQuality = "high";
      pen.drawImage(
        bitmap,
        bitmap.width / 2 - height,
        (bitmap.height - height) / 2,
        2 * height,
        height,
        0,
        0,
        W,
        H,
      );
      this.base = pen.getImageData(0, 0, W, H).data;
      this.baseTruth = null;
      this.placed = [];
      this.selected = null;
      this.redraw();
    }

    /* The street with its stamps, and who asks the models; marks are drawn beside it. */
    redraw() {
      const image = new ImageData(new Uint8ClampedArray(this.base), W, H);
      this.truth = this.baseTruth && this.baseTruth.slice();
      for (const item of this.placed) {
        item.seen = [];
        const { data, width, height } = item.stamp.pixels;
        const top = item.y - (height >> 1),
          left = item.x - (width >> 1);
        for (let i = 0; i < width * height; i++) {
          const y = top + Math.floor(i / width),
            x = left + (i % width);
          if (data[4 * i + 3] < 128 || x < 0 || y < 0 || x >= W || y >= H) continue;
          image.data.set(data.subarray(4 * i, 4 * i + 3), 4 * (y * W + x));
          if (this.truth) this.truth[y * W + x] = item.stamp.label;
          item.seen.push(y * W + x);
        }
      }
      this.picture = image.data;
      this.scene.pen.putImageData(image, 0, 0);
      this.drawMark();
      this.run();
    }

    drawMark() {
      const item = this.selected,
        box = item
          ? [
              item.x - (item.stamp.width >> 1),
              item.y - (item.stamp.height >> 1),
              item.stamp.width,
              item.stamp.height,
            ]
          : [(this.patch % COLUMNS) * P, Math.floor(this.patch / COLUMNS) * P, P, P];
      const [left, top, width, height] = [box[0] / W, box[1] / H, box[2] / W, box[3] / H].map(
        (x) => `${100 * x}%`,
      );
      Object.assign(this.mark.style, { left, top, width, height });
    }

    /* -- mouse, touch, keys -- */

    at(event) {
      const box = this.scene.canvas.getBoundingClientRect();
      return {
        x: limit(Math.floor(((event.clientX - box.left) * W) / box.width), W - 1),
        y: limit(Math.floor(((event.clientY - box.top) * H) / box.height), H - 1),
      };
    }

    down(event) {
      const { x, y } = this.at(event),
        spot = y * W + x;
      const hit = this.placed.findLast((item) => item.seen.includes(spot));
      this.stage.setPointerCapture(event.pointerId);
      if (hit) this.selected = hit;
      else if (this.armed) this.put(x, y);
      else this.selected = null;
      this.dragging = this.selected
        ? { dx: this.selected.x - x, dy: this.selected.y - y }
        : "patch";
      if (hit) this.drawMark();
      else if (!this.selected) this.lookAt(x, y);
    }

    moved(event) {
      if (!this.dragging) return;
      const { x, y } = this.at(event);
      if (this.dragging === "patch") return void this.lookAt(x, y);
      this.move(x + this.dragging.dx, y + this.dragging.dy);
    }

    release() {
      this.dragging = null;
    }

    lookAt(x, y) {
      this.patch = patchAt(x, y);
      this.drawMark();
      this.tell();
    }

    put(x, y) {
      this.selected = { stamp: this.armed, x, y, seen: [] };
      this.placed.push(this.selected);
      this.patch = patchAt(x, y);
      this.redraw();
    }

    move(x, y) {
      const to = { x: limit(x, W - 1), y: limit(y, H - 1) };
      if (to.x === this.selected.x && to.y === this.selected.y) return;
      Object.assign(this.selected, to);
      this.patch = patchAt(to.x, to.y);
      this.redraw();
    }

    arm(stamp) {
      this.armed = this.armed === stamp ? null : stamp;
      this.selected = null;
      this.buttons.forEach((button, i) =>
        button.setAttribute("aria-pressed", String(this.armed === this.data.stamps[i])),
      );
      this.stage.classList.toggle("setr-armed", !!this.armed);
      this.drawMark();
      if (this.armed)
        this.say(`Click where the ${stamp.name} shall stand, or press Enter in the street.`);
    }

    undo() {
      this.placed.pop();
      this.selected = null;
      this.redraw();
    }

    key(event) {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
        event.key
      ];
      if (step && this.selected)
        this.move(this.selected.x + STEP * step[0], this.selected.y + STEP * step[1]);
      else if (step) {
        const x = limit((this.patch % COLUMNS) + step[0], COLUMNS - 1),
          y = limit(Math.floor(this.patch / COLUMNS) + step[1], ROWS - 1);
        this.lookAt(x * P, y * P);
      } else if (event.key === "Enter" && this.armed && !this.selected) {
        const middle = middleOf(this.patch);
        this.put(middle % W, Math.floor(middle / W));
      } else if (event.key === "Delete" && this.selected) {
        this.placed = this.placed.filter((item) => item !== this.selected);
        this.selected = null;
        this.redraw();
      } else if (event.key === "Escape" && (this.selected || this.armed)) {
        if (this.armed) this.arm(this.armed);
        this.selected = null;
        this.drawMark();
      } else return;
      event.preventDefault();
    }

    /* -- the models -- */

    options() {
      return {
        order: order(this.chosen.positions),
        attend: +this.chosen.attend,
        bits: +this.chosen.bits,
      };
    }

    set(name, value) {
      this.chosen[name] = value;
      this.run();
    }

    addHead(head, button) {
      this.shown.add(head);
      button.hidden = true;
      const order = Object.keys(NAMES),
        later = [...this.panels.querySelectorAll("[data-head]")].find(
          (panel) => order.indexOf(panel.dataset.head) > order.indexOf(head),
        );
      this.panels.insertBefore(this.output(head), later || this.last || null);
      this.run();
    }

    async run() {
      const id = ++this.asked;
      this.figure.dataset.state = "busy";
      await Promise.all([...this.shown].map((head) => this.ask(head, id)));
      if (id === this.asked) {
        this.figure.dataset.state = "ready";
        this.figure.dataset.answered = id;
      }
    }

    async ask(head, id) {
      const sent = performance.now(),
        engine = SetrClient.engine(head, await SetrClient.part("tasks"));
      try {
        await engine.ready;
      } catch (error) {
        this.answers[head].said.textContent =
          `The model cannot be loaded: ${error.message || "the worker failed"}`;
        return;
      }
      const found = await engine.ask(this, {
        rgba: this.picture,
        keep: head === this.main && this.has("look"),
        ...(head === this.main && this.has("stages")
          ? { task: "stages", probes: this.figure.dataset.probes.split(",")[1] }
          : {}),
        ...this.options(),
      });
      if (!found) return; // a newer question has taken its place
      Object.assign(this.answers[head], found, { id });
      this.figure.dataset.kernel = engine.kernel;
      this.figure.dataset.milliseconds = Math.round(performance.now() - sent);
      this.draw(head);
    }

    draw(head) {
      const answer = this.answers[head],
        image = answer.pen.createImageData(W, H);
      answer.label.forEach((k, i) => paint(image.data, i, ...this.data.palette[k]));
      answer.pen.putImageData(image, 0, 0);
      answer.right = this.truth
        ? this.truth.reduce((sum, k, i) => sum + (k === answer.label[i]), 0) /
          this.truth.filter((k) => k !== 255).length
        : null;
      const right =
        answer.right === null
          ? "the right answer is unknown"
          : `${percent(answer.right, 1)} of the pixels right`;
      answer.said.textContent = `${right}; ${answer.ms.toFixed(0)} ms`;
      answer.canvas.setAttribute("aria-label", `The classes that ${NAMES[head]} gives: ${right}`);
      if (head !== this.main) return void (this.selected && this.tell());
      this.tell();
      if (this.has("stages")) this.drawStages();
      if (this.walk) this.walk.renew();
    }

    /* -- what is said -- */

    say(text) {
      this.said.textContent = text;
    }

    tell() {
      if (!this.answers[this.main].label) return;
      this.say(this.selected ? this.aboutStamp() : this.aboutPatch());
      if (this.has("look")) this.drawHeat();
      if (this.walk) this.walk.follow();
    }

    aboutStamp() {
      const { stamp, seen, x, y } = this.selected,
        parts = [];
      for (const head of Object.keys(NAMES)) {
        const { label } = this.answers[head] || {};
        if (!label || !seen.length) continue;
        const counts = {};
        for (const i of seen) counts[label[i]] = (counts[label[i]] || 0) + 1;
        const right = (counts[stamp.label] || 0) / seen.length;
        const [other] = Object.entries(counts)
          .filter(([k]) => +k !== stamp.label)
          .sort((a, b) => b[1] - a[1]);
        const rest = other
          ? `, ${percent(other[1] / seen.length)} ${this.data.classes[other[0]]}`
          : "";
        parts.push(`${NAMES[head]} ${percent(right)} ${this.data.classes[stamp.label]}${rest}`);
      }
      return `The ${stamp.name} at ${x}, ${y} by class: ${parts.join("; ")}.`;
    }

    aboutPatch() {
      const { label, share } = this.answers[this.main],
        middle = middleOf(this.patch);
      const truth =
        this.truth && this.truth[middle] !== 255
          ? `, label ${this.data.classes[this.truth[middle]]}`
          : "";
      return `Patch ${where(this.patch)}: ${NAMES[this.main]} predicts ${this.data.classes[label[middle]]} (${percent(share[middle])})${truth}.`;
    }

    /* -- attention -- */

    /* The row of the patch in a block ("all" is rolled out) and a head or their mean, over the
     * patches, without the class token; null where attention is off. */
    attention(block, head) {
      const maps = this.answers[this.main].attention;
      if (!maps.length || (block !== "all" && !maps[+block])) return null;
      const n = Math.sqrt(maps[0][0].length),
        from = this.patch + n - N; // MLA has no class token
      const row =
        block === "all" ? this.rollout(maps, n, from) : this.mean(maps[+block], head, n, from);
      return row.subarray(n - N);
    }

    mean(heads, head, n, from) {
      const used = head === "mean" ? heads : [heads[+head]],
        row = new Float32Array(n);
      for (const map of used) for (let i = 0; i < n; i++) row[i] += map[from * n + i] / used.length;
      return row;
    }

    /* A row of the product of all blocks' (attention + identity) / 2, heads averaged (Abnar and
     * Zuidema 2020): carried back from the last block to the first, one row at a time. */
    rollout(maps, n, from) {
      let row = new Float32Array(n);
      row[from] = 1;
      for (const heads of [...maps].reverse()) {
        const back = row.map((x) => x / 2);
        for (let i = 0; i < n; i++) {
          const share = row[i] / 2 / heads.length;
          for (const map of heads) for (let j = 0; j < n; j++) back[j] += share * map[i * n + j];
        }
        row = back;
      }
      return row;
    }

    drawHeat() {
      if (!this.answers[this.main].attention) return;
      const block = this.layer.select.value,
        row = this.attention(block, this.headChoice.select.value),
        image = this.heat.pen.createImageData(W, H);
      const most = row ? row.reduce((a, b) => Math.max(a, b)) : 1;
      for (let i = 0; i < W * H; i++) {
        const grey =
          (0.6 * (this.picture[4 * i] + this.picture[4 * i + 1] + this.picture[4 * i + 2])) / 3;
        glow(image.data, i, row ? row[patchAt(i % W, i / W)] / most : 0, grey);
      }
      this.heat.pen.putImageData(image, 0, 0);
      this.drawOverview();
      const text = row ? this.aboutRow(row, most) : "Attention is off in this block.";
      this.heatSaid.textContent = text;
      this.heat.canvas.setAttribute(
        "aria-label",
        `Attention of the patch at ${where(this.patch)}. ${text}`,
      );
      this.figure.dataset.heat = performance.now();
    }

    drawOverview() {
      const { canvas, pen } = this.all,
        image = pen.createImageData(canvas.width, canvas.height);
      for (let place = 0; place < BLOCKS * HEADS; place++) {
        const block = Math.floor(place / HEADS),
          head = place % HEADS,
          row = this.attention(block, head) || new Float32Array(N),
          most = row.reduce((a, b) => Math.max(a, b)) || 1;
        row.forEach((share, n) => {
          const y = head * (ROWS + 1) + Math.floor(n / COLUMNS),
            x = block * (COLUMNS + 1) + (n % COLUMNS);
          glow(image.data, y * canvas.width + x, share / most, 40);
        });
      }
      pen.putImageData(image, 0, 0);
      const block = +this.layer.select.value,
        head = +this.headChoice.select.value; // NaN: of all blocks or heads
      const span = (at, n) => (Number.isNaN(at) ? [0, 100] : [(100 * at) / n, 100 / n]),
        [left, width] = span(block, BLOCKS),
        [top, height] = span(head, HEADS);
      Object.assign(this.allMark.style, {
        left: `${left}%`,
        top: `${top}%`,
        width: `${width}%`,
        height: `${height}%`,
      });
    }

    /* Where a row goes: how many patches count, and which classes get more than their area. */
    aboutRow(row, most) {
      const { label } = this.answers[this.main],
        sum = row.reduce((a, b) => a + b),
        gets = {},
        area = {};
      let spread = 0;
      row.forEach((share, n) => {
        const k = label[middleOf(n)];
        gets[k] = (gets[k] || 0) + share / sum;
        area[k] = (area[k] || 0) + 1 / N;
        if (share > 0) spread -= (share / sum) * Math.log(share / sum);
      });
      const classes = Object.keys(gets)
        .filter((k) => gets[k] >= 0.005)
        .sort((a, b) => gets[b] - gets[a])
        .slice(0, 3)
        .map((k) => `${this.data.classes[k]} ${percent(gets[k])} (its area ${percent(area[k])})`);
      return (
        `Most to ${where(row.indexOf(most))}: ${percent(most, 1)}, evenly would be ` +
        `${percent(1 / N, 1)}; about ${Math.exp(spread).toFixed(0)} patches count. ` +
        `By class: ${classes.join(", ")}.`
      );
    }

    /* -- the units of the decoder -- */

    drawStages() {
      const i = +this.unit.select.value,
        { stages } = this.answers[this.main];
      if (!stages) return;
      for (const panel of this.stages)
        this.drawStage(panel, stages[i][panel.side], `${panel.side} unit ${i + 1}`);
    }

    drawStage({ title, said, canvas, pen }, { grid, scores, label }, name) {
      const k = this.reading.select.value,
        [h, w] = grid,
        classes = this.data.classes.length,
        image = pen.createImageData(W, H),
        cell = Array.from({ length: h * w }, (_, n) => {
          const z = scores.subarray(n * classes, (n + 1) * classes);
          return k === "" ? z.indexOf(z.reduce((a, b) => Math.max(a, b))) : softmax(z)[+k];
        });
      for (let n = 0; n < W * H; n++) {
        const value = cell[Math.floor(((n / W) * h) / H) * w + Math.floor(((n % W) * w) / W)];
        if (k === "") paint(image.data, n, ...this.data.palette[value]);
        else glow(image.data, n, value, 40);
      }
      pen.putImageData(image, 0, 0);
      title.textContent = `${name[0].toUpperCase()}${name.slice(1)}: ${h} x ${w}`;
      said.textContent = this.aboutStage(k, label);
      canvas.setAttribute(
        "aria-label",
        `What a probe reads ${name}, ${h} x ${w} cells. ${said.textContent}`,
      );
    }

    /* How good a reading is, resized to the image. */
    aboutStage(k, label) {
      if (!this.truth) return "the right answer is unknown";
      const count = (test) => this.truth.reduce((n, t, i) => n + (t !== 255 && test(t, label[i])), 0);
      if (k === "")
        return `${percent(count((t, l) => t === l) / count(() => true), 1)} of the pixels right`;
      const there = count((t) => t === +k);
      if (!there) return `there is no ${this.data.classes[k]} in this street`;
      const hits = count((t, l) => t === +k && l === +k),
        any = count((t, l) => t === +k || l === +k);
      return `${this.data.classes[k]}: ${percent(hits / there)} of its ${there} pixels found, IoU ${(hits / any).toFixed(2)}`;
    }

    /* -- measuring -- */

    condition() {
      const { positions, attend, bits } = this.chosen,
        parts = [];
      if (positions !== "learned") parts.push(`positions ${positions}`);
      if (attend !== "5")
        parts.push(attend === "0" ? "no attention" : `attention in the first ${attend}`);
      if (bits !== "32") parts.push(`${bits} bits`);
      return parts.join(", ") || "nothing";
    }

    async measure() {
      const name = this.condition(),
        options = this.options(),
        streets = [];
      this.measureButton.disabled = true;
      for (let i = 0; i < this.data.streets.length; i++) {
        const { rgba, truth } = await street(i);
        streets.push({ rgba, label: truth });
      }
      for (const head of this.shown) {
        this.measureSaid.textContent = `${NAMES[head]} reads 12 streets`;
        const engine = await SetrClient.engine(head, await SetrClient.part("tasks")).ready;
        const { counts } = await engine.ask(this.measureButton, {
          task: "measure",
          streets,
          ...options,
        });
        (this.measured[name] = this.measured[name] || {})[head] = SetrMiou(counts);
        this.writeRows();
      }
      this.measureSaid.textContent =
        `${name === "nothing" ? "With nothing changed" : name}: ` +
        [...this.shown]
          .map((head) => `${NAMES[head]} ${percent(this.measured[name][head], 1)}`)
          .join(", ");
      this.measureButton.disabled = false;
    }

    writeRows() {
      this.rows.parentNode.hidden = false;
      this.rows.replaceChildren(
        ...Object.entries(this.measured).map(([name, scores]) =>
          make(
            "tr",
            {},
            make("th", { scope: "row" }, name),
            ...Object.keys(NAMES).map((head) =>
              make("td", {}, head in scores ? (100 * scores[head]).toFixed(1) : "–"),
            ),
          ),
        ),
      );
    }
  }

  /* The mean over classes that occur of hits / (truth + predictions - hits). */
  function SetrMiou(counts) {
    const K = Math.sqrt(counts.length),
      scores = [];
    for (let k = 0; k < K; k++) {
      let truth = 0,
        found = 0;
      for (let i = 0; i < K; i++) {
        truth += counts[k * K + i];
        found += counts[i * K + k];
      }
      const hits = counts[k * K + k];
      if (truth + found) scores.push(hits / (truth + found - hits));
    }
    return scores.reduce((a, b) => a + b, 0) / scores.length;
  }

  /* Each figure begins when it comes into view. */
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        seen.unobserve(target);
        target.live = new Live(target);
        target.live.start().catch((error) => {
          target.dataset.state = "failed";
          target.querySelector(".setr-live-note")?.append(` It could not start: ${error.message}.`);
        });
      }
    },
    { rootMargin: "200px" },
  );
  const begin = () =>
    document.querySelectorAll(".setr-live").forEach((figure) => seen.observe(figure));
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", begin);
  else begin();
})();
