"use strict";
/* SETR in JavaScript: a picture in, a class for every pixel out, from a checkpoint's own file.
 *
 * Methods carry the names of the Python modules they repeat (setr_lite/encoder.py, heads.py).
 * `Rows` are the tensors: (rows, width) float32 in the kernel's memory, channels last, so a map of
 * h x w positions is h * w rows. All products run in one kernel, kernel.wat, or in plain JavaScript
 * where the browser has no WebAssembly. One picture at a time; nothing is trained here.
 */

const EPS = 1e-6; // of every LayerNorm
const BN_EPS = 1e-5; // of every BatchNorm
const PAGE = 65536; // bytes: the unit in which WebAssembly's memory grows
const up = (size, step) => Math.ceil(size / step) * step;

/* --- files ------------------------------------------------------------------------------------ */

const READERS = {
  F32: (raw) => new Float32Array(raw),
  F16: (raw) => Float32Array.from(new Uint16Array(raw), (half) => HALVES[half]),
  I8: (raw) => Float32Array.from(new Int8Array(raw)), // times NAME.scale, one number a row
};
const HALVES = Float32Array.from({ length: PAGE }, (_, half) => {
  const exponent = (half >> 10) & 31,
    fraction = (half & 1023) / 1024;
  const size = exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14;
  return half >> 15 ? -size : size;
});

/* The bytes of a .safetensors file -> { name: { shape, data } }, all float32. */
function readSafetensors(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  const tensors = {};
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(header)) {
    if (READERS[dtype])
      tensors[name] = { shape, data: READERS[dtype](buffer.slice(start + from, start + to)) };
  }
  for (const [name, { shape, data }] of Object.entries(tensors)) {
    const scale = tensors[`${name}.scale`];
    if (scale)
      data.forEach((level, i) => {
        data[i] = level * scale.data[Math.floor((i * shape[0]) / data.length)];
      });
  }
  return tensors;
}

/* A matrix or kernel as if each of its rows had been stored in so many bits. */
function rounded({ shape, data }, bits) {
  const size = data.length / shape[0],
    levels = 2 ** (bits - 1) - 1,
    out = new Float32Array(data.length);
  for (let start = 0; start < data.length; start += size) {
    let most = 0;
    for (let i = start; i < start + size; i++) most = Math.max(most, Math.abs(data[i]));
    const step = most / levels || 1;
    for (let i = start; i < start + size; i++) out[i] = Math.round(data[i] / step) * step;
  }
  return { shape, data: out };
}

/* --- the kernel ------------------------------------------------------------------------------- */

/* kernel.wat in JavaScript, over a memory that grows as WebAssembly's does. */
function plainKernel() {
  const memory = {
    buffer: new ArrayBuffer(PAGE),
    grow(pages) {
      const old = new Uint8Array(this.buffer);
      this.buffer = new ArrayBuffer(old.length + pages * PAGE);
      new Uint8Array(this.buffer).set(old);
    },
  };
  const matmul = (a, weights, bias, out, rows, inner, columns) => {
    const m = new Float32Array(memory.buffer);
    for (let c = 0; c < columns; c += 4) {
      const panel = (weights >> 2) + (c >> 3) * inner * 8 + (c & 4),
        b = (bias >> 2) + c;
      for (let r = 0; r < rows; r += 2) {
        let x = (a >> 2) + r * inner,
          y = x + inner,
          w = panel;
        let x0 = m[b],
          x1 = m[b + 1],
          x2 = m[b + 2],
          x3 = m[b + 3],
          y0 = x0,
          y1 = x1,
          y2 = x2,
          y3 = x3;
        for (const end = x + inner; x < end; x++, y++, w += 8) {
          const p = m[x],
            q = m[y],
            w0 = m[w],
            w1 = m[w + 1],
            w2 = m[w + 2],
            w3 = m[w + 3];
          x0 += p * w0;
          x1 += p * w1;
          x2 += p * w2;
          x3 += p * w3;
          y0 += q * w0;
          y1 += q * w1;
          y2 += q * w2;
          y3 += q * w3;
        }
        let to = (out >> 2) + r * columns + c;
        m[to] = x0;
        m[to + 1] = x1;
        m[to + 2] = x2;
        m[to + 3] = x3;
        to += columns;
        m[to] = y0;
        m[to + 1] = y1;
        m[to + 2] = y2;
        m[to + 3] = y3;
      }
    }
  };
  return { memory, matmul };
}

