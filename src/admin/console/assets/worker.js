// One stream for all windows of a browser. It has six connections to a host for all its pages, and each stream holds one for as long as
// it is open: a window of its own stream would be the last that opens, or leave no connection to order anything with.

const NAMES = ["history", "picture", "over"];
const AGAIN_MS = 2000;

const windows = new Set();
let source = null;
let opened = 0;

function tell(message) {
  for (const port of windows) port.postMessage(message);
}

function close() {
  source?.close();
  source = null;
}

function open() {
  close();
  opened = Date.now();
  const own = (source = new EventSource("/console/events"));
  for (const name of NAMES) own.addEventListener(name, ({ data }) => own === source && tell({ name, data }));
  own.addEventListener("error", () => own === source && tell({ name: "error", refused: own.readyState === EventSource.CLOSED }));
}

// Each stream begins with the past: a window that joins has it by a new one. Those that want it again, as it fell silent, mean the same one.
addEventListener("connect", ({ ports: [port] }) => {
  port.addEventListener("message", ({ data }) => {
    const isNew = data === "join" && !windows.has(port);
    if (data === "leave") windows.delete(port);
    else windows.add(port);
    if (!windows.size) close();
    else if (data === "join" && (isNew || !source || Date.now() - opened > AGAIN_MS)) open();
  });
  port.start();
});
