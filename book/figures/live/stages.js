/* What can be read at each unit of the decoder: a task that the live page adds to the worker.
 *
 * A probe is a 1 x 1 classifier of a map, fitted where the page was written
 * (setr_lite.inside.stages.fit_readout). `probes` is base64 of a .safetensors file with weights and
 * biases named after the maps that they read: what the units put out, and what they take in. */

TASKS.stages = ({ probes, bits, ...message }) => {
  const model = modelOf(bits),
    found = {};
  if (!model.layers["head.norm.probe"]) addProbes(model, probes);
  const watch = (name, rows) => {
    const probe = `${name}.probe`;
    if (model.layers[probe]) found[name] = told(model, model.linear(rows, probe).on(rows.grid));
  };
  const answer = model.forward(message.rgba, { ...message, watch });
  const stages = Array.from({ length: model.units }, (_, i) => ({
    before: found[i ? `head.convs.${i - 1}.up` : "head.norm"],
    after: found[`head.convs.${i}.0`],
  }));
  return { ...answer, stages };
};

function addProbes(model, probes) {
  const tensors = readSafetensors(fromBase64(probes).buffer);
  Object.assign(model.t, tensors);
  model.free = model.floor; // nothing of a picture is kept
  for (const name of Object.keys(tensors))
    if (name.endsWith(".weight")) model.pack(name.slice(0, -7), tensors[name]);
  model.floor = model.free;
}

/* Scores (cells, classes), and the class of every pixel once they are resized to the image. */
function told(model, rows) {
  const K = model.classes.length,
    { data, width } = rows,
    scores = new Float32Array(rows.rows * K);
  for (let n = 0; n < rows.rows; n++) scores.set(data.subarray(n * width, n * width + K), n * K);
  return { grid: rows.grid, scores, label: model.full(rows).label };
}
