"use strict";
// The page of one run: two slices of a volume that is unpacked into memory, and the gallery.

const [depth, height, width] = data.shape;
const zRatio = data.zStep / data.pixelStep; // height of a slice in pixels
const ownPerVoxel = data.voxelSize / data.ownVoxelSize; // 1, if the tomogram was not resampled
const items = data.items.map((item, number) => asItem({
  ...item, number, odds: logOdds(item.score), own: species[item.species].name, key: keyOf(species[item.species].name, item.angstrom),
}));
const picks = items.filter((item) => !item.truth);
const state = { z: 0, y: Math.floor(height / 2), x: Math.floor(width / 2), isPlace: false, chosen: null, tab: 0, loaded: 0 };
const volume = new Uint8Array(depth * height * width);
const ready = new Uint8Array(depth);
let panel = null, corrections = null;

function asItem(item) {
  return {
    ...item,
    z: (item.place[0] + 0.5) / data.zStep - 0.5, // in slices and pixels of the pictures
    y: (item.place[1] + 0.5) / data.pixelStep - 0.5,
    x: (item.place[2] + 0.5) / data.pixelStep - 0.5,
  };
}

// The picture's row 0 is drawn at the bottom: y and z point upwards, as in IMOD.
class Plane {
  constructor(id, across, rows, tall) {
    this.across = across; // "z" or "y"
    this.up = across === "z" ? "y" : "z";
    this.rows = rows;
    this.tall = tall; // rows in units of pixels
    this.unit = across === "z" ? 1 / zRatio : 1; // slices per pixel across
    this.box = byId(id);
    this.canvas = this.box.querySelector("canvas");
    this.canvas.width = width;
    this.canvas.height = rows;
    this.box.style.aspectRatio = `${width} / ${tall}`;
    this.context = this.canvas.getContext("2d");
    this.image = this.context.createImageData(width, rows);
    this.svg = draw("svg", { viewBox: `0 0 ${width} ${tall}`, preserveAspectRatio: "none" });
    this.label = make("span");
    this.box.append(this.svg, this.label);
    this.svg.addEventListener("click", (event) => this.click(event));
    this.levels = [0, 255];
  }

  place(item) { // in the drawing, y downwards
    return { cx: item.x + 0.5, cy: this.across === "z" ? height - item.y - 0.5 : this.tall - (item.z + 0.5) * zRatio };
  }

  // Sum of slices on either side, as far as they are there.
  sum(index, half) {
    const sum = new Float32Array(width * this.rows);
    let used = 0;
    const last = this.across === "z" ? depth - 1 : height - 1;
    for (let one = Math.max(index - half, 0); one <= Math.min(index + half, last); one++) {
      if (this.across === "z" && !ready[one]) continue;
      used += 1;
      for (let row = 0; row < this.rows; row++) {
        const start = this.across === "z" ? (one * height + row) * width : (row * height + one) * width;
        const into = (this.rows - 1 - row) * width;
        for (let column = 0; column < width; column++) sum[into + column] += volume[start + column];
      }
    }
    return { sum, used: Math.max(used, 1) };
  }

  // Black and white are taken from the middle slice, so that they do not flicker along the slider.
  findLevels(half) {
    const { sum, used } = this.sum(Math.floor((this.across === "z" ? depth : height) / 2), half);
    const some = sum.filter((_, index) => index % 7 === 0).sort();
    this.levels = [some[Math.floor(some.length * 0.004)] / used, some[Math.floor(some.length * 0.996)] / used];
  }

