// The page: what is chosen, what is shown, and the address that says so. Everything is asked of our own server.

import { Card } from "./card.js";
import { h, replaced } from "./dom.js";
import { SkyMap } from "./map.js";
import { Strip } from "./strip.js";

const KEYS = [["/", "search"], ["click", "choose an object"], ["1 … 8", "go to neighbour"], ["← →", "previous, next neighbour"], ["Enter", "open it"], ["↑ ↓", "follow it, come back"], ["+ − 0", "zoom, whole map"],
  ["s", "surprise me"], ["c", "copy the position"], ["d", "dark or light"], ["f", "fold the card"], ["Ctrl Enter", "generate, stop"], ["v", "hide or show what was measured beside it"], ["Esc", "stop, close"]];
const THEMES = ["dark", "light"];
const HINT = "Each dot is an object; neighbours look alike to the model. Click one.";
const HINTS = { sky: "Each dot is an object where it stands on the sky, north up, east left. Click one.", arrival: "Each dot is an object, in the order of arrival. Click one." };

export async function start({ model, el, page }) {
  const base = new URL(model.base, location.href).href;
  const root = h("div", { class: "desk", tabindex: "-1" });
  await new Promise(done => { const link = h("link", { rel: "stylesheet", href: `${base}static/desk.css` }); link.onload = link.onerror = done; el.append(link); });
  Object.assign(el.style, { containerType: "size", contain: "layout" }); // the layout goes by the room there is; what is fixed is so in it
  el.append(root);
  const app = new Desk(root, base, model, page);
  if (page) { window.omnisky = app; }
  await app.begin();
  return app;
}

function pollLater(desk, ms) { // a clock keeps no desk alive that is gone
  const seen = new WeakRef(desk);
  setTimeout(() => seen.deref()?.poll(), ms);
}

class Desk {
  constructor(root, base, model, page) {
    Object.assign(this, { root, base, model, page, times: {} });
    this.state = { map: null, colour: null, query: "image", among: "spectrum", row: null, id: null, view: null };
    this.spaces = ["image", "spectrum"]; this.lines = []; this.asked = 0; this.askedNear = 0; this.askedLegend = 0; this.wished = 0; // how often, to know late answers
    const asked = page ? new URLSearchParams(location.search) : new URLSearchParams();
    let kept = null;
    try { kept = localStorage.getItem("omnisky-theme"); } catch { /* private windows keep nothing */ }
    this.wanted = asked.get("map"); this.mapByHand = false;
    this.theme = [asked.get("theme"), kept].find(theme => THEMES.includes(theme)) ?? THEMES[0];
    root.dataset.theme = this.theme;
    this.build();
  }

  // -- asking

  url(path, query) { const u = new URL(path, this.base); for (const [k, v] of Object.entries(query || {})) { u.searchParams.set(k, v); } return u.href; }

  async ask(path, query, method = "GET") { return (await this.answered(path, query, method)).json(); }

  async bytes(path, query) { return (await this.answered(path, query, "GET")).arrayBuffer(); }

  async answered(path, query, method) {
    const answer = await fetch(this.url(path, query), { method }).catch(() => { throw new Error("The server does not answer."); });
    if (answer.ok) { return answer; }
    const { error } = await answer.json().catch(() => ({})); // what stands between us and the server may answer in HTML
    throw Object.assign(new Error(error || `${answer.status} ${answer.statusText}`), { status: answer.status, ours: Boolean(error) });
  }

  async wish(asked) { // as `tried`, for what leads to an object; undefined if something else was wanted meanwhile
    const wished = ++this.wished, answer = await this.tried(asked);
    return wished === this.wished ? answer : undefined;
  }

  async tried(asked) { // null if it failed, which is said
    try { return await asked; } catch (error) { this.say(error.message); return null; }
  }

  // -- the frame

