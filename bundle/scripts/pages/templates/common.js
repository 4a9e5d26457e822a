"use strict";
// What both pages have: the species with their histograms, thresholds and switches.

const data = JSON.parse(document.getElementById("data").textContent);
const species = data.species;
const LOWEST_SCORE = 1e-4;
const STEPS = 200; // of a threshold slider
const TICKS = [0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999];

function byId(id) {
  return document.getElementById(id);
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// Scores crowd near 1; their log-odds do not.
function logOdds(score) {
  const clipped = Math.min(Math.max(score, LOWEST_SCORE), data.highestScore);
  return Math.log(clipped / (1 - clipped));
}

function probability(odds) {
  return 1 / (1 + Math.exp(-odds));
}

// As many digits as it takes to tell a score from 1.
function shown(score) {
  const digits = Math.min(Math.max(Math.ceil(-Math.log10(1 - Math.min(score, 0.99999))) + 1, 2), 5);
  return score > data.highestScore ? "> " + data.highestScore : score.toFixed(digits);
}

function swatch(index) {
  return make("span", { class: "swatch", style: `border-color: ${species[index].colour}` });
}

// One card per species. `scores[i]` are its scores; `wrong[i]`, where there is truth, those of its wrong picks;
// `tomograms[i]`, where there are several, the tomogram of every score.
class SpeciesPanel {
  constructor(scores, wrong, changed, tomograms = null) {
    this.changed = changed;
    this.tomograms = tomograms || scores.map((own) => own.map(() => 0));
    this.odds = scores.map((own) => own.map(logOdds));
    this.wrong = wrong && wrong.map((own) => own.map(logOdds));
    this.low = species.map((one) => logOdds(one.lowest));
    this.high = logOdds(1);
    this.start = species.map((one) => logOdds(one.threshold));
    this.threshold = [...this.start];
    this.on = species.map(() => true);
    this.cards = species.map((_, index) => this.card(index));
    byId("species").append(...this.cards.map((card) => card.element));
    byId("copy").addEventListener("click", () => this.copy());
    this.update();
  }

  keeps(index, odds) {
    return odds >= this.threshold[index] - 1e-9;
  }

  shows(index, odds) {
    return this.on[index] && this.keeps(index, odds);
  }

  count(index) {
    return this.odds[index].filter((odds) => this.keeps(index, odds)).length;
  }

  // The threshold as a probability: exactly the one in use while the slider has not been moved.
  value(index) {
    return this.threshold[index] === this.start[index] ? species[index].threshold : probability(this.threshold[index]);
  }

  // What calibrated scores say of the picks from the threshold on, with intervals that hold it with 90 %: see expect() in
  // picking/operating_point.py. Candidates are independent, but those of a tomogram may all be off together.
  expected(index) {
    const sums = { true: [0, 0, new Map()], false: [0, 0, new Map()] };
    this.odds[index].forEach((odds, place) => {
      const chance = probability(odds), own = sums[this.keeps(index, odds)], tomogram = this.tomograms[index][place];
      own[0] += chance;
      own[1] += 1;
      own[2].set(tomogram, (own[2].get(tomogram) || 0) + chance * (1 - chance));
    });
    const spreads = (variances) => 1.645 * Math.sqrt([...variances.values()].reduce((sum, one) => sum + one + (species[index].spread * one) ** 2, 0));
    const [[right, count, variances], [missed, others, missedVariances]] = [sums.true, sums.false];
    const percent = (value) => Math.round(100 * Math.min(Math.max(value / count, 0), 1)), off = spreads(variances);
    const share = count ? `expected right ${percent(right)} % (${percent(right - off)}–${percent(right + off)})` : "";
    const beyond = spreads(missedVariances), [low, high] = [Math.max(missed - beyond, 0), Math.min(missed + beyond, others)];
    const rest = data.candidates ? `missed ${missed.toFixed(0)} (${low.toFixed(0)}–${high.toFixed(0)})` : "";
    return [share, rest].filter(Boolean).join(", ");
  }

  // The threshold of picking/operating_point.py: for the highest expected F-beta, or a wanted expected share of right picks.
  point(index, beta, wanted) {
    const falling = [...this.odds[index]].sort((a, b) => b - a), all = falling.reduce((sum, odds) => sum + probability(odds), 0);
    const nothing = falling.reduce((product, odds) => product * (1 - probability(odds)), 1);
    const worthy = falling.filter((odds) => probability(odds) > data.leastF / (1 + beta ** 2)).length;
    let right = 0, best = wanted ? 0 : nothing, count = 0;
    falling.forEach((odds, place) => {
      right += probability(odds);
      const value = wanted ? (right / (place + 1) >= wanted - 1e-9 ? place + 1 : 0)
        : ((1 + beta ** 2) * right) / (beta ** 2 * all + place + 1);
      if (value > best) [best, count] = [value, wanted ? place + 1 : Math.min(place + 1, worthy)];
    });
    this.set(index, count ? falling[count - 1] : this.high);
  }

  points(index) {
    const button = (words, beta, wanted) => make("button", { type: "button", "aria-label": `${words} of ${species[index].name}`,
      onclick: () => this.point(index, beta, wanted) }, words);
    return data.candidates ? [button("F1", 1), button("F4", 4), button("90 % right", 0, 0.9)] : [];
  }

  card(index) {
    const one = species[index];
    const parts = { count: make("span", { class: "count" }), threshold: make("span", { class: "threshold" }),
      expected: make("div", { class: "below expected" }) };
    parts.box = make("input", {
      type: "checkbox", checked: true, "aria-label": `show ${one.name}`,
      onchange: () => { this.on[index] = parts.box.checked; this.update(); },
    });
    parts.slider = make("input", {
      type: "range", min: 0, max: STEPS, value: 0, "aria-label": `threshold of ${one.name}`,
      oninput: () => this.set(index, this.low[index] + ((this.high - this.low[index]) * parts.slider.value) / STEPS),
    });
    parts.histogram = this.histogram(index);
    parts.element = make("div", { class: "card" },
      make("div", { class: "top" }, make("label", {}, parts.box, swatch(index), one.name), parts.count),
      parts.histogram.element, parts.slider, make("div", { class: "below" }, parts.threshold, ...this.points(index), this.advice(index)),
      ...(data.judged ? [parts.expected] : []));
    return parts;
  }

  advice(index) {
    const valley = species[index].valley;
    if (!valley) return make("span", {}, this.odds[index].length ? "no clear valley" : "");
    const digits = shown(valley.threshold).length - 2, [low, high] = [valley.low, valley.high].map((one) => one.toFixed(digits));
    return make("button", { type: "button", "aria-label": `use the valley of ${species[index].name}`,
      title: "The bottom of the valley between two hills of scores, and where 90 % of resamples have it. Click to use it.",
      onclick: () => this.set(index, logOdds(valley.threshold)) }, `valley ${shown(valley.threshold)} (${low}–${high})`);
  }

  histogram(index) {
    const width = 300, height = 58, bins = 30, low = this.low[index], span = this.high - low;
    const countIn = (odds) => odds.reduce((counts, one) => {
      counts[Math.min(Math.max(Math.floor(((one - low) / span) * bins), 0), bins)] += 1;
      return counts;
    }, new Array(bins + 1).fill(0));
    const all = countIn(this.odds[index]), wrong = countIn(this.wrong ? this.wrong[index] : []);
    const step = width / (bins + 1), most = Math.max(1, ...all);
    const place = (odds) => ((odds - low) / span) * bins * step;
    const element = draw("svg", { viewBox: `0 0 ${width} 76`, role: "img",
      "aria-label": `${species[index].name}: histogram of scores` });
    const valley = species[index].valley;
    if (valley) {
      const from = place(logOdds(valley.low)), to = place(logOdds(valley.high)), at = place(logOdds(valley.threshold));
      element.append(draw("rect", { x: from, y: 0, width: Math.max(to - from, 1), height, fill: "#0072b2", opacity: 0.1 }),
        draw("line", { x1: at, x2: at, y1: 0, y2: height, stroke: "#0072b2", "stroke-dasharray": "3 3" }));
    }
    const bars = [];
    for (let bin = 0; bin <= bins; bin++) {
      const tall = (count) => (count ? Math.max((count / most) * (height - 4), 1.5) : 0);
      const group = draw("g", {},
        draw("rect", { x: bin * step + 0.5, width: step - 1, y: height - tall(all[bin]), height: tall(all[bin]),
          fill: species[index].colour }),
        draw("rect", { x: bin * step + 0.5, width: step - 1, y: height - tall(wrong[bin]), height: tall(wrong[bin]),
          class: "wrong-bar" }));
      bars.push(group);
      element.append(group);
    }
    element.append(draw("line", { x1: 0, x2: width, y1: height, y2: height, class: "axis" }));
    for (const tick of TICKS.filter((one) => logOdds(one) >= low)) {
      const x = place(logOdds(tick));
      element.append(draw("line", { x1: x, x2: x, y1: height, y2: height + 3, class: "axis" }),
        draw("text", { x, y: height + 13, "text-anchor": x < 8 ? "start" : "middle" }, String(tick)));
    }
    const fade = () => bars.forEach((bar, bin) => {
      bar.setAttribute("opacity", low + ((bin + 1) / bins) * span > this.threshold[index] + 1e-9 ? 1 : 0.25);
    });
    return { element, fade };
  }

  set(index, odds) {
    this.threshold[index] = Math.min(Math.max(odds, this.low[index]), this.high);
    this.update();
  }

  update() {
    this.cards.forEach((card, index) => {
      const kept = this.count(index), all = this.odds[index].length, value = shown(this.value(index));
      card.count.textContent = kept === all ? `${all}` : `${kept} of ${all}`;
      card.threshold.textContent = value.startsWith(">") ? value : `≥ ${value}`;
      card.expected.textContent = data.judged ? this.expected(index) : "";
      card.slider.value = Math.round(((this.threshold[index] - this.low[index]) / (this.high - this.low[index])) * STEPS);
      card.slider.setAttribute("aria-valuetext", `${value}, ${kept} of ${all} picks`);
      card.element.classList.toggle("off", !this.on[index]);
      card.histogram.fade();
    });
    const wanted = (index) => +Math.min(this.value(index), data.highestScore).toFixed(6);
    // A species whose slider nobody moved keeps its operating point, here and in other tomograms.
    const point = (one, index) => (this.threshold[index] === this.start[index] ? `'${one.operatingPoint}'` : `{'probability': ${wanted(index)}}`);
    const settings = species.map((one, index) => `'${one.name}': ${data.judged ? point(one, index) : +this.value(index).toFixed(6)}`);
    byId("command").value = `--${data.judged ? "operating_point" : "probability_thresholds"} "{${settings.join(", ")}}"`;
    this.changed(this);
  }

  copy() {
    byId("command").select();
    if (navigator.clipboard) navigator.clipboard.writeText(byId("command").value);
    else document.execCommand("copy");
    byId("copy").textContent = "Copied";
    setTimeout(() => { byId("copy").textContent = "Copy"; }, 1500);
  }
}