  paint() {
    const { sum, used } = this.sum(state[this.across], (byId("slab").value - 1) / 2);
    const [low, high] = this.levels, contrast = +byId("contrast").value, middle = (low + high) / 2;
    const gain = (255 / Math.max(high - low, 1)) * contrast, sign = byId("invert").checked ? -1 : 1;
    const pixels = new Uint32Array(this.image.data.buffer);
    for (let index = 0; index < sum.length; index++) {
      const grey = Math.min(Math.max(128 + sign * gain * (sum[index] / used - middle), 0), 255) | 0;
      pixels[index] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    this.context.putImageData(this.image, 0, 0);
    this.mark();
  }

  mark() {
    const marks = [this.guide()];
    for (const item of items.filter(visible)) {
      const { radius: angstrom, colour: stroke } = species[speciesOf(item)], radius = angstrom / data.voxelSize / data.pixelStep;
      const gap = Math.abs(item[this.across] - state[this.across]) / this.unit / radius;
      if (gap >= 1) continue;
      const { cx, cy } = this.place(item);
      const opacity = (1 - 0.85 * gap).toFixed(2), verdict = corrections.of(item);
      const classes = [item.truth ? "truth" : "pick", item === state.chosen ? "chosen" : ""].join(" ").trim();
      const r = radius * (item.truth ? 0.88 : 1); // both are seen where they agree
      marks.push(draw("circle", { cx, cy, r, stroke, opacity, class: classes, "data-species": speciesOf(item),
        onclick: (event) => { if (!event.shiftKey) { event.stopPropagation(); choose(item); } } }, draw("title", {}, describe(item))));
      const d = verdict ? tick(cx, cy, radius) : (data.truth && !item.right) || verdict === "" ? cross(cx, cy, radius, item.truth) : "";
      if (d) marks.push(draw("path", { d, stroke, opacity, class: "cross" }));
    }
    this.svg.replaceChildren(...marks);
    const z = own("z", state.z), y = own("y", state.y);
    this.label.textContent = this.across === "z" ? `xy, z = ${z}` : `xz, y = ${y}`;
  }

  guide() { // where the other slice lies
    const at = this.across === "z" ? height - state.y - 0.5 : this.tall - (state.z + 0.5) * zRatio;
    const column = state.isPlace ? `M${state.x + 0.5} 0v${this.tall}` : "";
    return draw("path", { d: `M0 ${at}h${width}${column}`, class: "guide" });
  }

  click(event) {
    const box = this.svg.getBoundingClientRect();
    const share = 1 - (event.clientY - box.top) / box.height;
    go(this.up, Math.floor(share * (this.up === "y" ? height : depth)));
    go("x", Math.floor(((event.clientX - box.left) / box.width) * width));
    choosePlace();
  }
}

function cross(cx, cy, radius, isMissed) {
  const arm = radius * 0.35; // × for a wrong pick, + for a missed particle
  return isMissed ? `M${cx - arm} ${cy}h${2 * arm}M${cx} ${cy - arm}v${2 * arm}`
    : `M${cx - arm} ${cy - arm}l${2 * arm} ${2 * arm}M${cx - arm} ${cy + arm}l${2 * arm} ${-2 * arm}`;
}

function tick(cx, cy, radius) {
  const arm = radius * 0.3;
  return `M${cx - arm} ${cy}l${0.7 * arm} ${0.8 * arm}l${1.3 * arm} ${-1.6 * arm}`;
}

// A slice, a row or a column in voxels of the tomogram as it was read.
function ownVoxel(axis, index) {
  const step = axis === "z" ? data.zStep : data.pixelStep, number = "zyx".indexOf(axis);
  return Math.min((index + 0.5) * step - 0.5, data.volumeShape[number] - 1) * ownPerVoxel + data.start[number];
}

function own(axis, index) {
  const step = axis === "z" ? data.zStep : data.pixelStep;
  return ownVoxel(axis, index).toFixed(step === 1 && ownPerVoxel === 1 ? 0 : 1);
}

function numberOf(name) {
  return species.findIndex((one) => one.name === name);
}

// The number of the species that stands there: the model's, unless a person said another one.
function speciesOf(item) {
  const verdict = corrections.of(item);
  return verdict ? numberOf(verdict) : item.species;
}

function visible(item) {
  if (isGone(item)) return false;
  if (!panel.on[speciesOf(item)]) return false;
  return item.truth ? byId("show-truth").checked : item.added || panel.keeps(item.species, item.odds);
}

function describe(item) {
  const [z, y, x] = item.place.map((value, axis) => (value * ownPerVoxel + data.start[axis]).toFixed(1));
  const place = `voxel x ${x}, y ${y}, z ${z}${inWords(item)}`;
  if (item.added) return `${species[speciesOf(item)].name}, added, ${place}`;
  const what = item.truth ? `true ${species[item.species].name}` : `${species[item.species].name}, score ${shown(item.score)}`;
  return `${what}${item.cause ? ` (${item.cause === "right" && item.truth ? "found" : item.cause})` : ""}, ${place}`;
}

const planes = [new Plane("xy", "z", height, height), new Plane("xz", "y", depth, depth * zRatio)];

let waiting = false;
function repaint() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; planes.forEach((plane) => plane.paint()); });
}

function go(axis, index) {
  state[axis] = Math.min(Math.max(Math.round(index), 0), { z: depth, y: height, x: width }[axis] - 1);
  byId(axis).value = state[axis];
  byId(`${axis}-shown`).textContent = `${axis} = ${own(axis, state[axis])}`;
  repaint();
}