  build() {
    this.search = h("input", { type: "search", placeholder: "id, row, J1000+0212, or 150.1 +2.2", "aria-label": "search", spellcheck: "false" });
    this.search.onkeydown = e => { if (e.key === "Enter") { this.find(this.search.value); } if (e.key === "Escape") { this.root.focus(); this.reading.replaceChildren(); } };
    this.reading = h("div", { class: "reading", "aria-live": "polite" });
    this.count = h("span", { class: "chip" }); this.job = h("span", { class: "chip job", hidden: "" });
    this.header = h("header", { class: "top" }, h("h1", {}, h("span", { class: "logo" }), "Omnisky"), h("div", { class: "find" }, this.search, this.reading), h("span", { class: "gap" }), this.job, this.count,
      h("button", { title: "A random object, bright ones more often (s)", onclick: () => this.surprise() }, "surprise me"),
      h("button", { title: "dark or light (d)", "aria-label": "dark or light", class: "icon", onclick: () => this.toggleTheme() }, "◐"), h("button", { title: "keys (?)", "aria-label": "keys", class: "icon", onclick: () => this.help() }, "?"));
    this.notice = h("div", { class: "notice", role: "status", hidden: "" });
    this.mapChoice = h("div", { class: "switch", role: "group", "aria-label": "map" });
    this.colourChoice = h("select", { "aria-label": "colour by", onchange: () => this.setColour(this.colourChoice.value) });
    this.legend = h("div", { class: "legend" });
    this.canvas = h("canvas", { class: "map", tabindex: "0", "aria-label": "map of the objects; use search or the neighbours for the keyboard" });
    this.tip = h("div", { class: "tip", hidden: "" }); this.hint = h("p", { class: "hint" }, HINT);
    const zoom = (text, title, act) => h("button", { class: "icon", title, "aria-label": title, onclick: act }, text);
    const tools = h("div", { class: "zoom" }, zoom("+", "zoom in (+)", () => this.map.zoom(2)), zoom("−", "zoom out (−)", () => this.map.zoom(0.5)), zoom("⤢", "whole map (0)", () => this.map.fit()));
    this.wait = h("div", { class: "wait", hidden: "" });
    this.centre = h("section", { class: "centre", "aria-label": "the map" }, h("div", { class: "bar" }, this.mapChoice, h("label", {}, "colour", this.colourChoice), this.legend), h("div", { class: "mapbox" }, this.canvas, tools, this.hint, this.tip, this.wait));
    this.strip = new Strip(h("section", { class: "strip", "aria-label": "neighbours" }), this);
    this.card = new Card(h("aside", { class: "card", "aria-label": "the current object" }), this);
    this.live = h("div", { class: "live", "aria-live": "polite" }); this.toast = h("div", { class: "toast", role: "status", hidden: "" });
    this.root.append(this.header, this.notice, this.centre, this.card.root, this.strip.root, this.live, this.toast);
    this.map = new SkyMap(this.canvas, { tile: (l, z, x, y) => this.url(`tile/${l.map}/${l.version}/${encodeURIComponent(l.colour)}/${l.theme}/${z}/${x}/${y}.png`), tap: (x, y, r) => this.tap(x, y, r) },
      { pick: (x, y, r) => this.pick(x, y, r), hover: (hit, event) => this.hover(hit, event), moved: view => { this.state.view = view; this.writeLater(); } });
    this.root.addEventListener("pointerdown", () => { this.hint.hidden = true; }, { once: true });
    (this.page ? document : this.root).addEventListener("keydown", e => this.key(e)); // a notebook has keys of its own
    if (this.page) { window.addEventListener("popstate", () => this.readAddress()); }
  }

  colours() {
    const style = getComputedStyle(this.root), v = name => style.getPropertyValue(name).trim();
    return { theme: this.theme, data: v("--data"), band: v("--band"), quiet: v("--quiet"), rule: v("--rule"), emission: v("--accent"), absorption: v("--absorption"), text: v("--text"), generated: v("--generated") };
  }

  // -- the beginning, and a sky that grows

  async begin() {
    try { await this.load(); } catch (error) {
      this.now = { version: null, objects: 0, maps: [], progress: { running: false, error: error.message } };
      this.waiting(this.now);
    }
    this.poll();
  }

  async load() {
    const start = await this.ask("start.json");
    Object.assign(this, { name: start.name, columns: start.columns, lines: start.lines, words: start.words, first: start.first });
    if (start.spaces.length) { this.spaces = start.spaces; }
    this.comparable = start.comparable || {};
    if (this.comparable[this.state.query]?.includes(this.state.among) === false) { this.state.among = this.state.query; }
    this.take(start);
  }

