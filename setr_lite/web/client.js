"use strict";
/* A page's side of the engine: scripts instead of requests, so that it works from a file, and one
 * worker for each model, made of source text because a file may not start another file. */

const setrParts = (self.setrParts = self.setrParts || {});

const SetrClient = (() => {
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  const scripts = {},
    engines = {};

  /* The part that NAME.js lays down in setrParts. */
  function part(name) {
    scripts[name] =
      scripts[name] ||
      new Promise((resolve, reject) => {
        if (name in setrParts) return resolve(setrParts[name]);
        const script = document.createElement("script");
        script.src = `${folder}${name}.js`;
        script.onload = () => resolve(setrParts[name]);
        script.onerror = () => reject(new Error(`${script.src} cannot be loaded`));
        return document.head.append(script);
      });
    return scripts[name];
  }

  /* Whether this browser runs the kernel; else the same arithmetic is done in JavaScript. */
  function canRun(kernel) {
    if (typeof WebAssembly !== "object") return false;
    return WebAssembly.validate(Uint8Array.from(atob(kernel), (letter) => letter.charCodeAt(0)));
  }

  class Engine {
    /* name: of a model that lies beside this script; extra: source that adds tasks. */
    constructor(name, extra = "") {
      this.waiting = new Map();
      this.ids = 0;
      this.busy = true;
      this.ready = this.start(name, extra);
    }

    async start(name, extra) {
      const { source, kernel } = await part("engine"),
        model = await part(name);
      const url = URL.createObjectURL(new Blob([source, extra], { type: "text/javascript" }));
      this.worker = new Worker(url);
      this.about = model.about;
      this.kernel = canRun(kernel) ? "WebAssembly" : "JavaScript";
      const up = new Promise((resolve, reject) => {
        this.worker.onmessage = resolve;
        this.worker.onerror = reject;
      });
      this.worker.postMessage({ ...model, kernel: this.kernel === "WebAssembly" ? kernel : null });
      model.weights = null; // the worker has them
      await up;
      this.worker.onmessage = ({ data }) => this.answered(data);
      this.busy = false;
      this.next();
      return this;
    }

    /* One request is under way; of those that wait, only the newest of each asker. An older one
     * gets null. */
    ask(asker, message) {
      return new Promise((resolve, reject) => {
        const older = this.waiting.get(asker);
        if (older) older.resolve(null);
        this.waiting.set(asker, { message, resolve, reject });
        this.next();
      });
    }

    next() {
      if (this.busy || !this.waiting.size) return;
      const [asker, question] = this.waiting.entries().next().value;
      this.waiting.delete(asker);
      this.busy = true;
      this.question = question;
      this.worker.postMessage({ task: "run", ...question.message });
    }

    answered(data) {
      this.busy = false;
      if (data.failed) this.question.reject(new Error(data.failed));
      else this.question.resolve(data);
      this.next();
    }
  }

  const engine = (name, extra) => (engines[name] = engines[name] || new Engine(name, extra));
  return { part, engine, engines };
})();
