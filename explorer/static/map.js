// The map: tiles on a canvas, panned and zoomed by hand, with the chosen object and its neighbours drawn on top.

const LIMIT = 700, MAX_ZOOM = 14, AHEAD = 28, TAP_RADIUS = 12, FREE = [36, 64, 20, 20]; // pixels of the edges, clockwise from the top, that the hint and the buttons need

export class SkyMap {
  // ask: {tile(layer, z, x, y) -> url, tap(x, y, radius) -> {row, id, x, y}}; on: {pick(x, y, radius), hover(hit, event), moved(view)}
  constructor(canvas, ask, on) {
    Object.assign(this, { canvas, ask, on, context: canvas.getContext("2d", { alpha: false }), tiles: new Map(), layers: [] });
    this.view = { x: 0, y: 0, scale: 1 };
    this.marks = { chosen: null, near: [], lit: null };
    this.pointers = new Map();
    this.pending = 0;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
  }

  // -- what is shown

  show(layer) { // layer: {key, extent: {x0, y0, side, box: [x0, x1, y0, y1] of the points}, ground: colour}
    const first = !this.layers.length, before = this.layer;
    if (before && before.key === layer.key) { return; }
    const same = before && before.map === layer.map;
    this.layers = same ? [...this.layers.slice(-1), layer] : [layer];
    this.layer = layer;
    if (first || !same || (this.untouched && !this.asked)) { this.fit(); } // a map that grows stays whole in view until a hand moves it
    this.redraw();
  }

  resize() {
    const box = this.canvas.parentElement.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    if (!box.width || !box.height) { return; }
    const before = this.width;
    Object.assign(this, { width: box.width, height: box.height, ratio });
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    if (this.layer && (!before || this.untouched)) {
      const { asked } = this;
      this.fit();
      if (asked) { this.setRange(asked); }
    }
    this.draw(); // at once: a new size has cleared the canvas, and the next frame would show it empty
  }

  fit() {
    if (!this.layer || !this.width) { return; }
    const [x0, x1, y0, y1] = this.layer.extent.box, least = this.layer.extent.side * 1e-3; // of a single point, or a row of them
    const [top, right, bottom, left] = FREE;
    this.fitted = this.clamp(Math.min((this.width - left - right) / Math.max(x1 - x0, least), (this.height - top - bottom) / Math.max(y1 - y0, least)));
    this.view = { x: (x0 + x1) / 2 + (right - left) / 2 / this.fitted, y: (y0 + y1) / 2 + (top - bottom) / 2 / this.fitted, scale: this.fitted };
    this.moved();
    this.untouched = true; // until a hand moves it, the whole map stays in view when the page changes its size
  }

  range() {
    const w = this.width / 2 / this.view.scale, h = this.height / 2 / this.view.scale;
    return [this.view.x - w, this.view.x + w, this.view.y - h, this.view.y + h];
  }