  take(now) { // now: an answer of state.json
    const before = this.now;
    this.now = now;
    this.count.textContent = `${this.name ?? ""} · ${now.objects.toLocaleString("en").replaceAll(",", " ")} objects`;
    this.waiting(now);
    if (!now.maps.length || !this.columns?.length) { return; }
    const offered = JSON.stringify([now.maps, this.columns, this.spaces, this.comparable]), changed = offered !== this.offered;
    this.offered = offered;
    if (!this.state.map) { this.choices(now); this.readAddress(true); return; }
    if (this.awaited && (now.objects !== before?.objects || !now.progress.running)) { this.awaitedIsThere(now); }
    if (changed) { this.preferMap(now); this.choices(now); this.paintMap(); this.drawLegend(); this.neighbours(); }
  }

  preferMap(now) { // while a sky is made its maps come one by one: show the one that was asked for, or the best there is
    const wanted = this.wanted ?? now.maps[0].name;
    if (!this.mapByHand && now.maps.some(m => m.name === wanted)) { this.state.map = wanted; }
  }

  async poll() {
    if (!this.root.isConnected) { pollLater(this, 5000); return; } // a notebook's cell that is gone, or comes back
    const busy = () => this.now.progress.running || !this.now.maps.length;
    try {
      const now = await this.ask("state.json");
      if (now.version !== this.now.version) { await this.load(); } else { this.take(now); }
      if (this.lost) { this.lost = false; this.say("connected again"); }
    } catch (error) {
      if (error.status === 404 && !error.ours && this.page) { location.reload(); return; } // the server was started again, under another path
      this.failed(error);
    }
    pollLater(this, busy() ? 1000 : 5000);
  }

  failed(error) { // of a poll: what the server says stays on the page until it says something better
    if (error.status) { this.waiting({ ...this.now, progress: { running: false, error: error.message } }); return; }
    if (!this.lost) { this.lost = true; this.say("Connection lost, trying again. The page stays readable."); }
  }

  waiting({ progress, maps, objects, damaged = [] }) {
    const percent = Math.round(100 * (progress.fraction || 0)), error = progress.error || (progress.running ? "" : damaged.join(" ")); // while there is work, damaged maps are made again
    this.job.hidden = !(progress.running && maps.length);
    this.job.textContent = `${percent} % · ${progress.note || ""}`;
    this.notify(maps.length ? error : "");
    this.wait.hidden = maps.length > 0;
    if (maps.length) { return; }
    const words = error || progress.note || (objects ? "This sky has no map yet." : "This sky is empty.");
    const help = error || progress.running ? [] : [h("p", {}, "Run "), h("pre", {}, progress.remedy || "omnisky embed SKY && omnisky map SKY && omnisky index SKY")];
    this.wait.replaceChildren(h("div", { class: error ? "box bad" : "box" }, h("h2", {}, error ? "This did not work" : progress.running ? "The sky is being made" : "Nothing to show yet"), h("p", {}, words),
      ...(progress.running ? [h("progress", { max: 100, value: percent }), h("p", { class: "quiet" }, `${percent} % · the map appears here by itself`)] : []), ...help));
  }

  notify(error) { // a line of its own until the reason is gone, or a hand has closed it
    if (error === this.noticed) { return; }
    this.noticed = error;
    this.notice.hidden = !error;
    this.notice.replaceChildren(h("p", {}, error || ""), h("button", { class: "quiet", "aria-label": "close", onclick: () => { this.notice.hidden = true; } }, "✕"));
  }

  choices(now) {
    const names = JSON.stringify([now.maps.map(m => m.name), this.columns]);
    if (names !== this.listed) { // else what has the focus, or is open, stays
      this.listed = names;
      replaced(this.mapChoice, this.root, () => this.mapChoice.replaceChildren(...now.maps.map(m => h("button", { "data-name": m.name, onclick: () => this.setMap(m.name) }, m.title))));
      this.colourChoice.replaceChildren(...this.columns.map(c => h("option", { value: c.name }, c.title)));
    }
    now.maps.forEach((m, i) => { this.mapChoice.children[i].title = `${m.placed.toLocaleString("en")} objects`; });
    if (!now.maps.some(m => m.name === this.state.map)) { this.state.map = now.maps[0].name; }
    if (!this.columns.some(c => c.name === this.state.colour)) { this.state.colour = (this.columns.find(c => c.name === "z") || this.columns[0]).name; }
    this.marked();
  }

