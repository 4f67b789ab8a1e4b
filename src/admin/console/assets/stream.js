// What the instance says, once a second, by the one stream that all windows of this browser share.

const NAMES = ["history", "picture", "over"];

// A worker's file is named by an address, which the page's policy takes from here alone.
const own = globalThis.trustedTypes?.createPolicy("console", { createScriptURL: () => "/console/worker.js" });

// Both kinds tell `hear(name, data)`; `error` says with its data whether the stream was refused, and nobody tries again by himself.
function shared(hear) {
  const { port } = new SharedWorker(own?.createScriptURL("") ?? "/console/worker.js");
  port.addEventListener("message", ({ data: { name, data, refused } }) => hear(name, name === "error" ? refused : data));
  port.start();
  return { listen: () => port.postMessage("join"), leave: () => port.postMessage("leave") };
}

// Browsers of phones may have no such workers, and hardly more than one window.
function alone(hear) {
  let source = null;
  const leave = () => {
    source?.close();
    source = null;
  };
  const listen = () => {
    leave();
    const own = (source = new EventSource("/console/events"));
    for (const name of NAMES) own.addEventListener(name, ({ data }) => own === source && hear(name, data));
    own.addEventListener("error", () => own === source && hear("error", own.readyState === EventSource.CLOSED));
  };
  return { listen, leave };
}

export const stream = (hear) => (globalThis.SharedWorker ? shared(hear) : alone(hear));