function choose(item) {
  [state.chosen, state.isPlace] = [item, false];
  for (const axis of "zyx") go(axis, item[axis]);
  byId("chosen").textContent = describe(item);
  if (!item.truth && state.tab !== tabOf(item)) {
    state.tab = tabOf(item);
    showGallery();
  }
  document.querySelectorAll(".tile").forEach((tile) => {
    tile.setAttribute("aria-current", tile.dataset.number === String(item.number));
  });
  showVerdict();
}

// The slices around the first one come first, so that there is something to look at at once.
async function load() {
  const order = [...Array(depth).keys()].sort((a, b) => Math.abs(a - state.z) - Math.abs(b - state.z));
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (const index of order) {
    const image = new Image();
    image.src = `data:image/jpeg;base64,${data.slices[index]}`;
    await image.decode();
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data, start = index * height * width;
    for (let pixel = 0; pixel < height * width; pixel++) volume[start + pixel] = pixels[4 * pixel];
    ready[index] = 1;
    data.slices[index] = null;
    state.loaded += 1;
    if (state.loaded === Math.min(9, depth)) setLevels();
    if (state.loaded < 10 || state.loaded % 20 === 0) repaint();
  }
  setLevels();
  document.body.dataset.loaded = "yes";
}

function setLevels() {
  planes.forEach((plane) => plane.findLevels((byId("slab").value - 1) / 2));
  repaint();
}

// Where the most picks are cut, and through their middles; near the volume's middle among equals.
function busiestSlice() {
  const radius = (item) => species[item.species].radius / data.voxelSize / data.pixelStep; // in pixels
  const picked = picks.filter((item) => item.score >= species[item.species].threshold - 1e-9);
  const cut = (z) => picked.reduce((sum, item) => sum + Math.max(1 - ((item.z - z) * zRatio / radius(item)) ** 2, 0), 0);
  const middle = Math.floor(depth / 2), slices = [...Array(depth).keys()].map((z) => ({ z, count: cut(z) }));
  slices.sort((a, b) => b.count - a.count || Math.abs(a.z - middle) - Math.abs(b.z - middle));
  return slices[0].z;
}

function scaleBar() {
  const angstrom = [500, 1000, 2000, 5000].find((one) => one / data.voxelSize / data.pixelStep > width / 8) || 5000;
  const long = angstrom / data.voxelSize / data.pixelStep;
  const bar = draw("line", { x1: width * 0.98 - long, x2: width * 0.98, y1: height * 0.985, y2: height * 0.985, class: "scale" });
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", style: "pointer-events: none" }, bar);
  planes[0].box.append(svg, make("span", { class: "scale-text" }, `${angstrom / 10} nm`));
}

const KINDS = {
  picks: (item) => !item.truth,
  right: (item) => !item.truth && item.right,
  wrong: (item) => !item.truth && !item.right,
  missed: (item) => item.truth && !item.right,
  open: (item) => corrections.of(item) === undefined,
  seen: (item) => corrections.of(item) !== undefined,
};

const ORDERS = {
  high: (item) => -item.score,
  low: (item) => item.score,
  near: (item) => Math.abs(item.odds - panel.start[tabOf(item)]),
};

// In the order in which the gallery shows them.
function galleryItems(index, kind = KINDS[byId("kind").value]) {
  const cause = byId("cause").value, rank = ORDERS[byId("order").value];
  return items.filter((item) => tabOf(item) === index && kind(item) && (item.added ? isThere(item) : item.truth || panel.keeps(index, item.odds))
    && (!cause || (item.cause || "").startsWith(cause))).sort((a, b) => rank(a) - rank(b) || a.number - b.number);
}

function showGallery() {
  const found = galleryItems(state.tab), tiled = found.filter((item) => item.tile !== undefined || item.added);
  const { number, tab } = document.activeElement.dataset;
  byId("gallery").replaceChildren(...tiled.map(tileOf));
  byId("gallery-note").textContent = tiled.length === found.length ? "" :
    `${tiled.length} of ${found.length}, spread evenly over the scores.`;
  byId("tabs").replaceChildren(...species.map((one, index) => make("button", { type: "button", "data-tab": index,
    "aria-pressed": String(index === state.tab), onclick: () => { state.tab = index; showGallery(); } },
  swatch(index), `${one.name} ${galleryItems(index).length}`)));
  if (number !== undefined) focusTile(number); // the buttons are new ones
  if (tab !== undefined) byId("tabs").children[tab].focus();
}

function focusTile(number) {
  const tile = document.querySelector(`.tile[data-number="${number}"]`);
  if (tile) tile.focus();
}