  marked() {
    this.hint.textContent = HINTS[this.state.map] ?? HINT;
    for (const b of this.mapChoice.children) { const on = b.dataset.name === this.state.map; b.classList.toggle("on", on); b.setAttribute("aria-pressed", on); }
    this.colourChoice.value = this.state.colour;
  }

  // -- the map

  paintMap() {
    const m = this.now.maps.find(x => x.name === this.state.map), style = getComputedStyle(this.root), v = n => style.getPropertyValue(n).trim();
    if (!m) { return; }
    const { colour } = this.state;
    this.map.show({ key: `${m.name}/${m.version}/${colour}/${this.theme}`, map: m.name, version: m.version, colour, theme: this.theme, extent: m,
      ground: v("--ground"), accent: v("--accent"), quiet: v("--quiet"), panel: v("--panel"), text: v("--text") });
  }

  setMap(name) { this.mapByHand = true; this.state.map = name; this.marked(); this.paintMap(); this.drawLegend(); this.neighbours(); this.write(); }
  setColour(name) { this.state.colour = name; this.marked(); this.paintMap(); this.drawLegend(); this.write(); }

  async drawLegend() {
    const asked = ++this.askedLegend, { map, colour } = this.state, l = await this.tried(this.ask("legend.json", { map, colour, theme: this.theme }));
    if (asked !== this.askedLegend) { return; }
    if (!l) { this.legend.replaceChildren(); return; } // none is better than that of other colours
    const unknown = l.unknown ? [h("span", { class: "unknown" }, `${l.unknown.toLocaleString("en")} without a value`)] : [];
    if (l.scale === "class") {
      const shown = l.classes.slice(0, 9), rest = l.classes.length - shown.length;
      this.legend.replaceChildren(...shown.map(c => h("span", { class: "class" }, h("i", { style: `background:${c.colour}` }), `${c.name} ${c.count.toLocaleString("en")}`)), ...(rest > 0 ? [`and ${rest} more`] : []), ...unknown);
    } else if (l.scale === "density") {
      this.legend.replaceChildren("few", h("i", { class: "ramp", style: `background:linear-gradient(90deg,${l.ramp.join()})` }), "many");
    } else {
      const text = v => (Math.abs(v) < 1e-3 * (l.high - l.low) ? "0" : Math.abs(v) >= 1e4 || Math.abs(v) < 1e-3 ? v.toExponential(1) : String(+v.toPrecision(3)));
      this.legend.replaceChildren((l.below ? "≤ " : "") + text(l.low), h("i", { class: "ramp", style: `background:linear-gradient(90deg,${l.ramp.join()})` }), (l.above ? "≥ " : "") + text(l.high), h("span", { class: "unit" }, l.unit + (l.log ? " (log)" : "")), ...unknown);
    }
  }

  tap(x, y, r) { return this.ask("tap.json", { map: this.state.map, x, y, r }); }

  async pick(x, y, r) {
    const hit = await this.wish(this.tap(x, y, r));
    if (hit && hit.row !== null) { this.go(hit.row); }
  }

  hover(hit, event) {
    this.tip.hidden = !hit;
    if (!hit) { return; }
    const box = this.canvas.getBoundingClientRect(), right = event.clientX - box.left > box.width - 170;
    this.tip.replaceChildren(hit.picture === null ? "" : h("img", { src: this.url(`picture/${hit.row}/${hit.picture}.png`), alt: "" }), h("span", {}, hit.id));
    this.tip.style.left = `${event.clientX - box.left + (right ? -140 : 16)}px`;
    this.tip.style.top = `${Math.min(event.clientY - box.top + 12, box.height - 150)}px`;
  }

  // -- objects

  async go(row, { push = true, stay = false } = {}) {
    const asked = ++this.asked, began = performance.now();
    this.times = { began };
    this.wished++;
    this.state.row = row;
    if (push) { this.awaited = null; }
    const askedNear = ++this.askedNear, near = this.fetchNear(row), card = await this.tried(this.ask(`object/${row}.json`));
    if (asked !== this.asked) { return; }
    if (!card) { this.state.row = this.model.row = this.card.card?.row ?? null; this.neighbours(); return; } // what was shown stays
    this.state.id = card.id;
    this.card.show(card);
    this.painted("card");
    this.live.textContent = `Selected ${card.id}${card.z === null ? "" : `, redshift ${card.z.toFixed(3)}`}`;
    this.write(push); // also where an address led: it may have been written meanwhile, without its object
    this.model.row = row;
    this.showNear(await near, askedNear, stay);
  }

