// One stream for all windows of a browser. It has six connections to a host for all its pages, and each stream holds one for as long as
// it is open: a window of its own stream would be the last that opens, or leave no connection to order anything with.

const NAMES = ["history", "picture", "over"];
const AGAIN_MS = 2000;
// A window says something every 15 s.
const GONE_MS = 60000;

// When something was last heard of each.
const windows = new Map();
let source = null;
let opened = 0;

function tell(message) {
  for (const port of windows.keys()) port.postMessage(message);
}

function close() {
  source?.close();
  source = null;
}

function leave(port) {
  windows.delete(port);
  if (!windows.size) close();
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
    if (data === "leave") return leave(port);
    // One that was given up and only slept is new as well.
    const isNew = !windows.has(port);
    windows.set(port, Date.now());
    if (isNew || (data === "join" && Date.now() - opened > AGAIN_MS)) open();
  });
  port.start();
});

setInterval(() => {
  for (const [port, heard] of windows) if (Date.now() - heard > GONE_MS) leave(port);
}, GONE_MS / 4);
