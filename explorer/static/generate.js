// The strip on the card: what a model generates of this object, beside what was measured. Work goes on elsewhere; this asks how far.

import { crisp, h, north } from "./dom.js";
import { SpectrumView, drawCurve } from "./spectrum.js";

const EVERY = 200; // ms between two questions; previews come at most three times a second
const PATIENCE = 10_000; // ms without an answer, until a run counts as lost
const LAST_SEED = 999_999;
const BARS = [0.5, 1, 2, 5, 10, 20, 60];
const ORDER = ["image", "spectrum", "scalar"]; // pictures first, whatever comes first

export class Generate {
  constructor(app) {
    Object.assign(this, { app, row: null, asked: 0, visitor: Math.random().toString(36).slice(2), veiled: false });
    this.root = h("section", { class: "generate", "aria-label": "generate" });
  }

  get active() { return this.status === "waiting" || this.status === "running"; }
  get key() { return `${this.row}-${this.source?.key}-${this.seed}`; }

  show(card) { // the card of an object; what is made of it goes on if it is shown again
    if (card.row === this.row) { return this.root; }
    this.stop();
    Object.assign(this, { row: card.row, card, done: new Set(card.generate.done), seed: 0, source: null });
    this.forget();
    this.frame();
    if (card.generate.sources.length) { this.choose(card.generate.sources[0]); }
    return this.root;
  }

  choose(source) {
    this.stop();
    Object.assign(this, { source, seed: this.typed });
    for (const [s, button] of this.choices) { button.classList.toggle("on", s === source); button.setAttribute("aria-pressed", String(s === source)); }
    this.fresh();
    if (this.done.has(this.key)) { this.follow({ run: this.key, status: "running", fraction: 1, note: "", parts: {}, ahead: 0 }); }
  }

  // -- the frame

  frame() { // made once for an object: what is under the mouse or has the focus is never replaced
    const w = this.app.words, { sources, why } = this.card.generate;
    this.root.classList.toggle("off", !sources.length);
    if (!sources.length) { this.root.replaceChildren(h("header", {}, h("h3", {}, w.title), h("button", { class: "go", disabled: "" }, w.go)), h("p", { class: "note" }, why)); return; }
    this.button = h("button", { class: "go", onclick: () => this.press() }, w.go);
    this.choices = new Map(sources.map(s => [s, h("button", { title: s.title, onclick: () => this.choose(s) }, s.name)]));
    this.number = h("input", { type: "number", min: 0, max: LAST_SEED, step: 1, "aria-label": w.seed, oninput: () => this.said(), onkeydown: event => this.typing(event) });
    this.bar = h("i", {}); this.note = h("p", { class: "note" }); this.body = h("div", { class: "made" }); this.small = h("div", { class: "small" });
    this.root.replaceChildren(h("header", {}, h("h3", {}, w.title), h("label", {}, w.seed, this.number), this.button),
      h("div", { class: "from" }, h("span", {}, w.from), h("div", { class: "switch", role: "group", "aria-label": w.from }, ...this.choices.values())),
      h("div", { class: "far", role: "progressbar", "aria-label": w.title }, this.bar), this.note, this.body, this.small);
  }

  forget() { Object.assign(this, { status: "idle", run: null, parts: {}, slots: {} }); }

  fresh() { // nothing generated yet
    this.forget();
    this.number.value = this.seed;
    this.body.replaceChildren(); this.small.replaceChildren();
    this.said();
  }

  get typed() { return Math.min(LAST_SEED, Math.max(0, Math.trunc(+this.number.value) || 0)); } // the seed in the field: used when the button is pressed

  said() { // button, bar and note, as things stand
    const w = this.app.words, left = this.left();
    this.button.textContent = this.active ? w.stop : this.status === "done" && this.typed === this.seed ? w.again : w.go;
    this.button.title = this.active ? "Esc" : "Ctrl Enter";
    this.button.classList.toggle("stop", this.active);
    this.root.dataset.status = this.status;
    this.bar.style.width = `${100 * (this.fraction ?? 0)}%`;
    this.bar.parentElement.setAttribute("aria-valuenow", Math.round(100 * (this.fraction ?? 0)));
    this.bar.parentElement.style.visibility = this.active ? "visible" : "hidden";
    const targets = [...this.source.targets].sort((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind)).map(t => t.title).join(", ");
    this.note.textContent = { idle: `${w.hint} ${targets}.`, waiting: `${w.waiting}${this.ahead}`, running: `${this.said_note || "…"} · ${Math.round(100 * this.fraction)} %${left}`, done: "", stopped: Object.keys(this.slots).length ? w.stopped : w.nothing, failed: this.said_note }[this.status];
    this.note.classList.toggle("bad", this.status === "failed");
    this.note.hidden = !this.note.textContent;
  }

