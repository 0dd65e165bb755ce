"use strict";
/* The walk, as a reader sees it: stop by stop, each a row of numbers, and for every number what it
 * was computed from. The numbers come from walk.js in the worker, so from the forward pass itself. */

class SetrWalk {
  static STOPS = [
    [
      "pixels",
      "Its pixels, normalised",
      "(image - mean) / std",
      "64 pixels of three colours, each less the mean of its colour and divided by its standard deviation.",
    ],
    [
      "patch",
      "Its token",
      "patch_embed.proj(image)",
      "All 192 numbers times a column of the projection: one number of the token. 144 columns, 144 numbers.",
    ],
    [
      "embed",
      "Position added",
      "patches + pos_embed[:, 1:]",
      "The row of the position table that belongs to this place is added. Nothing else will tell the patch where it is.",
    ],
    [
      "norm1",
      "LayerNorm",
      "norm1(x)",
      "Subtract the token's mean, divide by its standard deviation, multiply by a weight and add a bias.",
    ],
    ["q", "Its query", "q, k, v = qkv.permute(2, 0, 3, 1, 4)", "What this head asks: 48 numbers."],
    [
      "k",
      "Its key",
      "q, k, v = qkv.permute(2, 0, 3, 1, 4)",
      "What it answers with when others ask.",
    ],
    [
      "v",
      "Its value",
      "q, k, v = qkv.permute(2, 0, 3, 1, 4)",
      "What it hands over to those who attend to it.",
    ],
    [
      "scores",
      "Scores",
      "q @ k.transpose(-2, -1) / math.sqrt(d)",
      "The query times the key of every token, the class token first.",
    ],
    [
      "softmax",
      "Softmax",
      "scores.softmax(-1)",
      "Exponentials, divided by their sum: 289 shares that add up to 1.",
    ],
    ["mixed", "Weighted sum", "weights @ v", "The values of all tokens, each times its share."],
    [
      "proj",
      "All heads together",
      "attn.proj(x)",
      "The 48 numbers of each of the three heads side by side, times a column.",
    ],
    [
      "stream1",
      "Added to the stream",
      "x = x + attn(norm1(x))",
      "The token as it was before the block, plus what attention brought.",
    ],
    ["norm2", "LayerNorm again", "norm2(x)", "As before, with weights of its own."],
    ["fc1", "MLP, wide", "mlp.fc1(x)", "576 numbers, each the whole token times a column."],
    ["act", "GELU", "mlp.act(x)", "Large numbers pass, negative ones almost vanish."],
    ["fc2", "MLP, back", "mlp.fc2(x)", "From 576 numbers to 144 again."],
    [
      "stream2",
      "After the block",
      "x = x + mlp(norm2(x))",
      "What the next block gets, and after the last one the decoder.",
    ],
    [
      "norm",
      "Into the decoder",
      "head.norm(features[-1])",
      "The last block's tokens, normalised once more. From here on patches have neighbours.",
    ],
    [
      "conv0",
      "First 3 x 3 unit",
      "head.convs[0](x)",
      "64 channels from the 3 x 3 tokens around; BatchNorm is folded in; negative sums become 0.",
    ],
    [
      "conv1",
      "Second unit, twice as fine",
      "head.convs[1](upsample(x, 2))",
      "The same on 24 x 48 positions: one of the four that the patch has now.",
    ],
    [
      "conv2",
      "Third unit, four times as fine",
      "head.convs[2](upsample(x, 2))",
      "On 48 x 96 positions, so every second pixel.",
    ],
    [
      "classes",
      "Logits",
      "head.classifier(x)",
      "64 numbers times a column for each of the 19 classes.",
    ],
    [
      "share",
      "The answer",
      "logits.softmax(1)",
      "The largest share is the label. (For the pixels between, the logits are interpolated first.)",
    ],
  ];

  constructor(live, { make, choice, where }) {
    Object.assign(this, { live, make, where, at: 0, index: 0, version: 0, known: 0 });
    const show = () => this.show();
    this.stops = choice(
      "Stop",
      SetrWalk.STOPS.map(([, title], i) => [String(i), `${i + 1}. ${title}`]),
      (e) => this.go(+e.target.value),
      "0",
    );
    this.block = choice(
      "block",
      [1, 2, 3, 4, 5].map((n) => [String(n - 1), String(n)]),
      show,
      "0",
    );
    this.head = choice(
      "head",
      [1, 2, 3].map((n) => [String(n - 1), String(n)]),
      show,
      "0",
    );
    this.back = make("button", { type: "button", onclick: () => this.go(this.at - 1) }, "back");
    this.on = make("button", { type: "button", onclick: () => this.go(this.at + 1) }, "next stop");
    this.text = make("p", { class: "setr-title" });
    this.code = make("code", { class: "setr-python" });
    this.strip = make("canvas", { height: 1, class: "setr-strip", "aria-hidden": "true" });
    this.slider = make("input", {
      type: "range",
      min: 0,
      value: 0,
      "aria-label": "number",
      oninput: (e) => this.pick(+e.target.value),
    });
    this.said = make("p", { class: "setr-readout", role: "status" });
    this.terms = make("table", { class: "setr-terms" });
    this.element = make(
      "div",
      { class: "setr-walk" },
      make(
        "div",
        { class: "setr-bar" },
        this.back,
        this.on,
        this.stops.field,
        this.block.field,
        this.head.field,
      ),
      this.text,
      make("p", { class: "setr-title" }, "In Python: ", this.code),
      this.strip,
      this.slider,
      this.said,
      this.terms,
    );
  }