function wasmKernel(bytes) {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  return { memory, matmul: exports.matmul };
}

/* --- small pieces ----------------------------------------------------------------------------- */

/* Exact GELU, x times the normal distribution's share below x: the share by Simpson's rule in steps
 * of 1/1024, and a straight line between steps, which is off by 1e-7 at most. */
const GELU = (() => {
  const table = new Float32Array(16 * 1024 + 2),
    density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  for (let i = 0, share = 0; i < table.length; i++) {
    const x = i / 1024 - 8;
    table[i] = x * share;
    share += (density(x) + 4 * density(x + 1 / 2048) + density(x + 1 / 1024)) / 6144;
  }
  return table;
})();

function gelu(x) {
  if (x >= 8) return x;
  if (!(x > -8)) return 0;
  const at = (x + 8) * 1024,
    step = at | 0;
  return GELU[step] + (at - step) * (GELU[step + 1] - GELU[step]);
}

/* Bilinear resizing along one side: for each new place two old ones and the share of the second. */
function axis(size, wanted, corners) {
  return Array.from({ length: wanted }, (_, i) => {
    const at = corners
      ? (i * (size - 1)) / (wanted - 1)
      : Math.max(0, ((i + 0.5) * size) / wanted - 0.5);
    const low = Math.min(Math.floor(at), size - 1);
    return [low, Math.min(low + 1, size - 1), at - low];
  });
}

class Rows {
  constructor(memory, at, rows, width) {
    Object.assign(this, { memory, at, rows, width });
  }
  /* A view; growing the memory cuts it off, so take all room first, then look. */
  get data() {
    return new Float32Array(this.memory.buffer, this.at, this.rows * this.width);
  }
  on(grid) {
    this.grid = grid;
    return this;
  }
}

/* --- the model -------------------------------------------------------------------------------- */

class Setr {
  /* tensors: of readSafetensors. about: what setr_lite.web.describe says of the model.
   * wasm: the kernel's bytes, or null. bits: to which weights are rounded, 32 leaves them. */
  constructor(tensors, about, wasm, bits = 32) {
    Object.assign(this, about);
    this.t = tensors;
    this.size = this.grid.map((side) => side * this.patch);
    const { memory, matmul } = wasm ? wasmKernel(wasm) : plainKernel();
    Object.assign(this, { memory, kernel: matmul, free: 1024, layers: {} });
    for (const name of Object.keys(tensors)) {
      const layer =
        /^(encoder|neck|head)\..*\.weight$/.test(name) && tensors[name].shape.length > 1;
      if (layer)
        this.pack(name.slice(0, -7), bits < 32 ? rounded(tensors[name], bits) : tensors[name]);
    }
    this.floor = this.free; // weights below, what one picture needs above
  }