  left() {
    if (this.status !== "running" || !(this.fraction > 0.05)) { return ""; }
    const seconds = (performance.now() - this.began) / 1000 / this.fraction * (1 - this.fraction);
    return seconds > 1.5 ? ` · ${Math.round(seconds)} s left` : "";
  }

  // -- a run

  press() {
    if (this.active) { this.stop(); return; }
    if (!this.source) { return; }
    this.seed = this.typed === this.seed && this.status === "done" ? (this.seed + 1) % (LAST_SEED + 1) : this.typed;
    this.start();
  }

  typing({ key, ctrlKey }) { // in the field of the seed
    if (key === "Escape") { this.stop(); }
    if (key !== "Enter" || ctrlKey || (this.active && this.typed === this.seed)) { return; }
    this.stop();
    this.press();
  }

  async start() {
    const asked = ++this.asked;
    this.fresh();
    Object.assign(this, { status: "waiting", fraction: 0, ahead: 0, said_note: "", began: performance.now() });
    this.places(); this.said();
    try { this.follow(await this.app.ask(`generate/${this.row}.json`, { source: this.source.key, seed: this.seed, visitor: this.visitor }, "POST"), asked); }
    catch (error) { if (asked === this.asked) { this.ended("failed", error.message); } }
  }

  stop() {
    this.asked++;
    if (!this.active) { return; }
    const run = this.run;
    this.ended("stopped");
    if (run) { this.app.ask(`stop/${run}.json`, { visitor: this.visitor }, "POST").catch(() => {}); }
  }

  async follow(state, asked) {
    const leave = () => { if (this.active) { navigator.sendBeacon(this.app.url(`stop/${this.run}.json`, { visitor: this.visitor })); } };
    window.addEventListener("pagehide", leave);
    try { await this.followed(state, asked); } finally { window.removeEventListener("pagehide", leave); } // which would keep a view that is gone
  }

  async followed(state, asked = ++this.asked) {
    let heard = performance.now();
    for (;;) {
      if (asked !== this.asked) { // stopped before its name was known
        if (this.run !== state.run) { this.app.ask(`stop/${state.run}.json`, { visitor: this.visitor }, "POST").catch(() => {}); }
        return;
      }
      this.take(state);
      if (!this.active) { return; }
      await new Promise(done => setTimeout(done, state.version === undefined ? 0 : EVERY));
      if (asked !== this.asked) { return; }
      if (!this.app.root.isConnected) { this.stop(); return; }
      try { state = await this.app.ask(`run/${this.run}.json`, { visitor: this.visitor }); heard = performance.now(); } catch (error) {
        const lost = error.status === 404 || performance.now() - heard > PATIENCE; // a run that the server does not know will not come
        if (lost && asked === this.asked) { this.ended("failed", error.message); }
        if (lost) { return; }
      }
    }
  }

  take(state) {
    if (this.status !== "running" && state.status === "running") { this.began = performance.now(); }
    Object.assign(this, { run: state.run, status: state.status, fraction: state.fraction, ahead: state.ahead, said_note: state.note });
    if (!Object.keys(this.slots).length) { this.places(); }
    for (const [target, part] of Object.entries(state.parts)) {
      if (this.parts[target]?.version !== part.version) { this.parts[target] = part; this.fill(target, part); }
    }
    if (state.status === "done") { this.done.add(state.run); this.numbers(); this.app.live.textContent = `${this.app.words.generated}: ${this.source.targets.map(t => t.title).join(", ")}`; }
    if (this.active || state.status === "done") { this.said(); } else { this.ended(state.status, state.note); }
  }

