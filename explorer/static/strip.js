// The neighbours: picture and spectrum of each, how alike it is, and the switch between the four directions.

import { crisp, h, replaced } from "./dom.js";
import { drawSpark } from "./spectrum.js";

export class Strip {
  constructor(root, app) {
    Object.assign(this, { root, app });
    new ResizeObserver(() => this.repaint()).observe(root);
  }

  show(answer) {
    this.answer = answer;
    const { query, among } = this.app.state;
    replaced(this.root, this.app.root, () => this.root.replaceChildren(this.head(answer, query, among), h("ol", {}, ...answer.neighbours.map((n, i) => this.item(n, i)))));
    this.repaint();
  }

  follow(i) { // the focus, if it is here, goes where the arrow keys go
    if (this.root.contains(this.root.getRootNode().activeElement)) { this.root.querySelectorAll(".neighbour")[i].focus(); }
  }

  repaint() { // in the size and the colours of now
    const { data } = this.app.colours();
    this.root.querySelectorAll("canvas").forEach((canvas, i) => drawSpark(canvas, this.answer.neighbours[i].spark, data));
  }

  head(answer, query, among) {
    const spaces = this.app.spaces, pairs = spaces.flatMap(a => spaces.map(b => [a, b]));
    const apart = (a, b) => this.app.comparable[a] && !this.app.comparable[a].includes(b);
    const buttons = pairs.map(([a, b]) => h("button", { "data-name": `${a}-${b}`, class: a === query && b === among ? "on" : "", "aria-pressed": String(a === query && b === among),
      title: apart(a, b) ? `this model has no space in which ${a} and ${b} can be compared` : `objects whose ${b} resembles this ${a}`, ...(apart(a, b) ? { disabled: "" } : {}), onclick: () => this.app.direct(a, b) }, `${a} ▸ ${b}`));
    let words = answer.note || `${answer.neighbours.length} objects whose ${among} is most like this ${query}`;
    if (answer.dropped) { words += ` · left out within 5″ (the object itself, or seen twice): ${answer.dropped}`; }
    const instead = answer.instead ? [h("button", { onclick: () => this.app.direct(answer.instead, answer.instead) }, `compare its ${answer.instead} instead`)] : [];
    return h("header", {}, h("div", { class: "switch", role: "group", "aria-label": "what is compared with what" }, ...buttons), h("p", {}, words), ...instead);
  }

  item(n, i) {
    const picture = n.picture !== null ? h("img", { src: this.app.url(`picture/${n.row}/${n.picture}.png`), alt: "", draggable: "false", onload: event => crisp(event.target) }) : h("div", { class: "none" }, "no image");
    const z = n.z === null ? "" : `z ${(Math.abs(n.z) < 5e-4 ? 0 : n.z).toFixed(3)}`;
    return h("li", {}, h("button", { class: "neighbour", "data-name": i, "aria-label": `neighbour ${i + 1}: ${n.id}, similarity ${n.similarity.toFixed(2)} ${z}`, title: n.id,
      onclick: () => this.app.go(n.row), onpointerenter: () => this.app.light(i), onpointerleave: () => this.app.light(null) },
      picture, h("canvas", {}), h("span", { class: "number" }, String(i + 1)), h("span", { class: "line" }, h("b", {}, n.similarity.toFixed(2)), h("span", {}, z))));
  }
}