  fetchNear(row) {
    const { query, among, map } = this.state, none = error => [{ row, neighbours: [], dropped: 0, note: error.message, instead: null }, [null]];
    return Promise.all([this.ask(`near/${row}.json`, { query, among, k: 8, map: map || "" }), map ? this.ask("where.json", { map, rows: row }) : [null]]).catch(none);
  }

  showNear([answer, [place]], askedNear, stay) { // stay: the map stays where the address or a hand has put it
    if (askedNear !== this.askedNear) { return; }
    this.answer = answer;
    this.step = -1;
    this.strip.show(answer);
    this.map.marks = { chosen: place, near: answer.neighbours.map(n => n.place), lit: null };
    if (place && !stay) { this.map.centre(...place); }
    this.map.redraw();
    this.painted("neighbours");
  }

  async neighbours() {
    const askedNear = ++this.askedNear;
    if (this.state.row === null) { return; }
    this.showNear(await this.fetchNear(this.state.row), askedNear, true);
  }

  direct(query, among) { Object.assign(this.state, { query, among }); this.neighbours(); this.write(); }
  light(i) { this.map.marks.lit = i; this.map.redraw(); }
  painted(what) { this.times[what] = performance.now() - this.times.began; }

  async surprise() {
    const found = await this.wish(this.ask("surprise.json", { seed: Math.floor(Math.random() * 2 ** 31) }));
    if (found) { this.go(found.row); }
  }

  async find(text) {
    if (!text.trim()) { return; }
    const found = await this.wish(this.ask("find.json", { q: text }));
    if (!found) { return; }
    clearTimeout(this.read);
    const nearest = found.row === null && found.nearest !== null && found.nearest !== undefined ? [h("button", { onclick: () => { this.root.focus(); this.reading.replaceChildren(); this.go(found.nearest); } }, "open the nearest")] : [];
    this.reading.replaceChildren(h("span", {}, found.reading), ...nearest);
    if (found.row !== null) { this.root.focus(); this.go(found.row); this.read = setTimeout(() => this.reading.replaceChildren(), 4000); }
  }

  // -- the address

  address() {
    const s = this.state, q = new URLSearchParams();
    if (s.map) { q.set("map", s.map); }
    if (s.colour) { q.set("c", s.colour); }
    if (this.awaited || s.id) { q.set("o", this.awaited || s.id); }
    q.set("near", `${s.query}-${s.among}`);
    if (s.view && this.map.fitted && Math.abs(this.map.view.scale / this.map.fitted - 1) > 1e-3) { q.set("view", s.view.map(v => +v.toPrecision(6)).join()); }
    if (this.theme !== "dark") { q.set("theme", this.theme); }
    return `${location.pathname}?${q}`;
  }

  write(push = false) {
    if (!this.page) { return; }
    clearTimeout(this.writing);
    const address = this.address();
    if (push && new URLSearchParams(location.search).get("o") !== this.state.id) { history.pushState({ walked: this.walked + 1 }, "", address); } else { history.replaceState(history.state, "", address); }
  }

  get walked() { return history.state?.walked ?? 0; } // objects since the page was opened: so many steps back stay on it

  writeLater() { clearTimeout(this.writing); this.writing = setTimeout(() => this.write(), 300); }

  async readAddress(first = false) {
    const q = this.page ? new URLSearchParams(location.search) : new URLSearchParams(), s = this.state, unknown = [...q.keys()].filter(k => !["map", "c", "o", "near", "view", "theme"].includes(k));
    if (this.now.maps.some(m => m.name === q.get("map"))) { s.map = q.get("map"); }
    if (this.columns.some(c => c.name === q.get("c"))) { s.colour = q.get("c"); }
    const [a, b] = (q.get("near") || "").split("-");
    if (this.spaces.includes(a) && this.spaces.includes(b)) { Object.assign(s, { query: a, among: b }); }
    this.marked(); this.paintMap(); this.drawLegend();
    const view = (q.get("view") || "").split(",").map(Number);
    const stay = view.length === 4 && view.every(Number.isFinite);
    if (stay) { this.map.setRange(view); }
    if (first && unknown.length) { this.say(`The address has parts we do not know: ${unknown.join(", ")}`); }
    let row = this.page ? null : this.model.row ?? null;
    this.awaited = q.get("o"); // the address keeps it while it is asked for; if that fails, it is asked for again
    const found = q.get("o") ? await this.wish(this.named(q.get("o"))) : null;
    if (found === undefined) { return; }
    if (found) { ({ row } = found); this.awaited = null; if (row === null) { this.missing(q.get("o")); } }
    if (row === null && first) { row = this.first; }
    if (row !== null && row !== s.row) { await this.go(row, { push: false, stay }); if (first) { this.write(); } }
  }