  ended(status, note = "") { // before all was there: what has nothing to show gives up its place
    Object.assign(this, { status, said_note: note });
    for (const [target, { root, begun }] of Object.entries(this.slots)) { if (!begun) { root.remove(); delete this.slots[target]; } }
    this.said();
  }

  // -- what came of it

  places() { // room for everything that will come, so that nothing jumps
    const kinds = [...this.source.targets].sort((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind));
    this.slots = Object.fromEntries(kinds.map(t => [t.key, { ...t, root: h("div", { class: `slot ${t.kind}` }, h("p", { class: "coming" }, t.title)) }]));
    this.body.replaceChildren(...kinds.map(t => this.slots[t.key].root));
  }

  fill(target, part) {
    const slot = this.slots[target];
    if (!slot) { return; }
    ({ image: () => this.stamps(slot, part), spectrum: () => this.spectrum(slot, part), scalar: () => this.posterior(slot, part) })[part.kind]?.();
  }

  url(part, file) { return this.app.url(`run/${this.run}/${file}`, { v: part.version }); }

  stamps(slot, part) {
    const w = this.app.words;
    if (!slot.made) {
      slot.image = h("img", { alt: `${part.title}, ${w.generated}`, draggable: "false", hidden: "", onload: event => crisp(event.target) });
      slot.caption = h("span", {}); slot.north = h("span", {});
      slot.thumbs = h("div", { class: "thumbs", role: "group", "aria-label": "samples" });
      slot.verdict = h("p", { class: "verdict", hidden: "" });
      const stamp = (which, image, ...more) => h("figure", { class: which }, h("div", { class: "pixels" }, image, ...more), h("figcaption", {}, h("b", {}, w[which]), which === "generated" ? slot.caption : h("span", {}, which === "input" ? this.source.title : part.title)));
      const given = name => part.measured[name] ? h("img", { src: this.url(part, part.measured[name].file), alt: `${w[name === "true" ? "measured" : name]}`, draggable: "false", onload: event => crisp(event.target) }) : h("span", { class: "none" }, w.none);
      const bar = BARS.filter(b => b < part.side / 2.5).pop();
      const ruler = h("div", { class: "bar", style: `width:${100 * bar / part.side}%` }, h("span", {}, `${bar}″`));
      const all = [stamp("generated", slot.image, slot.north), stamp("measured", given("true"), ...(part.measured.true ? [north(part.measured.true.north), h("span", { class: "veil" }, w.hidden)] : []))];
      if (part.measured.input) { all.unshift(stamp("input", given("input"), ruler, north(part.measured.input.north))); }
      slot.root.replaceChildren(h("div", { class: "stamps" }, ...all), slot.thumbs, slot.verdict);
      slot.made = true;
    }
    if (!part.shown.length) { return; }
    slot.begun = true;
    const show = ({ file, north: angle }, title, on) => { slot.image.hidden = false; slot.image.src = this.url(part, file); slot.north.replaceChildren(north(angle)); slot.caption.textContent = title; [...slot.thumbs.children].forEach(b => { b.classList.toggle("on", b === on); b.setAttribute("aria-pressed", String(b === on)); }); };
    const thumb = (file, name, title, act) => h("button", { title, "aria-label": title, onclick: act }, h("img", { src: this.url(part, file), alt: "", draggable: "false" }), h("span", {}, name));
    const chi = part.done && part.shown[0].check?.file ? thumb(part.shown[0].check.file, "χ", w.chi, () => show(part.shown[slot.at].check, w.chi, chi)) : null;
    const pick = (i, on) => { slot.at = i; show(part.shown[i], part.shown[i].title, on); this.verdict(slot, part.shown[i].check); if (chi) { chi.querySelector("img").src = this.url(part, part.shown[i].check.file); } };
    const thumbs = part.done ? part.shown.map((one, i) => { const b = thumb(one.file, one.title.replace("sample ", ""), one.title, () => pick(i, b)); b.classList.toggle("bad", one.check?.consistent === false); return b; }) : [];
    slot.thumbs.replaceChildren(...thumbs, ...(chi ? [chi] : []));
    pick(0, thumbs[0]);
  }

