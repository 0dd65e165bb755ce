/* What setr.js does off the page's main thread. The engine's source stands before this one.
 *
 * First message: { weights, about, kernel }, base64 of a .safetensors file, `describe`'s facts, and
 * base64 of the kernel or null. Every later one: { id, rgba, ... } with the options of
 * Setr.forward and `bits`; or { id, streets: [{ rgba, label }] } to count pixels right and wrong. */

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text),
    bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

const at = { bits: 32 };

function start({ weights, about, kernel }) {
  at.tensors = readSafetensors(fromBase64(weights).buffer);
  at.about = about;
  at.kernel = kernel && fromBase64(kernel);
  at.model = new Setr(at.tensors, about, at.kernel);
}

function modelOf(bits = 32) {
  if (bits !== at.bits) at.model = new Setr(at.tensors, at.about, at.kernel, bits);
  at.bits = bits;
  return at.model;
}

/* (classes, classes) counts, rows by truth, over pictures whose labels are known. */
function confusion(model, streets, options) {
  const K = model.classes.length,
    counts = new Float64Array(K * K);
  for (const { rgba, label } of streets) {
    const found = model.forward(rgba, options).label;
    for (let i = 0; i < found.length; i++) if (label[i] < K) counts[label[i] * K + found[i]]++;
  }
  return { counts };
}

/* name -> function (message) -> answer; a page may add its own. */
const TASKS = {
  run: (message) => modelOf(message.bits).forward(message.rgba, message),
  measure: (message) => confusion(modelOf(message.bits), message.streets, message),
};

const buffers = (value) =>
  ArrayBuffer.isView(value)
    ? [value.buffer]
    : value && typeof value === "object"
      ? Object.values(value).flatMap(buffers)
      : [];

self.onmessage = ({ data }) => {
  if (data.weights) {
    start(data);
    return postMessage({ ready: true });
  }
  const began = performance.now();
  let answer;
  try {
    answer = TASKS[data.task](data);
  } catch (error) {
    return postMessage({ failed: String(error) }); // the next question may still be answered
  }
  return postMessage({ ...answer, id: data.id, ms: performance.now() - began }, [
    ...new Set(buffers(answer)),
  ]);
};