  setRange(asked) { // as in an address: kept in view, too, until a hand moves the map
    const [x0, x1, y0, y1] = asked;
    if (!(x1 > x0 && y1 > y0)) { return; }
    if (this.width) {
      this.view = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, scale: this.clamp(Math.min(this.width / (x1 - x0), this.height / (y1 - y0))) };
      this.moved();
    }
    Object.assign(this, { asked, untouched: true });
  }

  clamp(scale) {
    const least = Math.min(this.width, this.height) / this.layer.extent.side / 3;
    return Math.max(least, Math.min(scale, least * 3 * 2 ** (MAX_ZOOM - 1)));
  }

  toScreen(x, y) { return [(x - this.view.x) * this.view.scale + this.width / 2, (this.view.y - y) * this.view.scale + this.height / 2]; }
  toMap(px, py) { return [(px - this.width / 2) / this.view.scale + this.view.x, this.view.y - (py - this.height / 2) / this.view.scale]; }

  centre(x, y) { // bring a place into view, without moving if it is there already
    const [px, py] = this.toScreen(x, y), edge = 14;
    if (px > edge && py > edge && px < this.width - edge && py < this.height - edge) { return; }
    this.view.x = x; this.view.y = y;
    this.moved();
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = this.toMap(px, py), scale = this.clamp(this.view.scale * factor);
    this.view = { scale, x: x - (px - this.width / 2) / scale, y: y + (py - this.height / 2) / scale };
    this.moved();
  }

  moved() { Object.assign(this, { untouched: false, asked: null }); this.redraw(); this.on.moved?.(this.range()); }

  // -- drawing

  redraw() {
    if (this.queued) { return; }
    this.queued = requestAnimationFrame(() => { this.queued = 0; this.draw(); });
  }

  level(layer) { return Math.max(0, Math.min(MAX_ZOOM, Math.ceil(Math.log2(layer.extent.side * this.view.scale * this.ratio / 512)))); }

  draw() {
    if (!this.layer || !this.width) { return; }
    const c = this.context;
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    c.fillStyle = this.layer.ground;
    c.fillRect(0, 0, this.width, this.height);
    c.imageSmoothingEnabled = true;
    c.imageSmoothingQuality = "medium";
    let whole = true;
    for (const layer of this.layers) { whole = this.drawLayer(c, layer, layer === this.layer); }
    if (whole && this.layers.length > 1) { this.layers = [this.layer]; }
    this.sharp = whole;
    this.drawMarks(c);
    clearTimeout(this.idle);
    if (whole) { this.idle = setTimeout(() => this.lookAhead(), 120); }
  }

  drawLayer(c, layer, load) {
    const z = this.level(layer);
    let whole = true;
    for (const [x, y] of this.visible(layer, z)) {
      const tile = load ? this.tile(layer, z, x, y) : this.tiles.get(`${layer.key}/${z}/${x}/${y}`);
      if (tile?.ready) { this.paint(c, layer, tile.image, z, x, y, 0, 0, 1); } else {
        whole = false;
        this.standIn(c, layer, z, x, y);
      }
    }
    return whole;
  }

  standIn(c, layer, z, x, y) { // a coarser tile, stretched; or finer ones, while zooming out
    for (let up = 1; up <= z; up++) {
      const tile = this.tiles.get(`${layer.key}/${z - up}/${x >> up}/${y >> up}`);
      if (tile?.ready) {
        const part = 1 / 2 ** up;
        this.paint(c, layer, tile.image, z, x, y, (x - ((x >> up) << up)) * part, 1 - (y - ((y >> up) << up) + 1) * part, part);
        break;
      }
    }
    for (const [dx, dy] of [[0, 0], [1, 0], [0, 1], [1, 1]]) {
      const tile = this.tiles.get(`${layer.key}/${z + 1}/${2 * x + dx}/${2 * y + dy}`);
      if (tile?.ready) { this.paint(c, layer, tile.image, z + 1, 2 * x + dx, 2 * y + dy, 0, 0, 1); }
    }
  }

  paint(c, layer, image, z, x, y, u, v, part) {
    const size = layer.extent.side / 2 ** z, n = image.width;
    const [left, top] = this.toScreen(layer.extent.x0 + x * size, layer.extent.y0 + (y + 1) * size);
    // Rounded edges meet without a hair between them.
    const r = this.ratio, a = Math.round(left * r) / r, b = Math.round(top * r) / r;
    const w = Math.round((left + size * this.view.scale) * r) / r - a, h = Math.round((top + size * this.view.scale) * r) / r - b;
    c.drawImage(image, u * n, v * n, part * n, part * n, a, b, w, h);
  }

  visible(layer, z, grow = 0) {
    const [x0, x1, y0, y1] = this.range(), { extent } = layer, size = extent.side / 2 ** z, last = 2 ** z - 1, out = [];
    const from = v => Math.max(0, Math.floor(v) - grow), to = v => Math.min(last, Math.floor(v) + grow);
    for (let y = from((y0 - extent.y0) / size); y <= to((y1 - extent.y0) / size); y++) {
      for (let x = from((x0 - extent.x0) / size); x <= to((x1 - extent.x0) / size); x++) { out.push([x, y]); }
    }
    return out;
  }

  tile(layer, z, x, y) {
    const key = `${layer.key}/${z}/${x}/${y}`;
    let tile = this.tiles.get(key);
    if (tile) { this.tiles.delete(key); this.tiles.set(key, tile); return tile; }
    tile = { ready: false, image: new Image() };
    tile.image.crossOrigin = "anonymous";
    this.pending++;
    tile.image.onload = () => { tile.ready = true; this.pending--; this.redraw(); };
    tile.image.onerror = () => { this.pending--; this.tiles.delete(key); setTimeout(() => { if (this.canvas.isConnected) { this.redraw(); } }, 1500); };
    tile.image.src = this.ask.tile(layer, z, x, y);
    this.tiles.set(key, tile);
    if (this.tiles.size > LIMIT) { this.tiles.delete(this.tiles.keys().next().value); }
    return tile;
  }

  lookAhead() { // while the hand rests: the next level around the pointer, and a ring around the view
    if (this.pending || !this.layer) { return; }
    const z = this.level(this.layer), [px, py] = this.toMap(...(this.last || [this.width / 2, this.height / 2]));
    for (const [x, y] of this.visible(this.layer, z, 1)) { this.tile(this.layer, z, x, y); }
    if (z >= MAX_ZOOM) { return; }
    const size = this.layer.extent.side / 2 ** (z + 1);
    const far = ([x, y]) => Math.hypot((x + 0.5) * size + this.layer.extent.x0 - px, (y + 0.5) * size + this.layer.extent.y0 - py);
    this.visible(this.layer, z + 1).sort((a, b) => far(a) - far(b)).slice(0, AHEAD).forEach(([x, y]) => this.tile(this.layer, z + 1, x, y));
  }

  drawMarks(c) {
    const { chosen, near, lit } = this.marks;
    c.font = "600 11px system-ui, sans-serif"; c.textAlign = "center"; c.textBaseline = "middle";
    if (chosen) {
      const [x, y] = this.toScreen(...chosen);
      c.lineWidth = 1; c.strokeStyle = this.layer.quiet;
      for (const place of near) {
        if (!place) { continue; }
        const [nx, ny] = this.toScreen(...place);
        c.beginPath(); c.moveTo(x, y); c.lineTo(nx, ny); c.stroke();
      }
      for (const [radius, width, colour] of [[12, 5, "#000"], [12, 2.5, "#fff"]]) {
        c.beginPath(); c.arc(x, y, radius, 0, 7); c.lineWidth = width; c.strokeStyle = colour; c.stroke();
      }
      near.forEach((place, i) => {
        if (!place) { return; }
        const [nx, ny] = this.toScreen(...place);
        c.beginPath(); c.arc(nx, ny, 8, 0, 7); c.fillStyle = this.layer.panel; c.fill();
        c.lineWidth = lit === i ? 3 : 1.5; c.strokeStyle = this.layer.accent; c.stroke();
        c.fillStyle = this.layer.text; c.fillText(String(i + 1), nx, ny + 0.5);
      });
    }
    if (this.hovered) {
      const [x, y] = this.toScreen(...this.hovered);
      c.beginPath(); c.arc(x, y, 6, 0, 7); c.lineWidth = 1.5; c.strokeStyle = this.layer.accent; c.stroke();
    }
  }

  // -- the hand

  place(event) { const box = this.canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 30 : 1;
      this.zoom(2 ** (-event.deltaY * lines / 240), ...this.place(event));
      this.unhover();
    }, { passive: false });
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.place(event));
      this.travelled = 0;
    });
    canvas.addEventListener("pointermove", event => this.pointerMove(event));
    const up = event => {
      const was = this.pointers.delete(event.pointerId);
      if (was && event.type === "pointerup" && this.travelled < 4 && !this.pointers.size && event.button === 0) { this.pick(...this.place(event)); }
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => this.unhover());
  }

  pointerMove(event) {
    const now = this.place(event), before = this.pointers.get(event.pointerId);
    this.last = now;
    if (!before) { this.hoverSoon(now, event); return; }
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const ratio = Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1]));
      this.zoom(ratio, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      this.travelled = 99;
    } else {
      this.travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (this.travelled >= 4) {
        this.view.x -= (now[0] - before[0]) / this.view.scale;
        this.view.y += (now[1] - before[1]) / this.view.scale;
        this.moved();
      }
    }
    this.pointers.set(event.pointerId, now);
    this.unhover();
  }

  pick(px, py) {
    this.unhover();
    this.on.pick(...this.toMap(px, py), TAP_RADIUS / this.view.scale);
  }

  hoverSoon(at, event) {
    clearTimeout(this.hovering);
    if (this.hovered && Math.hypot(at[0] - this.hoverAt[0], at[1] - this.hoverAt[1]) > 6) { this.unhover(); }
    this.hovering = setTimeout(async () => {
      const hit = await this.ask.tap(...this.toMap(...at), 8 / this.view.scale).catch(() => null); // the next one may work
      if (!hit || hit.row === null || this.pointers.size || this.last !== at) { return; }
      this.hovered = [hit.x, hit.y]; this.hoverAt = at;
      this.on.hover?.(hit, event);
      this.redraw();
    }, 80);
  }

  unhover() {
    clearTimeout(this.hovering);
    if (!this.hovered) { return; }
    this.hovered = null;
    this.on.hover?.(null);
    this.redraw();
  }
}
