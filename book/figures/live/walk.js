/* One picture's way through SETR-PUP, for one patch: tasks that the live page adds to the worker.
 *
 * `walk` runs the model once, keeps every result on the way, and reads from them the numbers of a
 * patch, a block and a head; asked without a picture it reads again and runs nothing. `why` says
 * of one of those numbers what it was computed from: a row times a column, or a short sum. */

const walked = { kept: {} };

/* The numbers of one position: row r of what was kept under a name. */
function kept(name, r, from = 0, to) {
  const { values, width } = walked.kept[name];
  return values.slice(r * width + from, r * width + (to === undefined ? width : to));
}

/* Column c of a layer, as the kernel has it. */
function column(model, name, c) {
  const { weights, bias, inner } = model.layers[name];
  const m = new Float32Array(model.memory.buffer),
    start = (weights >> 2) + (c >> 3) * inner * 8 + (c & 7);
  return {
    right: Float32Array.from({ length: inner }, (_, k) => m[start + 8 * k]),
    plus: m[(bias >> 2) + c],
  };
}

/* Where things are: token of a patch, its place on the finer grids of the decoder, q, k and v. */
function places(model, { patch, block, head }) {
  const [, w] = model.grid,
    r = Math.floor(patch / w),
    c = patch % w,
    d = model.dim / model.heads;
  return {
    block: `encoder.blocks.${block}`,
    before: block ? `encoder.blocks.${block - 1}` : "embed",
    token: patch + (model.class_token ? 1 : 0),
    patch,
    d,
    tokens: model.grid[0] * w + (model.class_token ? 1 : 0),
    q: head * d,
    k: model.dim + head * d,
    v: 2 * model.dim + head * d,
    fine: (zoom) => [r * zoom + (zoom >> 1), c * zoom + (zoom >> 1)], // the middle of the patch
    at: (zoom) => (r * zoom + (zoom >> 1)) * w * zoom + c * zoom + (zoom >> 1),
  };
}

function scoresOf(model, p) {
  const q = kept(`${p.block}.attn.qkv`, p.token, p.q, p.q + p.d);
  return Float32Array.from({ length: p.tokens }, (_, n) => {
    const k = kept(`${p.block}.attn.qkv`, n, p.k, p.k + p.d);
    return q.reduce((sum, value, i) => sum + value * k[i], 0) / Math.sqrt(p.d);
  });
}

function softmaxOf(values) {
  const most = Math.max(...values),
    e = values.map((v) => Math.exp(v - most)),
    sum = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / sum);
}

/* key -> the numbers that stop shows. */
const STOPS = {
  pixels: (m, p) => kept("pixels", p.patch),
  patch: (m, p) => kept("encoder.patch_embed.proj", p.patch),
  embed: (m, p) => kept("embed", p.token),
  norm1: (m, p) => kept(`${p.block}.norm1`, p.token),
  q: (m, p) => kept(`${p.block}.attn.qkv`, p.token, p.q, p.q + p.d),
  k: (m, p) => kept(`${p.block}.attn.qkv`, p.token, p.k, p.k + p.d),
  v: (m, p) => kept(`${p.block}.attn.qkv`, p.token, p.v, p.v + p.d),
  scores: scoresOf,
  softmax: (m, p) => softmaxOf(scoresOf(m, p)),
  mixed: (m, p) => kept(`${p.block}.attn.heads`, p.token, p.q, p.q + p.d),
  proj: (m, p) => kept(`${p.block}.attn.proj`, p.token),
  stream1: (m, p) => kept(`${p.block}.attn`, p.token),
  norm2: (m, p) => kept(`${p.block}.norm2`, p.token),
  fc1: (m, p) => kept(`${p.block}.mlp.fc1`, p.token),
  act: (m, p) => kept(`${p.block}.mlp.act`, p.token),
  fc2: (m, p) => kept(`${p.block}.mlp.fc2`, p.token),
  stream2: (m, p) => kept(p.block, p.token),
  norm: (m, p) => kept("head.norm", p.patch),
  conv0: (m, p) => kept("head.convs.0.0", p.at(1)),
  conv1: (m, p) => kept("head.convs.1.0", p.at(2)),
  conv2: (m, p) => kept("head.convs.2.0", p.at(4)),
  classes: (m, p) => kept("head.classifier", p.at(4), 0, m.classes.length),
  share: (m, p) => softmaxOf(kept("head.classifier", p.at(4), 0, m.classes.length)),
};

/* The 3 x 3 positions around one, as the kernel reads them: zeros outside. */
function around(name, [r, c]) {
  const {
      values,
      width,
      grid: [h, w],
    } = walked.kept[name],
    out = new Float32Array(9 * width);
  for (let i = 0; i < 9; i++) {
    const y = r + Math.floor(i / 3) - 1,
      x = c + (i % 3) - 1;
    if (y >= 0 && x >= 0 && y < h && x < w)
      out.set(values.subarray((y * w + x) * width, (y * w + x + 1) * width), i * width);
  }
  return out;
}

/* key -> (model, places, index) -> what the number was computed from: `left` times `right` plus
 * `plus`, over `over`; or `parts`, each with a name, and `how` they make it. */
