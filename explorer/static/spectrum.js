// A spectrum on a canvas: steps, noise band, line markers that follow a redshift, both wavelength axes. No round trips.

const LEFT = 46, RIGHT = 10, TOP = 18, LABELS = 28, BOTTOM = 30; // LABELS: two rows of line names inside the frame

export class SpectrumView {
  constructor(canvas, lines, colours) {
    Object.assign(this, { canvas, lines, colours, z: null, smooth: 3 });
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  load(buffer, about) {
    const all = new Float32Array(buffer), n = all.length / 4;
    [this.wave, this.flux, this.sigma, this.bad] = [0, 1, 2, 3].map(i => all.subarray(i * n, (i + 1) * n));
    this.about = about;
    this.whole = [this.wave[0], this.wave[n - 1]];
    this.range = [...this.whole];
    this.boxcar();
    this.draw();
  }

  overlay(buffer, word) { // what was generated: median and quantiles, drawn over the measurement; word: the mark
    const all = new Float32Array(buffer), n = all.length / 4, [wave, middle, low, high] = [0, 1, 2, 3].map(i => all.subarray(i * n, (i + 1) * n));
    this.over = { wave, middle, low, high, word };
    if (!this.flux) { this.load(new Float32Array([...wave, ...new Float32Array(2 * n), ...new Float32Array(n).fill(1)]).buffer, { calibrated: true, unit: this.unit }); }
    this.draw();
  }

  boxcar() { // running mean over the good pixels
    const n = this.flux.length, half = (this.smooth - 1) / 2, out = new Float32Array(n), sum = new Float64Array(n + 1), count = new Float64Array(n + 1);
    for (let i = 0; i < n; i++) { const good = this.bad[i] ? 0 : 1; sum[i + 1] = sum[i] + good * this.flux[i]; count[i + 1] = count[i] + good; }
    for (let i = 0; i < n; i++) {
      const a = Math.max(0, i - half), b = Math.min(n, i + half + 1), c = count[b] - count[a];
      out[i] = c ? (sum[b] - sum[a]) / c : NaN;
    }
    this.shown = out;
    this.limits = null;
  }

  setRedshift(z) { this.z = z; this.draw(); }
  setSmooth(pixels) { this.smooth = pixels; if (this.flux) { this.boxcar(); this.draw(); } }

  fluxLimits(first, last) {
    const some = [];
    for (let i = first; i < last; i++) { if (Number.isFinite(this.shown[i])) { some.push(this.shown[i]); } }
    if (!some.length) { return [0, 1]; }
    some.sort((a, b) => a - b);
    const low = some[Math.floor(some.length * 0.01)], high = some[Math.min(some.length - 1, Math.floor(some.length * 0.9985))];
    const spread = high - low || Math.abs(high) || 1; // fluxes may be of any size, such as 1e-17, but all the same
    return [Math.min(0, low) - 0.04 * spread, high + 0.08 * spread];
  }

  draw() {
    if (!this.flux || !this.canvas.clientWidth) { return; }
    const ratio = window.devicePixelRatio || 1, w = this.canvas.clientWidth, h = this.canvas.clientHeight;
    this.canvas.width = w * ratio; this.canvas.height = h * ratio;
    const c = this.canvas.getContext("2d");
    c.scale(ratio, ratio);
    const [lo, hi] = this.range, first = this.at(lo), last = Math.min(this.wave.length, this.at(hi) + 1);
    const [f0, f1] = this.limitsWith(this.fluxLimits(first, last), lo, hi);
    const px = l => LEFT + (l - lo) / (hi - lo) * (w - LEFT - RIGHT), py = f => h - BOTTOM - (f - f0) / (f1 - f0) * (h - TOP - LABELS - BOTTOM);
    this.px = px;
    this.axes(c, w, h, px, py, f0, f1);
    this.markers(c, px, w, h);
    c.save();
    c.beginPath(); c.rect(LEFT, TOP, w - LEFT - RIGHT, h - TOP - BOTTOM); c.clip();
    if (!this.veiled) { this.band(c, first, last, px, py); this.steps(c, first, last, px, py); }
    if (this.over) { this.drawOver(c, px, py, w); }
    c.restore();
  }

  limitsWith([f0, f1], lo, hi) { // room for what was generated, too
    if (!this.over) { return [f0, f1]; }
    const { wave, low, high } = this.over, some = [];
    for (let i = 0; i < wave.length; i++) { if (wave[i] >= lo && wave[i] <= hi) { some.push(low[i], high[i]); } }
    if (!some.length) { return [f0, f1]; }
    some.sort((a, b) => a - b);
    const least = some[Math.floor(some.length * 0.01)], most = some[Math.min(some.length - 1, Math.floor(some.length * 0.995))], none = !this.shown.some(Number.isFinite);
    return none ? [Math.min(0, least), most + 0.08 * (most - least)] : [Math.min(f0, least), Math.max(f1, most)];
  }

  drawOver(c, px, py, w) { // averaged where several pixels share a column of the screen
    const { wave, middle, low, high, word } = this.over, n = wave.length, step = Math.max(1, Math.floor((this.at(this.range[1]) - this.at(this.range[0])) / (w - LEFT - RIGHT)));
    const mean = (of, i) => { let sum = 0; const to = Math.min(i + step, n); for (let k = i; k < to; k++) { sum += of[k]; } return sum / (to - i); };
    const at = []; // the columns
    for (let i = 0; i < n; i += step) { at.push(i); }
    c.beginPath();
    for (const i of at) { c.lineTo(px(wave[i]), py(mean(high, i))); }
    for (const i of at.reverse()) { c.lineTo(px(wave[i]), py(mean(low, i))); }
    c.globalAlpha = 0.3; c.fillStyle = this.colours.generated; c.fill(); c.globalAlpha = 1;
    c.beginPath();
    for (const i of at) { c.lineTo(px(wave[i]), py(mean(middle, i))); }
    c.strokeStyle = this.colours.generated; c.lineWidth = 1.2; c.stroke();
    c.font = "600 12px system-ui, sans-serif"; c.textAlign = "right"; c.textBaseline = "bottom"; c.fillStyle = this.colours.generated;
    c.fillText(word, w - RIGHT - 6, this.canvas.clientHeight - BOTTOM - 4);
  }

  at(l) { // index of the pixel at a wavelength
    let a = 0, b = this.wave.length - 1;
    while (a < b) { const m = (a + b) >> 1; if (this.wave[m] < l) { a = m + 1; } else { b = m; } }
    return a;
  }

  columns(first, last, px) { // how many pixels of data share a column of the screen
    return Math.max(1, Math.floor((last - first) / (px(this.range[1]) - px(this.range[0]))));
  }

  band(c, first, last, px, py) {
    const step = this.columns(first, last, px), narrow = Math.sqrt(this.smooth);
    c.beginPath();
    for (const side of [1, -1]) {
      const from = side > 0 ? first : last - 1, to = side > 0 ? last : first - 1;
      for (let i = from; side > 0 ? i < to : i > to; i += side * step) {
        if (Number.isFinite(this.shown[i])) { c.lineTo(px(this.wave[i]), py(this.shown[i] + side * (this.bad[i] ? 0 : this.sigma[i]) / narrow)); }
      }
    }
    c.fillStyle = this.colours.band; c.fill();
  }

  steps(c, first, last, px, py) {
    const step = this.columns(first, last, px);
    c.lineWidth = 1; c.strokeStyle = this.colours.data;
    if (step === 1) { this.stairs(c, first, last, px, py); return; }
    const columns = this.summaries(first, last, step);
    c.globalAlpha = 0.4; // from the least to the greatest of each column, so that no narrow line is skipped
    c.beginPath();
    for (const k of columns) { const x = px(this.wave[k.at]); c.moveTo(x, py(k.least) + 0.5); c.lineTo(x, py(k.most) - 0.5); }
    c.stroke();
    c.globalAlpha = 1; // and their means, where the eye can follow
    c.beginPath();
    columns.forEach((k, i) => {
      const x = px(this.wave[k.at]), y = py(k.mean), far = px(this.wave[Math.min(k.at + step, this.wave.length - 1)]);
      if (i && columns[i - 1].at + step === k.at) { c.lineTo(x, y); } else { c.moveTo(x, y); }
      c.lineTo(far, y);
    });
    c.stroke();
  }

  summaries(first, last, step) { // of the good pixels that share a column of the screen
    const out = [];
    for (let at = first; at < last; at += step) {
      let least = Infinity, most = -Infinity, sum = 0, count = 0;
      for (let i = at; i < Math.min(at + step, last); i++) {
        const f = this.shown[i];
        if (Number.isFinite(f)) { least = Math.min(least, f); most = Math.max(most, f); sum += f; count++; }
      }
      if (count) { out.push({ at, least, most, mean: sum / count }); }
    }
    return out;
  }

  stairs(c, first, last, px, py) {
    let down = false;
    c.beginPath();
    for (let i = first; i < last; i++) {
      if (!Number.isFinite(this.shown[i])) { down = false; continue; }
      const x = px(this.wave[i]), y = py(this.shown[i]), next = px(this.wave[Math.min(i + 1, this.wave.length - 1)]), middle = (x + next) / 2;
      if (down) { c.lineTo(x - (middle - x), y); } else { c.moveTo(x, y); down = true; }
      c.lineTo(middle, y);
    }
    c.stroke();
  }

  axes(c, w, h, px, py, f0, f1) {
    const [lo, hi] = this.range;
    c.font = "11px system-ui, sans-serif"; c.fillStyle = this.colours.quiet; c.strokeStyle = this.colours.rule; c.lineWidth = 1;
    c.strokeRect(LEFT + 0.5, TOP + 0.5, w - LEFT - RIGHT - 1, h - TOP - BOTTOM - 1);
    c.textAlign = "center"; c.textBaseline = "top";
    for (const [l, text] of ticks(lo, hi, w / 80)) {
      const x = Math.round(px(l)) + 0.5;
      c.beginPath(); c.moveTo(x, h - BOTTOM); c.lineTo(x, h - BOTTOM - 4); c.stroke();
      c.fillText(text, x, h - BOTTOM + 4);
    }
    c.fillText("observed wavelength, vacuum (Å)", (LEFT + w - RIGHT) / 2, h - 13);
    c.textAlign = "right"; c.textBaseline = "middle";
    const power = powerOf(f0, f1);
    for (const [f, text] of ticks(f0, f1, 4, power)) {
      const y = Math.round(py(f)) + 0.5;
      c.beginPath(); c.moveTo(LEFT, y); c.lineTo(LEFT + 4, y); c.stroke();
      c.fillText(text, LEFT - 4, y);
    }
    if (this.z !== null && this.z > -0.99) { // rest wavelengths on top
      c.textAlign = "center"; c.textBaseline = "bottom";
      for (const [l, text] of ticks(lo / (1 + this.z), hi / (1 + this.z), w / 95)) {
        const x = Math.round(px(l * (1 + this.z))) + 0.5;
        c.beginPath(); c.moveTo(x, TOP); c.lineTo(x, TOP + 4); c.stroke();
        c.fillText(text, x, TOP - 3);
      }
      c.textAlign = "left"; c.fillText("rest", 4, TOP - 3);
    }
    c.save();
    c.translate(10, (TOP + h - BOTTOM) / 2); c.rotate(-Math.PI / 2); c.textAlign = "center"; c.textBaseline = "middle";
    c.fillText(tenTo(power) + (this.about.calibrated ? this.about.unit || "flux" : "counts, not calibrated"), 0, 0, h - TOP - BOTTOM);
    c.restore();
  }

  markers(c, px, w, h) { // the strongest lines; names in two rows, a name that has no room is left to its line
    if (this.z === null) { return; }
    const [lo, hi] = this.range, zoomed = (hi - lo) / (this.whole[1] - this.whole[0]);
    const seen = this.lines.map(([name, rest, kind]) => ({ name, kind, x: px(rest * (1 + this.z)), l: rest * (1 + this.z) }))
      .filter(m => m.l > lo && m.l < hi).slice(0, zoomed < 0.5 ? this.lines.length : 12);
    const rows = [[], []];
    c.font = "11px system-ui, sans-serif"; c.textAlign = "center"; c.textBaseline = "top"; c.lineWidth = 1;
    for (const m of seen) {
      c.strokeStyle = c.fillStyle = m.kind === "e" ? this.colours.emission : this.colours.absorption;
      const half = c.measureText(m.name).width / 2, at = Math.min(Math.max(m.x, LEFT + half + 3), w - RIGHT - half - 3);
      const row = rows.findIndex(taken => taken.every(([a, b]) => at + half + 3 < a || at - half - 3 > b));
      if (row >= 0) { rows[row].push([at - half, at + half]); c.fillText(m.name, at, TOP + 3 + 12 * row); }
      c.globalAlpha = 0.55; c.setLineDash(m.kind === "e" ? [] : [3, 3]);
      c.beginPath(); c.moveTo(m.x, TOP + (row === 0 ? 15 : LABELS)); c.lineTo(m.x, h - BOTTOM); c.stroke();
      c.setLineDash([]); c.globalAlpha = 1;
    }
  }

  listen() {
    const canvas = this.canvas, wave = event => {
      const x = event.offsetX, w = canvas.clientWidth;
      return this.range[0] + (x - LEFT) / (w - LEFT - RIGHT) * (this.range[1] - this.range[0]);
    };
    canvas.addEventListener("wheel", event => {
      if (!this.flux) { return; }
      event.preventDefault();
      const at = wave(event), f = 2 ** (event.deltaY / 300);
      this.keep([at - (at - this.range[0]) * f, at + (this.range[1] - at) * f]);
    }, { passive: false });
    let grab = null;
    canvas.addEventListener("pointerdown", event => { grab = wave(event); canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", event => {
      if (grab === null) { return; }
      const shift = grab - wave(event);
      this.keep([this.range[0] + shift, this.range[1] + shift]);
    });
    canvas.addEventListener("pointerup", () => { grab = null; });
    canvas.addEventListener("dblclick", () => { this.range = [...this.whole]; this.draw(); });
  }

  keep([a, b]) {
    const [lo, hi] = this.whole, width = Math.min(Math.max(b - a, 20), hi - lo);
    a = Math.max(lo, Math.min(a, hi - width));
    this.range = [a, a + width];
    this.draw();
  }
}

export function drawSpark(canvas, heights, colour) {
  const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
  canvas.width = w * ratio; canvas.height = h * ratio;
  const c = canvas.getContext("2d");
  c.scale(ratio, ratio); c.beginPath();
  let down = false;
  heights.forEach((v, i) => {
    if (v < 0) { down = false; return; }
    const x = i / (heights.length - 1) * w, y = h - 2 - v / 100 * (h - 4);
    if (down) { c.lineTo(x, y); } else { c.moveTo(x, y); down = true; }
  });
  c.lineWidth = 1.2; c.strokeStyle = colour; c.lineJoin = "round"; c.stroke();
}

const BAND_COLOURS = { // Okabe and Ito's, darker on a light ground: a contrast of 3 at least
  dark: { u: "#1f86c4", g: "#009e73", r: "#d55e00", i: "#cc79a7", z: "#56b4e9", y: "#e69f00" },
  light: { u: "#005a8f", g: "#007d5b", r: "#c04f00", i: "#b3588c", z: "#2e8fc6", y: "#a87300" },
};

export function drawCurves(canvas, curves, colours) { // light curves, one colour and shape a band; brighter is up, in magnitudes too
  const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight, top = 20;
  canvas.width = w * ratio; canvas.height = h * ratio;
  const c = canvas.getContext("2d"), times = curves.flatMap(k => k.mjd);
  if (!times.length) { return; }
  const reach = sign => curves.flatMap(k => k.flux.map((f, i) => f + sign * (k.error ? k.error[i] : 0)));
  let [t0, t1] = extent(times), [f0, f1] = [extent(reach(-1))[0], extent(reach(1))[1]];
  [t0, t1, f0, f1] = [t0 - 0.03 * (t1 - t0 || 1), t1 + 0.03 * (t1 - t0 || 1), f0 - 0.05 * (f1 - f0 || 1), f1 + 0.05 * (f1 - f0 || 1)];
  if (curves[0].magnitude) { [f0, f1] = [f1, f0]; }
  const px = t => LEFT + (t - t0) / (t1 - t0) * (w - LEFT - RIGHT), py = f => h - BOTTOM - (f - f0) / (f1 - f0) * (h - top - BOTTOM);
  c.scale(ratio, ratio);
  c.font = "11px system-ui, sans-serif"; c.fillStyle = colours.quiet; c.strokeStyle = colours.rule; c.lineWidth = 1;
  c.strokeRect(LEFT + 0.5, top + 0.5, w - LEFT - RIGHT - 1, h - top - BOTTOM - 1);
  c.textAlign = "center"; c.textBaseline = "top";
  for (const [t, text] of ticks(t0, t1, w / 80).filter(([t]) => px(t) < w - RIGHT - 12)) { c.fillText(text, px(t), h - BOTTOM + 4); }
  c.fillText("time (MJD)", (LEFT + w - RIGHT) / 2, h - 13);
  c.textAlign = "right"; c.textBaseline = "middle";
  const power = powerOf(f0, f1);
  for (const [f, text] of ticks(Math.min(f0, f1), Math.max(f0, f1), 4, power)) { c.fillText(text, LEFT - 4, py(f)); }
  c.fillText(tenTo(power).replace(" × ", ""), LEFT - 4, 9);
  let legend = LEFT;
  curves.forEach((k, n) => {
    c.fillStyle = c.strokeStyle = BAND_COLOURS[colours.theme][k.band] || colours.data;
    const dot = (x, y) => { c.beginPath(); if (n % 2) { c.rect(x - 2, y - 2, 4, 4); } else { c.arc(x, y, 2.2, 0, 7); } c.fill(); };
    k.mjd.forEach((t, i) => {
      const x = px(t), y = py(k.flux[i]);
      if (k.error) { c.beginPath(); c.moveTo(x, py(k.flux[i] - k.error[i])); c.lineTo(x, py(k.flux[i] + k.error[i])); c.stroke(); }
      dot(x, y);
    });
    dot(legend + 4, 9);
    c.textAlign = "left"; c.fillText(k.band, legend + 10, 9);
    legend += 22 + c.measureText(k.band).width;
  });
}

export function drawCurve(canvas, curve, colours, words) { // a density over redshift, the middle 68 % darker, the truth as a line
  const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight, top = 20, { low, high, density, p16, median, p84, truth } = curve;
  canvas.width = w * ratio; canvas.height = h * ratio;
  const c = canvas.getContext("2d"), n = density.length, px = z => LEFT + (z - low) / (high - low) * (w - LEFT - RIGHT), py = d => h - BOTTOM - d * (h - top - BOTTOM - 4);
  c.scale(ratio, ratio);
  const area = (a, b) => {
    c.beginPath(); c.moveTo(px(a), py(0));
    density.forEach((d, i) => { const z = low + (i + 0.5) / n * (high - low); if (z >= a && z <= b) { c.lineTo(px(z), py(d)); } });
    c.lineTo(px(b), py(0)); c.closePath(); c.fill();
  };
  c.fillStyle = colours.generated; c.globalAlpha = 0.25; area(low, high); c.globalAlpha = 0.35; area(p16, p84); c.globalAlpha = 1;
  c.beginPath(); density.forEach((d, i) => c.lineTo(px(low + (i + 0.5) / n * (high - low)), py(d))); c.strokeStyle = colours.generated; c.lineWidth = 1.2; c.stroke();
  c.strokeStyle = colours.rule; c.lineWidth = 1; c.beginPath(); c.moveTo(LEFT, h - BOTTOM + 0.5); c.lineTo(w - RIGHT, h - BOTTOM + 0.5); c.stroke();
  c.font = "11px system-ui, sans-serif"; c.fillStyle = colours.quiet; c.textAlign = "center"; c.textBaseline = "top";
  for (const [z, text] of ticks(low, high, w / 70)) { c.fillText(text, px(z), h - BOTTOM + 4); }
  c.fillText(words.redshift, (LEFT + w - RIGHT) / 2, h - 13);
  c.font = "600 12px system-ui, sans-serif"; c.textBaseline = "alphabetic"; c.textAlign = "left"; c.fillStyle = colours.generated;
  const digits = Math.max(2, Math.min(5, 1 - Math.floor(Math.log10(Math.max(p84 - p16, 1e-6) / 2)))), put = v => v.toFixed(digits);
  const said = `${words.generated} z ${put(median)} +${put(p84 - median)} −${put(median - p16)}`, known = truth === null || curve.veiled ? "" : `${words.measured} ${truth.toFixed(Math.max(digits, 3))}`;
  const below = c.measureText(said).width + c.measureText(known).width + 16 > w - RIGHT; // no room beside it
  c.fillText(said, 0, 13);
  if (known) {
    c.strokeStyle = c.fillStyle = colours.data; c.lineWidth = 1.5; c.beginPath(); c.moveTo(px(truth), top); c.lineTo(px(truth), h - BOTTOM); c.stroke();
    c.textAlign = "right"; c.fillText(known, w - RIGHT, below ? 28 : 13);
  }
}

function extent(values) { return values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]); }

function ticks(a, b, most, power = 0) { // places and what is written there, in units of 10^power, with all the digits of the step
  const rough = (b - a) / most, ten = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].map(s => s * ten).find(s => s >= rough), out = [];
  const digits = Math.max(0, power - Math.floor(Math.log10(step) + 1e-9));
  for (let k = Math.ceil(a / step); k * step <= b; k++) { out.push([k * step, (k * step / 10 ** power).toFixed(digits)]); }
  return out;
}

function powerOf(a, b) { // of ten, to take off the labels of an axis, since there is room for four digits
  const power = Math.floor(Math.log10(Math.max(Math.abs(a), Math.abs(b))));
  return power > 3 || power < -1 ? power : 0;
}

function tenTo(power) { return power ? `10${[...String(power)].map(c => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("")} × ` : ""; }