  go(to) {
    this.at = Math.max(0, Math.min(SetrWalk.STOPS.length - 1, to));
    this.index = 0;
    this.show();
  }

  /* A new picture or other settings: the model has to run. */
  renew() {
    this.version += 1;
    this.show();
  }

  /* Another patch: nothing has to run. */
  follow() {
    if (this.patch !== this.live.patch) this.show();
  }

  message(task) {
    const { patch } = this.live,
      run = this.known === this.version ? {} : { rgba: this.live.picture };
    return {
      task,
      ...run,
      ...this.live.options(),
      attend: 5,
      patch,
      block: +this.block.select.value,
      head: +this.head.select.value,
      stop: SetrWalk.STOPS[this.at][0],
    };
  }

  async show() {
    const [, title, python, text] = SetrWalk.STOPS[this.at];
    this.patch = this.live.patch;
    this.stops.select.value = String(this.at);
    this.back.disabled = this.at === 0;
    this.on.disabled = this.at === SetrWalk.STOPS.length - 1;
    this.text.textContent = `${title}: ${text}`;
    this.code.textContent = python;
    const engine = await SetrClient.engine("pup").ready,
      message = this.message("walk"),
      { version } = this,
      answer = await engine.ask(this, message);
    if (!answer) return; // a newer question has taken its place
    this.known = Math.max(this.known, version); // of the pictures that the worker has walked through
    if (message.stop !== SetrWalk.STOPS[this.at][0]) return;
    this.values = answer.values;
    this.draw();
    const best = this.values.indexOf(this.values.reduce((a, b) => Math.max(a, b)));
    await this.pick(
      this.index || ["softmax", "share", "classes", "scores"].includes(message.stop)
        ? this.index || best
        : 0,
    );
  }

  /* One cell for each number: blue below zero, orange above. */
  draw() {
    const n = this.values.length,
      most = this.values.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
    this.strip.width = n;
    this.slider.max = n - 1;
    const pen = this.strip.getContext("2d"),
      image = pen.createImageData(n, 1);
    this.values.forEach((value, i) => {
      const v = Math.sqrt(Math.abs(value) / most),
        to = value < 0 ? [0, 114, 178] : [213, 94, 0];
      image.data.set([...to.map((c) => 245 + v * (c - 245)), 255], 4 * i);
    });
    pen.putImageData(image, 0, 0);
  }

  name(i) {
    const stop = SetrWalk.STOPS[this.at][0];
    if (["classes", "share"].includes(stop)) return this.live.data.classes[i];
    if (["scores", "softmax"].includes(stop))
      return i ? `patch ${this.where(i - 1)}` : "the class token";
    if (stop === "pixels")
      return `pixel ${Math.floor(i / 3 / 8)}, ${Math.floor(i / 3) % 8}, ${["red", "green", "blue"][i % 3]}`;
    return `number ${i + 1} of ${this.values.length}`;
  }

  async pick(index) {
    this.index = Math.min(index, this.values.length - 1);
    this.slider.value = this.index;
    const engine = await SetrClient.engine("pup").ready;
    const { at } = this,
      why = await engine.ask(this.said, { ...this.message("why"), index: this.index });
    if (!why || at !== this.at) return;
    const text = `${this.name(this.index)}: ${why.value.toPrecision(4)}`;
    this.slider.setAttribute("aria-valuetext", text);
    this.said.textContent = `${text} = ${why.parts ? `${why.how}.` : this.sum(why)}`;
    this.element.dataset.value = why.value;
    this.element.dataset.sum = why.parts ? "" : this.total(why);
    this.element.dataset.how = why.how ?? "";
    this.write(why);
    this.element.dataset.shown = this.at;
  }

  total({ left, right, plus, over = 1 }) {
    return (left.reduce((sum, a, i) => sum + a * right[i], 0) + plus) / over;
  }

  sum(why) {
    const { left, plus, over = 1 } = why,
      relu = why.value === 0 && this.total(why) < 0;
    return (
      `a row of ${left.length} numbers times a column of ${left.length}${plus ? `, plus ${plus.toPrecision(3)}` : ""}` +
      `${over === 1 ? "" : `, by ${over.toPrecision(4)}`}${relu ? `: ${this.total(why).toPrecision(4)}, which ReLU makes 0` : ""}. The largest five:`
    );
  }

  write(why) {
    const { make } = this,
      line = (...cells) => make("tr", {}, ...cells.map((text) => make("td", {}, text)));
    if (why.parts) {
      this.terms.replaceChildren(
        ...why.parts.map(([name, value]) => line(name, value.toPrecision(4))),
      );
      return;
    }
    const order = Array.from(why.left.keys()).sort(
      (a, b) => Math.abs(why.left[b] * why.right[b]) - Math.abs(why.left[a] * why.right[a]),
    );
    this.terms.replaceChildren(
      ...order
        .slice(0, 5)
        .map((i) =>
          line(
            `${why.left[i].toPrecision(3)} × ${why.right[i].toPrecision(3)}`,
            `= ${(why.left[i] * why.right[i]).toPrecision(3)}`,
          ),
        ),
    );
  }
}