const n4 = (x) => (x < 0 ? `(${x.toPrecision(4)})` : x.toPrecision(4));
const exponentials = (s, i, word) => {
  const most = Math.max(...s),
    sum = s.reduce((a, b) => a + Math.exp(b - most), 0);
  return {
    parts: [
      [`its ${word}`, s[i]],
      [`largest ${word}`, most],
      ["sum of all exponentials", sum],
    ],
    how: `exp(${n4(s[i])} − ${n4(most)}) / ${n4(sum)}`,
  };
};
const added = (name, a, other, b) => ({
  parts: [
    [name, a],
    [other, b],
  ],
  how: `${n4(a)} + ${n4(b)}`,
});
const norms = (m, name, from, i) => {
  const mean = from.reduce((a, b) => a + b, 0) / from.length;
  const variance = from.reduce((a, b) => a + (b - mean) ** 2, 0) / from.length;
  const std = Math.sqrt(variance + EPS),
    weight = m.t[`${name}.weight`].data[i],
    bias = m.t[`${name}.bias`].data[i];
  return {
    parts: [
      ["value", from[i]],
      ["mean", mean],
      ["standard deviation", std],
      ["weight", weight],
      ["bias", bias],
    ],
    how: `(${n4(from[i])} − ${n4(mean)}) / ${n4(std)} × ${n4(weight)} + ${n4(bias)}`,
  };
};
const times = (m, left, name, c) => ({ left, ...column(m, name, c) });
const WHY = {
  pixels: (m, p, i) => {
    const mean = m.mean[i % 3],
      std = m.std[i % 3],
      value = kept("pixels", p.patch)[i] * std + mean;
    return {
      parts: [
        ["value, 0 to 255", value],
        ["mean of its colour", mean],
        ["standard deviation", std],
      ],
      how: `(${n4(value)} − ${n4(mean)}) / ${n4(std)}`,
    };
  },
  patch: (m, p, i) => times(m, STOPS.pixels(m, p), "encoder.patch_embed.proj", i),
  embed: (m, p, i) => {
    const token = STOPS.patch(m, p)[i];
    return added("token", token, "row of the position table", STOPS.embed(m, p)[i] - token);
  },
  norm1: (m, p, i) => norms(m, `${p.block}.norm1`, kept(p.before, p.token), i),
  q: (m, p, i) => times(m, STOPS.norm1(m, p), `${p.block}.attn.qkv`, p.q + i),
  k: (m, p, i) => times(m, STOPS.norm1(m, p), `${p.block}.attn.qkv`, p.k + i),
  v: (m, p, i) => times(m, STOPS.norm1(m, p), `${p.block}.attn.qkv`, p.v + i),
  scores: (m, p, i) => ({
    left: STOPS.q(m, p),
    right: kept(`${p.block}.attn.qkv`, i, p.k, p.k + p.d),
    plus: 0,
    over: Math.sqrt(p.d),
  }),
  softmax: (m, p, i) => exponentials(scoresOf(m, p), i, "score"),
  mixed: (m, p, i) => ({
    left: STOPS.softmax(m, p),
    plus: 0,
    right: Float32Array.from(
      { length: p.tokens },
      (_, n) => kept(`${p.block}.attn.qkv`, n, p.v + i, p.v + i + 1)[0],
    ),
  }),
  proj: (m, p, i) => times(m, kept(`${p.block}.attn.heads`, p.token), `${p.block}.attn.proj`, i),
  stream1: (m, p, i) =>
    added("before", kept(p.before, p.token)[i], "attention adds", STOPS.proj(m, p)[i]),
  norm2: (m, p, i) => norms(m, `${p.block}.norm2`, STOPS.stream1(m, p), i),
  fc1: (m, p, i) => times(m, STOPS.norm2(m, p), `${p.block}.mlp.fc1`, i),
  act: (m, p, i) => {
    const value = STOPS.fc1(m, p)[i],
      share = STOPS.act(m, p)[i] / value;
    return {
      parts: [
        ["value", value],
        ["share kept", share],
      ],
      how: `${n4(value)} × ${n4(share)}`,
    };
  },
  fc2: (m, p, i) => times(m, STOPS.act(m, p), `${p.block}.mlp.fc2`, i),
  stream2: (m, p, i) => added("before", STOPS.stream1(m, p)[i], "MLP adds", STOPS.fc2(m, p)[i]),
  norm: (m, p, i) => norms(m, "head.norm", kept(`encoder.blocks.${m.taps[3]}`, p.token), i),
  conv0: (m, p, i) => times(m, around("head.norm", p.fine(1)), "head.convs.0.0", i),
  conv1: (m, p, i) => times(m, around("head.convs.0.up", p.fine(2)), "head.convs.1.0", i),
  conv2: (m, p, i) => times(m, around("head.convs.1.up", p.fine(4)), "head.convs.2.0", i),
  classes: (m, p, i) => times(m, STOPS.conv2(m, p), "head.classifier", i),
  share: (m, p, i) => exponentials(STOPS.classes(m, p), i, "logit"),
};

/* The model has to run for a picture that was not walked through before. */
function remember(model, message) {
  if (!message.rgba) return;
  walked.kept = {};
  const watch = (name, rows) => {
    walked.kept[name] = { values: rows.data.slice(), width: rows.width, grid: rows.grid };
  };
  model.forward(message.rgba, { ...message, watch });
}

TASKS.walk = (message) => {
  const model = modelOf(message.bits);
  remember(model, message);
  return { values: STOPS[message.stop](model, places(model, message)) };
};

TASKS.why = (message) => {
  const model = modelOf(message.bits);
  remember(model, message);
  const p = places(model, message);
  const value = STOPS[message.stop](model, p)[message.index];
  return { ...WHY[message.stop](model, p, message.index), value };
};
