// The card of the current object: pictures, spectrum, numbers. Text from files goes in as text, never as markup.

import { SpectrumView, drawCurves } from "./spectrum.js";
import { crisp, h, north, replaced } from "./dom.js";
import { Generate } from "./generate.js";

const MOST = 4; // images on a card
const BARS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300];

export class Card {
  constructor(root, app) { Object.assign(this, { root, app, pictures: new Map(), generate: new Generate(app) }); }

  show(card) {
    this.card = card;
    replaced(this.root, this.app.root, () => this.root.replaceChildren(this.title(card), this.images(card), this.spectrum(card), this.generate.show(card), this.curves(card), this.table(card), this.history(card)));
    this.root.scrollTop = 0;
    this.generate.paint();
    if (this.view) { this.loadSpectrum(0); }
  }

  repaint() { // in the colours of now; whatever was set stays
    if (!this.card) { return; }
    if (this.view) { this.view.colours = this.app.colours(); this.view.draw(); }
    this.drawCurves?.();
    this.generate.paint();
  }

  title(card) {
    const p = card.position, copy = h("button", { class: "quiet", title: "Copy the position (c)", onclick: () => this.copy() }, "copy");
    return h("div", { class: "title" },
      h("h2", {}, card.id, p && p.name !== card.id ? h("span", { class: "jname" }, p.name) : ""),
      p ? h("div", { class: "place" }, h("span", {}, p.text), copy) : h("div", { class: "place" }, "no position is known"));
  }

  async copy() {
    const p = this.card?.position;
    if (!p) { return; }
    const words = `${p.ra} ${p.dec} (ICRS, degrees)`;
    try { await navigator.clipboard.writeText(`${p.ra} ${p.dec}`); this.app.say(`copied ${words}`); } catch { this.app.say(words); } // over plain http there is no clipboard
  }

  images(card) {
    if (!card.images.length) { return h("p", { class: "empty" }, "No image of this object."); }
    const more = card.images.length > MOST ? [h("p", { class: "empty" }, `${MOST} of ${card.images.length} images`)] : [];
    return h("div", { class: `pictures n${Math.min(card.images.length, 2)}` }, ...card.images.slice(0, MOST).map((about, i) => this.figure(card, about, i)), ...more);
  }

  figure(card, about, i) {
    const image = h("img", { src: this.app.url(`picture/${card.row}/${i}.png`), alt: `${about.title} image of ${card.id}`, draggable: "false", onload: () => crisp(image) });
    const box = h("div", { class: "pixels" }, image);
    if (about.scale) {
      const wide = about.scale * Math.max(...about.size), bar = BARS.filter(b => b < wide / 2.5).pop() || BARS[0];
      const label = bar >= 60 ? `${bar / 60}′` : `${bar}″`;
      box.append(h("div", { class: "bar", style: `width:${100 * bar / wide}%` }, h("span", {}, label)));
    }
    box.append(north(about.north));
    const facts = [[...new Set(about.bands)].join(" "), about.scale ? `${+about.scale.toPrecision(3)}″/px` : "", about.note].filter(Boolean);
    return h("figure", {}, box, h("figcaption", {}, h("b", {}, about.title), h("span", {}, facts.join(" · "))));
  }

  spectrum(card) {
    if (!card.spectra.length) { this.view = null; return h("p", { class: "empty" }, "No spectrum of this object."); }
    const canvas = h("canvas", { class: "spectrum", tabindex: "0", "aria-label": `spectrum of ${card.id}` });
    this.view = new SpectrumView(canvas, this.app.lines, this.app.colours());
    const z = card.z ?? 0, toSlider = v => Math.log1p(v), field = h("input", { type: "number", step: "0.0001", min: "-0.01", max: "7", value: z.toFixed(4), "aria-label": "redshift of the line markers" });
    const slider = h("input", { type: "range", min: toSlider(-0.01), max: toSlider(7), step: "0.0001", value: toSlider(z), "aria-label": "redshift of the line markers" });
    const moved = v => { reset.style.visibility = Math.abs(v - z) > 5e-5 ? "visible" : "hidden"; };
    const set = value => { moved(value); field.value = value.toFixed(4); slider.value = toSlider(value); this.view.setRedshift(value); };
    slider.oninput = () => { const v = Math.expm1(+slider.value); field.value = v.toFixed(4); moved(v); this.view.setRedshift(v); };
    field.oninput = () => { const v = +field.value; if (field.value !== "" && v > -0.9 && v <= 7) { moved(v); slider.value = toSlider(v); this.view.setRedshift(v); } };
    this.view.z = card.z;
    const tabs = card.spectra.map((s, i) => h("button", { class: i ? "" : "on", title: s.title, onclick: () => { this.loadSpectrum(i); tabs.forEach((t, k) => t.classList.toggle("on", k === i)); } }, s.survey));
    const smooth = h("select", { title: "running mean, pixels", "aria-label": "smoothing in pixels", onchange: () => this.view.setSmooth(+smooth.value) }, ...[1, 3, 7, 15].map(n => h("option", { value: n, ...(n === this.view.smooth ? { selected: "" } : {}) }, n === 1 ? "no smoothing" : `mean of ${n} px`)));
    const reset = h("button", { class: "quiet", title: "Back to the catalogue's redshift", onclick: () => { set(z); this.view.setRedshift(card.z); } }, "reset");
    moved(z);
    this.unread = h("p", { class: "empty", hidden: "" }, "This spectrum could not be read.");
    return h("div", { class: "spectra" }, h("div", { class: "tabs" }, ...tabs, smooth), canvas, this.unread, h("div", { class: "redshift" }, card.z === null ? "z unknown" : "z", slider, field, reset));
  }

  async loadSpectrum(i) {
    const card = this.card, view = this.view;
    this.wanted = i;
    const buffer = await this.app.tried(this.app.bytes(`spectrum/${card.row}/${i}.bin`));
    if (view !== this.view || i !== this.wanted) { return; }
    view.canvas.hidden = !buffer; this.unread.hidden = Boolean(buffer);
    if (buffer) { view.load(buffer, card.spectra[i]); this.app.painted("spectrum"); }
  }

  curves(card) {
    this.drawCurves = null;
    if (!card.curves.length) { return ""; }
    const canvas = h("canvas", {});
    this.drawCurves = () => { if (canvas.clientWidth) { drawCurves(canvas, card.curves, this.app.colours()); } };
    new ResizeObserver(this.drawCurves).observe(canvas); // it has no size while the card is folded
    return h("div", { class: "curves" }, h("h3", {}, "light curve", h("span", {}, card.curves[0].unit)), canvas);
  }

  table(card) {
    if (!card.scalars.length) { return h("p", { class: "empty" }, "No measured values."); }
    const rows = card.scalars.map(s => h("tr", {}, h("th", {}, s.title), h("td", { class: /^-?[\d.]/.test(s.text) ? "number" : "" }, s.text), h("td", { class: "unit" }, s.unit)));
    return h("table", { class: "scalars" }, h("tbody", {}, ...rows));
  }

  history(card) {
    const more = card.sources === null ? [] : [`${card.sources} sources in its catalogue`];
    return h("details", {}, h("summary", {}, "where this comes from"), h("ul", {}, ...[...more, ...card.history].map(line => h("li", {}, line))));
  }
}
