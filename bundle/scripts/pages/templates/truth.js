"use strict";
// The section that compares with the truth, the same for one run and for all.

function table(headings, rows) {
  return make("div", { class: "wide" }, make("table", {},
    make("thead", {}, make("tr", {}, ...headings.map((one) => make("th", { scope: "col" }, one)))),
    make("tbody", {}, ...rows.map(({ cells, sum }) => make("tr", { class: sum ? "sum" : null },
      ...cells.map((cell) => make("td", { class: cell === 0 ? "zero" : null }, cell instanceof Node ? cell : String(cell))))))));
}

function speciesCell(index) {
  return make("span", { class: "swatch-cell" }, swatch(index), species[index].name);
}

function share(value, of) {
  return of > 0 ? value.toFixed(3) : "–";
}

function scoreTable({ mode, total, rows }) {
  const lines = rows.map((row, index) => ({ cells: [speciesCell(index), row.truths, row.picks, row.tp, row.fp, row.fn,
    share(row.precision, row.picks), share(row.recall, row.truths), share(row.f4, row.truths)] }));
  lines.push({ cells: ["weighted mean", "", "", "", "", "", "", "", total.toFixed(4)], sum: true });
  return table([mode.replaceAll("_", " "), "truth", "picks", "right", "wrong", "missed", "precision", "recall", "F4"], lines);
}

function kaggleTable(score) {
  return make("details", {},
    make("summary", {}, `As the public challenge counts (kaggle), ${score.total.toFixed(4)}: a pick between two particles finds both`),
    scoreTable(score));
}

// On the page of a run a count leads to its pictures: `lookUp(species, cause)`.
function causeTable(title, counts, causes, lookUp) {
  const used = causes.map((_, column) => column).filter((column) => column === 0 || counts.some((row) => row[column] > 0));
  return table([title, ...used.map((column) => causes[column])],
    counts.map((row, index) => ({ cells: [speciesCell(index), ...used.map((column) =>
      (lookUp && row[column] && !(title === "truth" && column === 0)
        ? make("button", { type: "button", onclick: () => lookUp(index, causes[column]) }, String(row[column])) : row[column]))] })));
}

function confusionTable(liesOn) {
  return table(["pick of ↓ lies on →", ...species.map((one) => one.name), "none of them"],
    liesOn.map((row, index) => ({ cells: [speciesCell(index), ...row] })));
}

// Lines of points [x, y], both from 0 to 1, one line per species.
function chart(title, xLabel, yLabel, lines, marks) {
  const width = 340, height = 270, left = 42, top = 26, right = 12, bottom = 40;
  const px = (x) => left + x * (width - left - right), py = (y) => height - bottom - y * (height - top - bottom);
  const element = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    element.append(
      draw("line", { x1: px(tick), x2: px(tick), y1: py(0), y2: py(1), class: "grid" }),
      draw("line", { x1: px(0), x2: px(1), y1: py(tick), y2: py(tick), class: "grid" }),
      draw("text", { x: px(tick), y: py(0) + 14, "text-anchor": "middle" }, String(tick)),
      draw("text", { x: px(0) - 6, y: py(tick) + 3, "text-anchor": "end" }, String(tick)));
  }
  lines.forEach((points, index) => {
    if (!points.length) return;
    const path = points.map(([x, y], number) => `${number ? "L" : "M"}${px(x).toFixed(1)} ${py(Math.min(y, 1.02)).toFixed(1)}`);
    element.append(draw("path", { d: path.join(""), stroke: species[index].colour },
      draw("title", {}, species[index].name)));
  });
  marks.forEach((mark, index) => {
    if (mark) element.append(draw("circle", { cx: px(mark[0]), cy: py(Math.min(mark[1], 1.02)), r: 4.5, fill: species[index].colour,
      stroke: "#23282d", "stroke-width": 1 }, draw("title", {}, `${species[index].name}, threshold in use`)));
  });
  element.append(draw("text", { x: left, y: 16, style: "font-size: 12px; font-weight: 600; fill: #23282d" }, title),
    draw("text", { x: (px(0) + px(1)) / 2, y: height - 8, "text-anchor": "middle" }, xLabel),
    draw("text", { x: 12, y: (py(0) + py(1)) / 2, "text-anchor": "middle",
      transform: `rotate(-90 12 ${(py(0) + py(1)) / 2})` }, yLabel));
  return element;
}

function curves(truth) {
  const known = truth.curves.map((rows) => rows.filter((row) => row.truths > 0));
  const pairs = known.map((rows) => rows.filter((row) => row.picks > 0).map((row) => [row.recall, row.precision]));
  const f4 = known.map((rows) => rows.map((row, number) => [truth.thresholds[number], row.f4]));
  const nearest = species.map((one) => truth.thresholds.reduce((best, value, number) =>
    Math.abs(value - one.networkThreshold) < Math.abs(truth.thresholds[best] - one.networkThreshold) ? number : best, 0));
  const inUse = known.map((rows, index) => rows[nearest[index]]);
  return make("div", { class: "charts" },
    chart("Precision and recall", "recall", "precision", pairs,
      inUse.map((row) => (row && row.picks ? [row.recall, row.precision] : null))),
    chart("F4 over the threshold", "probability threshold", "F4", f4,
      inUse.map((row, index) => (row ? [truth.thresholds[nearest[index]], row.f4] : null))));
}

function showTruth(truth, lookUpPicks, lookUpTruth) {
  const section = byId("truth");
  section.hidden = false;
  byId("species-note").append(" Grey bars are wrong picks.");
  section.append(make("h2", {}, "Against the truth"),
    make("p", { class: "quiet" }, "At the thresholds in use; every pick finds one particle at most."),
    scoreTable(truth.modes.find((one) => one.mode === "one_to_one")), kaggleTable(truth.modes.find((one) => one.mode === "kaggle")),
    make("div", { class: "pair" },
      make("div", {}, make("h3", {}, "What became of the picks"), causeTable("picks", truth.ofPicks, truth.causes, lookUpPicks)),
      make("div", {}, make("h3", {}, "What became of the true particles"),
        causeTable("truth", truth.ofTruth, ["found", ...truth.causes.slice(1)], lookUpTruth))),
    make("h3", {}, "Confusion between species"), confusionTable(truth.liesOn),
    make("h3", {}, `${data.judged ? "The first network alone, at its thresholds" : "At other thresholds"} (${truth.sweepMode.replaceAll("_", " ")})`), curves(truth));
}
