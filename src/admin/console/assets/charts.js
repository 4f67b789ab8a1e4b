// Lines over the last quarter of an hour, drawn by hand. A line breaks where nothing is known.

import { el, text } from "./dom.js";

const SPAN_S = 900;
const GAP_S = 12;
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// The next rounder number, so that the axis does not move with each point.
function above(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

export class Chart {
  // `series(points)` names what is drawn: [{ name, value: (point) => number | null }].
  constructor({ title, format, series, max }) {
    Object.assign(this, { title, format, series, max, points: [], shown: [], cursor: null });
    this.keys = el("span", { class: "row" });
    this.drawing = svg("svg", { viewBox: `0 0 ${SPAN_S} 100`, preserveAspectRatio: "none", role: "img" });
    this.top = el("span", { class: "top" });
    this.middle = el("span", { class: "mid" });
    this.nothing = el("span", { class: "nothing" });
    const plot = el("div", { class: "plot" }, this.drawing, this.top, this.middle, el("span", { class: "low" }, "0"), this.nothing);
    plot.addEventListener("pointermove", (event) => this.point(event));
    plot.addEventListener("pointerleave", () => this.point(null));
    this.when = el("span", {}, "now");
    const times = el("div", { class: "times", "aria-hidden": "true" }, el("span", {}, "15 min ago"), el("span", {}, "10 min"), el("span", {}, "5 min"), this.when);
    this.figure = el("figure", {}, el("figcaption", {}, el("strong", {}, title), this.keys), plot, times);
    this.draw([]);
  }

  draw(points) {
    this.points = points;
    this.shown = this.series(points);
    const values = this.shown.flatMap(({ value }) => points.map(value)).filter((value) => value !== null && value !== undefined);
    const top = this.max ?? above(Math.max(0, ...values) * 1.05);
    const last = points.at(-1)?.at ?? 0;
    const lines = [0.5, 50, 99.5].map((y) => svg("line", { x1: 0, x2: SPAN_S, y1: y, y2: y }));
    const paths = this.shown.map(({ value }, index) => {
      let path = "", before = null;
      for (const point of points) {
        const y = value(point);
        if (y === null || y === undefined) { before = null; continue; }
        const x = SPAN_S - (last - point.at);
        const at = `${x} ${(99 - Math.min(y / top, 1) * 98).toFixed(2)}`;
        path += before !== null && point.at - before <= GAP_S ? `L${at}` : `M${at}h.01`;
        before = point.at;
      }
      return svg("path", { d: path, class: `s${index % 6}`, "stroke-dasharray": ["none", "6 3", "2 3"][Math.floor(index / 6) % 3] });
    });
    this.mark = svg("line", { class: "cursor", y1: 0, y2: 100, visibility: "hidden" });
    this.drawing.replaceChildren(...lines, ...paths, this.mark);
    text(this.top, this.format(top));
    text(this.middle, this.format(top / 2));
    text(this.nothing, values.length ? "" : "nothing yet");
    this.drawing.setAttribute("aria-label", this.inWords());
    this.legend();
  }

  inWords() {
    const each = this.shown.map(({ name, value }) => {
      const values = this.points.map(value).filter((one) => one !== null && one !== undefined);
      if (!values.length) return `${name}: nothing`;
      const [now, least, most] = [values.at(-1), Math.min(...values), Math.max(...values)].map(this.format);
      return `${name}: now ${now}, lowest ${least}, highest ${most}`;
    });
    return `${this.title}, last 15 minutes. ${each.join("; ") || "Nothing yet"}.`;
  }

  point(event) {
    this.cursor = null;
    if (event && this.points.length) {
      const box = this.drawing.getBoundingClientRect();
      const at = this.points.at(-1).at - SPAN_S * (1 - (event.clientX - box.left) / box.width);
      this.cursor = this.points.reduce((best, point) => (Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best));
    }
    this.legend();
  }

  legend() {
    const last = this.points.at(-1);
    const point = this.cursor ?? last;
    text(this.when, this.cursor ? new Date(point.at * 1000).toISOString().slice(11, 19) + " UTC" : "now");
    if (this.mark) {
      const x = this.cursor ? SPAN_S - (last.at - point.at) : 0;
      this.mark.setAttribute("visibility", this.cursor ? "visible" : "hidden");
      this.mark.setAttribute("x1", x);
      this.mark.setAttribute("x2", x);
    }
    const value = (one) => (point ? this.format(one.value(point)) : "–");
    this.keys.replaceChildren(...this.shown.map((one, index) => el("span", { class: `key s${index % 6}` }, `${one.name} `, el("b", {}, value(one)))));
  }
}