  async named(id) { // what an address means: objects by their ids, so that digits are never a row
    const found = await this.ask("find.json", { q: id });
    return /^\d+$/.test(id) && found.id !== id ? { ...found, row: null } : found;
  }

  missing(id) { // an object of the address: in a sky that grows it may come yet
    this.awaited = this.now.progress.running ? id : null;
    this.say(this.awaited ? `${id} is not in the sky yet; it opens as soon as it is` : `No object is called ${id}`);
  }

  async awaitedIsThere(now) {
    const id = this.awaited, found = await this.tried(this.named(id));
    if (!found || this.awaited !== id) { return; } // another one was chosen meanwhile
    const { row } = found;
    if (row !== null) { this.awaited = null; if (row !== this.state.row) { this.go(row, { push: false }); } } else if (!now.progress.running) { this.missing(id); this.write(); }
  }

  // -- the rest

  toggleTheme() {
    this.theme = this.theme === "dark" ? "light" : "dark";
    this.root.dataset.theme = this.theme;
    try { localStorage.setItem("omnisky-theme", this.theme); } catch { /* private windows keep nothing */ }
    this.paintMap(); this.drawLegend(); this.card.repaint(); this.strip.repaint(); this.write();
  }

  say(words) { this.toast.hidden = false; this.toast.textContent = words; clearTimeout(this.saying); this.saying = setTimeout(() => { this.toast.hidden = true; }, 5000); }

  help() {
    const open = this.root.querySelector(".help");
    if (open) { open.remove(); (this.root.contains(this.before) ? this.before : this.root).focus({ preventScroll: true }); return; }
    this.before = this.root.getRootNode().activeElement;
    const help = h("div", { class: "help", role: "dialog", "aria-label": "keys", tabindex: "-1", onclick: () => this.help() }, h("table", {}, ...KEYS.map(([key, what]) => h("tr", {}, h("th", {}, key), h("td", {}, what)))));
    this.root.append(help);
    help.focus();
  }

  key(event) {
    const target = event.composedPath()[0];
    if (this.root.querySelector(".help") && !["Escape", "?"].includes(event.key)) { // nothing acts behind it
      if (event.key === "Tab") { event.preventDefault(); }
      return;
    }
    if (event.key === "Enter" && event.ctrlKey) {
      if (target !== this.search) { event.preventDefault(); this.card.generate.press(); } // there it searches
      return;
    }
    if (["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName) || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) { return; }
    const near = this.answer?.neighbours || [], step = d => { if (near.length) { this.step = (this.step + d + near.length + (this.step === -1 && d < 0 ? 1 : 0)) % near.length; this.light(this.step); this.strip.follow(this.step); } };
    const acts = { "/": () => this.search.focus(), "?": () => this.help(), "+": () => this.map.zoom(2), "=": () => this.map.zoom(2), "-": () => this.map.zoom(0.5), 0: () => this.map.fit(), d: () => this.toggleTheme(), s: () => this.surprise(), c: () => this.card.copy(), v: () => this.card.generate.veil(),
      f: () => this.root.classList.toggle("folded"), ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowUp: () => near.length && this.go(near[Math.max(this.step, 0)].row), ArrowDown: () => this.page && this.walked && history.back(),
      Escape: () => { if (this.root.querySelector(".help")) { this.help(); } else { this.card.generate.stop(); this.reading.replaceChildren(); } } };
    const lit = near[this.map.marks.lit];
    if (lit && !target.closest("button, summary")) { acts.Enter = () => this.go(lit.row); } // Enter on a button is a click
    const act = acts[event.key] || (/^[1-9]$/.test(event.key) && near[event.key - 1] ? () => this.go(near[event.key - 1].row) : null);
    if (act) { event.preventDefault(); act(); }
  }
}
