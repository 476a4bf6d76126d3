"use strict";
// A page that was opened from a disk may start no worker, and the search is one. In its place stands a
// hidden frame, which runs the same script and speaks by the same messages. (The offline plugin would
// load a script for this from another host.)
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    #ready;

    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      const load = (source) => new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        script.src = source;
        script.onload = resolve;
        script.onerror = () => reject(new Error(`${source} cannot be loaded`));
        inside.document.body.append(script);
      });
      inside.importScripts = async (...sources) => {
        for (const source of sources) await load(source);
      };
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.#ready = load(new URL(url, location.href).href).then(() => inside);
    }

    async postMessage(data) {
      const inside = await this.#ready;
      inside.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {}
  };
  window.Worker = window.IFrameWorker;
}
