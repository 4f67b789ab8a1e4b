// What the instance says, once a second, by the one stream that all windows of this browser share.

const NAMES = ["history", "picture", "over"];
// A window that crashes says no word, and the worker gives up those of which it hears nothing.
const PING_MS = 15000;

// A worker's file is named by an address, which the page's policy takes from here alone.
const own = globalThis.trustedTypes?.createPolicy("console", { createScriptURL: () => "/console/worker.js" });

// Both kinds tell `hear(name, data)`; `error` says with its data whether the stream was refused, and nobody tries again by himself.
function shared(hear, failed) {
  const worker = new SharedWorker(own?.createScriptURL("") ?? "/console/worker.js");
  const { port } = worker;
  let isJoined = false;
  const tell = (word) => {
    isJoined = word !== "leave";
    port.postMessage(word);
  };
  const pings = setInterval(() => isJoined && tell("ping"), PING_MS);
  // Its script did not load.
  worker.addEventListener("error", () => {
    clearInterval(pings);
    port.close();
    failed();
  });
  port.addEventListener("message", ({ data: { name, data, refused } }) => hear(name, name === "error" ? refused : data));
  port.start();
  return { listen: () => tell("join"), leave: () => tell("leave") };
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

// A worker may be forbidden, as where the browser keeps nothing of a site, and what cannot be shared is the page's own.
export function stream(hear) {
  let line = null;
  let isListening = false;
  const standIn = () => {
    line = alone(hear);
    if (isListening) line.listen();
  };
  try {
    if (globalThis.SharedWorker) line = shared(hear, standIn);
  } catch {
    // As if there were none.
  }
  line ??= alone(hear);
  return {
    listen: () => {
      isListening = true;
      line.listen();
    },
    leave: () => {
      isListening = false;
      line.leave();
    },
  };
}