function lookUp(index, kind, cause) {
  state.tab = index;
  byId("kind").value = cause === "right" ? "right" : kind;
  byId("cause").value = cause === "right" ? "" : cause;
  showGallery();
  byId("gallery-heading").scrollIntoView({ behavior: "smooth" });
}

function tileOf(item) {
  const size = 80, { columns } = data.tile;
  const row = Math.floor(item.tile / columns), column = item.tile % columns;
  const picture = make("i", { class: `sheet-${item.added ? "none" : item.species}`,
    style: `background-position: ${-column * size}px ${-row * size}px; --colour: ${species[speciesOf(item)].colour}` });
  const caption = item.added ? "added" : item.truth ? item.cause : shown(item.score);
  const words = item.truth || !item.cause || item.right ? inWords(item).slice(2) : item.cause;
  const cause = words ? [make("small", {}, words)] : [];
  return make("button", { type: "button", class: "tile", "data-number": item.number, "aria-label": describe(item), title: describe(item),
    "aria-current": String(item === state.chosen), "data-verdict": { "": "wrong", [item.own]: "right" }[corrections.of(item)] || null,
    onclick: () => choose(item) }, picture, caption, ...cause);
}

function sheetStyles() {
  const rules = data.sheets.map((sheet, index) => {
    if (!sheet) return "";
    const tiles = 1 + Math.max(...items.filter((item) => item.species === index && item.tile !== undefined).map((item) => item.tile));
    const across = Math.min(tiles, data.tile.columns) * 80;
    return `.sheet-${index} { background: url(data:image/jpeg;base64,${sheet}) 0 0 / ${across}px auto no-repeat; }`;
  });
  document.head.append(make("style", {}, rules.join("\n")));
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const field = event.target.closest("input, select");
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && (!field || ["z", "y"].includes(field.id))) {
    event.preventDefault();
    const axis = event.shiftKey || event.target.id === "y" ? "y" : "z";
    go(axis, state[axis] + step);
  } else if (!data.truth && (event.key.length > 1 || byId("keys").checked)) onCorrectionKey(event, field);
}

function start() {
  byId("heading").textContent = data.run;
  const averaged = [data.zStep > 1 ? `${data.zStep} slices` : "", data.pixelStep > 1 ? `${data.pixelStep} × ${data.pixelStep} pixels` : ""];
  const size = averaged.some(Boolean) ? `, ${averaged.filter(Boolean).join(" and ")} averaged into one` : "";
  byId("facts").textContent = `${data.picked} picks · ${data.volumeShape.join(" × ")} voxels (z, y, x) of ${data.voxelSize.toFixed(2)} Å${size}`;
  byId("warning").textContent = data.warning;
  byId("warning").hidden = !data.warning;
  if (data.judged) {
    byId("species-note").textContent = "A score is the probability that a pick is right. A slider hides the picks below it everywhere on this page, or shows more candidates; below it stands what to expect of the picks that are left. The files stay as they are.";
  }
  byId("z").max = depth - 1;
  byId("y").max = height - 1;
  byId("x").max = width - 1;
  if (data.truth) {
    byId("truth-switch").hidden = false;
    for (const [value, words] of [["right", "right picks"], ["wrong", "wrong picks"], ["missed", "missed particles"]]) {
      byId("kind").append(make("option", { value }, words));
    }
    for (const cause of data.truth.causes.slice(1)) byId("cause").append(make("option", {}, cause));
    byId("cause-switch").hidden = false;
    showTruth(data.truth, (index, cause) => lookUp(index, "wrong", cause), (index, cause) => lookUp(index, "missed", cause));
  }
  sheetStyles();
  startCorrections();
  const own = (index) => picks.filter((item) => item.species === index);
  panel = new SpeciesPanel(species.map((_, index) => own(index).map((item) => item.score)),
    data.truth && data.truth.wrongScores, (made) => { panel = made; repaint(); showGallery(); showProgress(); });
  for (const axis of "zyx") byId(axis).addEventListener("input", () => go(axis, byId(axis).value));
  byId("x").addEventListener("input", choosePlace);
  for (const id of ["contrast", "invert", "show-truth"]) byId(id).addEventListener("input", repaint);
  for (const id of ["kind", "cause", "order"]) byId(id).addEventListener("change", showGallery);
  byId("slab").addEventListener("change", setLevels);
  document.addEventListener("keydown", onKey);
  scaleBar();
  go("z", busiestSlice());
  go("y", height / 2);
  go("x", width / 2);
  state.tab = Math.max(species.findIndex((_, index) => own(index).length), 0);
  if (data.truth) showGallery();
  else corrections.restore();
  load();
}

start();