  take(rows, width) {
    const found = new Rows(this.memory, this.free, rows, width);
    this.free += 4 * up(rows, 4) * width; // the kernel works on four rows at a time
    const missing = this.free - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE) + 16);
    return found;
  }

  /* Weights (columns, inner) or (columns, channels, h, w) into the kernel's panels. A BatchNorm that
   * follows is a factor and a shift, and disappears in them. */
  pack(name, { shape: [columns, channels, side = 1], data }) {
    const area = side * side,
      inner = channels * area,
      wide = up(columns, 8);
    const weights = this.take(inner, wide),
      bias = this.take(1, wide),
      t = this.t;
    const norm = name.replace(/\d+$/, (i) => +i + 1),
      mean = norm !== name && t[`${norm}.running_mean`];
    const w = weights.data.fill(0),
      b = bias.data.fill(0);
    for (let c = 0; c < columns; c++) {
      const factor = mean
        ? t[`${norm}.weight`].data[c] / Math.sqrt(t[`${norm}.running_var`].data[c] + BN_EPS)
        : 1;
      const own = t[`${name}.bias`] ? t[`${name}.bias`].data[c] : 0;
      b[c] = mean ? (own - mean.data[c]) * factor + t[`${norm}.bias`].data[c] : own;
      for (let k = 0, to = (c >> 3) * inner * 8 + (c & 7); k < inner; k++, to += 8) {
        w[to] = factor * data[(c * channels + (k % channels)) * area + Math.floor(k / channels)]; // k: y, x, channel
      }
    }
    this.layers[name] = {
      weights: weights.at,
      bias: bias.at,
      inner,
      wide,
      columns,
      side,
      relu: !!mean,
    };
  }

  product(x, { weights, bias, inner, wide }, out = this.take(x.rows, wide)) {
    this.kernel(x.at, weights, bias, out.at, up(x.rows, 4), inner, wide);
    return out;
  }

  linear(x, name) {
    const y = this.product(x, this.layers[name]);
    this.watch(name, y);
    return y;
  }

  norm(x, name) {
    const y = this.take(x.rows, x.width).on(x.grid),
      from = x.data,
      to = y.data,
      c = x.width;
    const weight = this.t[`${name}.weight`].data,
      bias = this.t[`${name}.bias`].data;
    for (let r = 0; r < from.length; r += c) {
      let mean = 0,
        variance = 0;
      for (let i = r; i < r + c; i++) mean += from[i];
      mean /= c;
      for (let i = r; i < r + c; i++) variance += (from[i] - mean) ** 2;
      const scale = 1 / Math.sqrt(variance / c + EPS);
      for (let i = 0; i < c; i++) to[r + i] = (from[r + i] - mean) * scale * weight[i] + bias[i];
    }
    this.watch(name, y);
    return y;
  }

  add(x, y) {
    const a = x.data,
      b = y.data;
    for (let i = 0; i < a.length; i++) a[i] += b[i];
  }

  /* -- encoder -- */

  // [embed
  embed(rgba, order) {
    const [h, w] = this.grid,
      P = this.patch,
      first = this.class_token ? 1 : 0,
      C = this.dim;
    const cut = this.take(h * w, 3 * P * P),
      to = cut.data;
    for (let patch = 0, o = 0; patch < h * w; patch++) {
      const top = Math.floor(patch / w) * P,
        left = (patch % w) * P;
      for (let y = top; y < top + P; y++)
        for (let x = left; x < left + P; x++)
          for (let c = 0; c < 3; c++) {
            to[o++] = (rgba[4 * (y * w * P + x) + c] - this.mean[c]) / this.std[c];
          }
    }
    this.watch("pixels", cut);
    const patches = this.linear(cut, "encoder.patch_embed.proj"),
      tokens = this.take(first + h * w, C);
    const x = tokens.data,
      p = patches.data,
      table = this.t["encoder.pos_embed"].data;
    if (first)
      this.t["encoder.cls_token"].data.forEach((value, i) => {
        x[i] = value + table[i];
      });
    for (let n = 0; n < h * w; n++) {
      const row = order ? order[n] : n; // of the table; -1 is no position at all
      for (let i = 0; i < C; i++)
        x[(first + n) * C + i] = p[n * C + i] + (row < 0 ? 0 : table[(1 + row) * C + i]);
    }
    this.watch("embed", tokens);
    return tokens;
  }
  // embed]

  // [attention
  attention(x, name, keep) {
    const n = x.rows,
      C = this.dim,
      A = this.heads,
      d = C / A,
      wide = up(n, 8),
      deep = up(d, 8);
    const scale = 1 / Math.sqrt(d);
    const qkv = this.linear(x, `${name}.qkv`),
      joined = this.take(n, C),
      before = this.free;
    for (let head = 0; head < A; head++, this.free = before) {
      const q = this.take(n, d),
        keys = this.take(wide, d),
        values = this.take(wide, deep);
      const zeros = this.take(1, Math.max(wide, deep)),
        from = qkv.data;
      const Q = q.data,
        K = keys.data.fill(0),
        V = values.data.fill(0);
      zeros.data.fill(0);
      for (let r = 0; r < n; r++)
        for (let i = 0; i < d; i++) {
          const at = r * qkv.width + head * d + i;
          Q[r * d + i] = from[at] * scale;
          K[(r >> 3) * d * 8 + i * 8 + (r & 7)] = from[at + C];
          V[(i >> 3) * wide * 8 + r * 8 + (i & 7)] = from[at + 2 * C];
        }
      const scores = this.product(q, { weights: keys.at, bias: zeros.at, inner: d, wide });
      this.softmax(scores, n);
      if (keep) keep.push(this.square(scores, n));
      const mixed = this.product(scores, {
        weights: values.at,
        bias: zeros.at,
        inner: wide,
        wide: deep,
      });
      const to = joined.data,
        M = mixed.data;
      for (let r = 0; r < n; r++)
        for (let i = 0; i < d; i++) to[r * C + head * d + i] = M[r * deep + i];
    }
    this.watch(`${name}.heads`, joined);
    return this.linear(joined, `${name}.proj`);
  }

  /* Each row in place; what the kernel added beyond n becomes 0. */
  softmax(scores, n) {
    const s = scores.data;
    for (let r = 0; r < s.length; r += scores.width) {
      let most = -Infinity,
        sum = 0; // less the largest: no exponential can overflow
      for (let i = r; i < r + n; i++) if (s[i] > most) most = s[i];
      for (let i = r; i < r + n; i++) sum += s[i] = Math.exp(s[i] - most);
      const scale = 1 / sum;
      for (let i = r; i < r + n; i++) s[i] *= scale;
      s.fill(0, r + n, r + scores.width);
    }
  }
  // attention]

  square(scores, n) {
    const out = new Float32Array(n * n),
      s = scores.data;
    for (let r = 0; r < n; r++) out.set(s.subarray(r * scores.width, r * scores.width + n), r * n);
    return out;
  }

  // [block
  mlp(x, name) {
    const hidden = this.linear(x, `${name}.fc1`),
      a = hidden.data;
    for (let i = 0; i < a.length; i++) a[i] = gelu(a[i]);
    this.watch(`${name}.act`, hidden);
    return this.linear(hidden, `${name}.fc2`);
  }

  block(x, name, attend, keep) {
    const before = this.free;
    if (attend) this.add(x, this.attention(this.norm(x, `${name}.norm1`), `${name}.attn`, keep));
    this.watch(`${name}.attn`, x);
    this.free = before;
    this.add(x, this.mlp(this.norm(x, `${name}.norm2`), `${name}.mlp`));
    this.watch(name, x);
    this.free = before;
  }

  encoder(rgba, { order, attend = this.depth, keep }) {
    const x = this.embed(rgba, order),
      first = this.class_token ? this.dim : 0,
      found = [];
    for (let i = 0; i <= this.taps[3]; i++) {
      const maps = keep && i < attend ? (keep[i] = []) : null;
      this.block(x, `encoder.blocks.${i}`, i < attend, maps);
      if (!this.taps.includes(i)) continue;
      const tap = this.take(this.grid[0] * this.grid[1], this.dim).on(this.grid);
      tap.data.set(x.data.subarray(first)); // without the class token
      found.push(tap);
    }
    return found;
  }
  // block]

  /* -- decoders -- */

  /* Convolution, BatchNorm and ReLU (or the bare classifier), in strips of rows. */
  unit(x, name) {
    const layer = this.layers[name],
      [h, w] = x.grid,
      y = this.take(x.rows, layer.wide).on(x.grid);
    if (layer.side === 1) this.product(x, layer, y);
    else {
      const before = this.free,
        rows = Math.min(h, up(Math.ceil(2e5 / (w * layer.inner)), 4)),
        cut = this.take(rows * w, layer.inner);
      for (let top = 0; top < h; top += rows) {
        const count = Math.min(rows, h - top) * w;
        this.neighbours(x, top, count, cut);
        this.kernel(
          cut.at,
          layer.weights,
          layer.bias,
          y.at + 4 * top * w * layer.wide,
          up(count, 4),
          layer.inner,
          layer.wide,
        );
      }
      this.free = before;
    }
    const a = y.data;
    if (layer.relu) for (let i = 0; i < a.length; i++) if (a[i] < 0) a[i] = 0;
    this.watch(name, y);
    return y;
  }

  /* For `count` positions from row `top` on: the 3 x 3 around each, side by side, zeros outside. */
  neighbours(x, top, count, out) {
    const [h, w] = x.grid,
      c = x.width,
      from = x.data,
      to = out.data;
    for (let n = 0, o = 0; n < count; n++) {
      const r = top + Math.floor(n / w),
        s = n % w;
      for (let y = r - 1; y <= r + 1; y++)
        for (let z = s - 1; z <= s + 1; z++, o += c) {
          if (y < 0 || y >= h || z < 0 || z >= w) to.fill(0, o, o + c);
          else for (let i = 0, at = (y * w + z) * c; i < c; i++) to[o + i] = from[at + i];
        }
    }
  }

  // [decoders
  upsample(x, factor, corners, into, column = 0) {
    const [h, w] = x.grid,
      size = [h * factor, w * factor],
      c = x.width;
    const y = into || this.take(size[0] * size[1], c).on(size),
      from = x.data,
      to = y.data;
    const rows = axis(h, size[0], corners),
      columns = axis(w, size[1], corners);
    let o = column;
    for (const [r0, r1, a] of rows)
      for (const [s0, s1, b] of columns) {
        const p = (r0 * w + s0) * c,
          q = (r0 * w + s1) * c,
          r = (r1 * w + s0) * c,
          s = (r1 * w + s1) * c;
        const wp = (1 - a) * (1 - b),
          wq = (1 - a) * b,
          wr = a * (1 - b),
          ws = a * b;
        for (let i = 0; i < c; i++)
          to[o + i] = wp * from[p + i] + wq * from[q + i] + wr * from[r + i] + ws * from[s + i];
        o += y.width;
      }
    return y;
  }

  upsampleHead(features) {
    // Naive, PUP, and a linear probe, which has no unit
    let x = this.norm(features[3], "head.norm");
    for (let i = 0; i < this.units; i++) {
      x = this.unit(x, `head.convs.${i}.0`);
      if (i === this.units - 1) break;
      x = this.upsample(x, 2, false);
      this.watch(`head.convs.${i}.up`, x);
    }
    return this.unit(x, "head.classifier");
  }

  mlaHead(features) {
    const streams = features.map((x, i) =>
      this.unit(this.norm(x, `neck.norm.${i}`), `neck.proj.${i}.0`),
    );
    for (let i = 2; i >= 0; i--) this.add(streams[i], streams[i + 1]); // from deep to shallow
    const size = this.grid.map((side) => 4 * side);
    const joined = this.take(size[0] * size[1], 2 * streams[0].width).on(size);
    streams.forEach((x, i) => {
      for (const name of [`neck.smooth.${i}.0`, `head.branches.${i}.0`, `head.branches.${i}.3`])
        x = this.unit(x, name);
      this.upsample(x, 4, true, joined, i * x.width);
    });
    return this.unit(joined, "head.classifier");
  }
  // decoders]

  /* The scores resized to the picture, line by line: the class of the largest logit, its softmax
   * share, and on request all logits, (classes, height, width). */
  full(scores, wanted) {
    const [h, w] = scores.grid,
      [H, W] = this.size,
      c = scores.width,
      K = this.classes.length,
      from = scores.data;
    const label = new Uint8Array(H * W),
      share = new Float32Array(H * W),
      line = new Float32Array(w * c);
    const logits = wanted ? new Float32Array(K * H * W) : null,
      z = new Float32Array(K),
      columns = axis(w, W);
    let o = 0;
    for (const [r0, r1, a] of axis(h, H)) {
      for (let i = 0; i < line.length; i++)
        line[i] = (1 - a) * from[r0 * w * c + i] + a * from[r1 * w * c + i];
      for (const [s0, s1, b] of columns) {
        let best = 0,
          sum = 0;
        for (let k = 0; k < K; k++) {
          z[k] = (1 - b) * line[s0 * c + k] + b * line[s1 * c + k];
          if (z[k] > z[best]) best = k;
          if (logits) logits[k * H * W + o] = z[k];
        }
        for (let k = 0; k < K; k++) sum += Math.exp(z[k] - z[best]);
        label[o] = best;
        share[o++] = 1 / sum;
      }
    }
    return { label, share, logits };
  }

  /* rgba: bytes of a picture of `this.size`. Options: order, the row of the position table for each
   * patch; attend, how many of the first blocks have attention; keep, to get the attention maps,
   * [block][head] of n x n; logits; watch(name, rows), called with each result on the way. */
  forward(rgba, options = {}) {
    this.free = this.floor;
    this.watch = options.watch || (() => {});
    const keep = options.keep ? [] : null;
    const features = this.encoder(rgba, { ...options, keep });
    const scores = this.head === "mla" ? this.mlaHead(features) : this.upsampleHead(features);
    return { ...this.full(scores, options.logits), attention: keep };
  }
}

if (typeof module !== "undefined") module.exports = { Setr, readSafetensors, rounded };