  spectrum(slot, part) {
    if (!part.file) { return; }
    slot.begun = true;
    if (!slot.made) {
      const canvas = h("canvas", { class: "spectrum", tabindex: "0", "aria-label": `${part.title}, ${this.app.words.generated}` });
      slot.view = new SpectrumView(canvas, this.app.lines, this.app.colours());
      slot.view.z = this.card.z;
      slot.view.veiled = this.veiled;
      slot.caption = h("p", { class: "key" }); slot.verdict = h("p", { class: "verdict", hidden: "" });
      slot.root.replaceChildren(canvas, slot.caption, slot.verdict);
      slot.made = true;
      slot.truth = this.truth(slot);
    }
    slot.part = part;
    this.colourKey(slot);
    this.verdict(slot, part.check);
    slot.wanted = part.version;
    this.drawOver(slot, part, this.run);
  }

  colourKey({ caption, measured, part }) { // what is drawn in which colour
    const w = this.app.words;
    caption.replaceChildren(h("b", {}, `${part.title} `), ...(measured ? [h("i", { class: "data" }), `${w.measured} `] : []), h("i", { class: "over" }), part.done ? w.band.replace("{}", part.samples) : w.unfinished);
  }

  async drawOver(slot, part, run) {
    await slot.truth;
    if (slot.wanted !== part.version) { return; }
    const buffer = await this.app.tried(this.app.bytes(`run/${run}/${part.file}`, { v: part.version }));
    if (buffer && slot.wanted === part.version) { slot.view.overlay(buffer, this.app.words.generated); this.app.painted("generated"); }
  }

  async truth(slot) { // the measured spectrum that the generated one is drawn over; alone if there is none, or it cannot be read
    const i = this.card.spectra.findIndex(s => s.survey === "desi"), about = this.card.spectra[i];
    slot.view.unit = "10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹";
    const buffer = about ? await this.app.tried(this.app.bytes(`spectrum/${this.row}/${i}.bin`)) : null;
    if (buffer) { slot.view.load(buffer, about); slot.measured = true; this.colourKey(slot); }
  }

  posterior(slot, part) {
    if (!part.curve) { return; }
    slot.begun = true;
    const w = this.app.words;
    if (!slot.made) { slot.canvas = h("canvas", { class: "curve", role: "img", "aria-label": w.posterior }); new ResizeObserver(() => this.drawPosterior(slot)).observe(slot.canvas); slot.caption = h("p", { class: "key" }); slot.root.replaceChildren(slot.canvas, slot.caption); slot.made = true; }
    slot.curve = part.curve;
    slot.caption.textContent = [part.curve.posterior ? "" : w.not_posterior, part.curve.beyond].filter(Boolean).join(" · ");
    this.drawPosterior(slot);
  }

  drawPosterior(slot) { if (slot.canvas.clientWidth) { drawCurve(slot.canvas, { ...slot.curve, veiled: this.veiled }, this.app.colours(), this.app.words); } }

  verdict(slot, check) { // does it agree with what it was made from?
    const w = this.app.words;
    slot.verdict.hidden = !check;
    if (check) { slot.verdict.replaceChildren(h("b", {}, check.consistent ? w.consistent : w.inconsistent), ` ${check.number}`); slot.verdict.classList.toggle("bad", !check.consistent); slot.verdict.title = check.why; }
  }

  numbers() {
    const w = this.app.words, parts = Object.values(this.parts), drawn = parts.filter(p => p.kind !== "scalar" && p.done);
    const settings = [...new Set(drawn.map(p => p.settings))].join("; "), counts = drawn.map(p => `${p.title}, ${p.samples} ${w.samples}`).join(" · ");
    this.small.replaceChildren(...(drawn.length ? [h("p", {}, counts), h("p", {}, `${settings} · ${w.seed} ${this.seed}`), h("p", {}, w.plausible)] : []),
      h("details", {}, h("summary", {}, w.how), h("ul", {}, ...parts.map(p => h("li", {}, p.origin)))));
  }

  veil() { this.veiled = !this.veiled; this.paint(); }

  paint() { // in the colours of now; when the strip is in the page
    this.root.classList.toggle("veiled", this.veiled);
    for (const slot of Object.values(this.slots ?? {})) {
      if (slot.view) { slot.view.colours = this.app.colours(); slot.view.veiled = this.veiled; slot.view.draw(); }
      if (slot.curve) { this.drawPosterior(slot); }
    }
  }
}
