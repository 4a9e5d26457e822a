"use strict";
// The page over all runs: the table follows the thresholds.

const OUTLIER = 3; // times the usual distance from the median
const runs = data.runs.map((run) => ({ ...run, odds: run.picks.map((scores) => scores.map(logOdds)) }));
const order = { title: "tomogram", down: false };
let panel = null;

// Scores rise, so the number of those that are kept is found by halving.
function kept(odds, threshold) {
  let low = 0, high = odds.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (odds[middle] >= threshold - 1e-9) high = middle;
    else low = middle + 1;
  }
  return odds.length - low;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// Median absolute deviation, scaled to a standard deviation; counts vary by their root at least.
function marksOf(counts) {
  if (counts.length < 5) return counts.map(() => "");
  const middle = median(counts), usual = Math.max(1.4826 * median(counts.map((one) => Math.abs(one - middle))), Math.sqrt(middle), 1);
  return counts.map((one) => (one > middle + OUTLIER * usual ? "many" : one < middle - OUTLIER * usual ? "few" : ""));
}

function columns() {
  const shownSpecies = species.map((_, index) => index).filter((index) => panel.on[index]);
  const counts = shownSpecies.map((index) => runs.map((run) => kept(run.odds[index], panel.threshold[index])));
  const all = runs.map((_, row) => counts.reduce((sum, own) => sum + own[row], 0));
  const made = [{ title: "tomogram", values: runs.map((run) => run.name) },
    ...shownSpecies.map((index, place) => ({ title: species[index].name, values: counts[place], marks: marksOf(counts[place]) })),
    { title: "all", values: all, marks: marksOf(all) }];
  if (data.truth) {
    made.push({ title: "F4 (kaggle)", values: runs.map((run) => run.scores.f4), digits: 3 },
      { title: "wrong", values: runs.map((run) => run.scores.wrong) },
      { title: "missed", values: runs.map((run) => run.scores.missed) });
  }
  return made;
}

function compareRows(a, b, values) {
  return typeof values[a] === "number" ? values[a] - values[b] : values[a].localeCompare(values[b], "en", { numeric: true });
}

function showTable() {
  const made = columns();
  const sorted = made.find((column) => column.title === order.title) || made[0];
  const rows = [...runs.keys()].sort((a, b) => (order.down ? -1 : 1) * compareRows(a, b, sorted.values));
  const [head, body] = [document.querySelector("#runs thead"), document.querySelector("#runs tbody")];
  head.replaceChildren(make("tr", {}, ...made.map((column) => make("th", { scope: "col",
    "aria-sort": column === sorted ? (order.down ? "descending" : "ascending") : null },
    make("button", { type: "button", onclick: () => sortBy(column.title, column !== made[0]) }, column.title)))));
  const sums = made.map(({ values, digits }, place) => (place === 0 ? "sum" : digits ? "" : values.reduce((a, b) => a + b, 0)));
  body.replaceChildren(...rows.map((row) => make("tr", {}, ...made.map((column, place) => cellOf(column, place, row)))),
    make("tr", { class: "sum" }, ...sums.map((sum) => make("td", {}, String(sum)))));
}

function cellOf({ values, marks, digits }, place, row) {
  if (place === 0) return make("td", {}, runs[row].page ? make("a", { href: runs[row].page }, values[row]) : values[row]);
  const mark = marks ? marks[row] : "";
  const sign = { many: "▲ ", few: "▼ " }[mark] || "";
  return make("td", { class: mark || (values[row] === 0 ? "zero" : null),
    title: mark ? `far ${mark === "many" ? "more" : "fewer"} than the median` : null },
    sign + (digits ? values[row].toFixed(digits) : values[row]));
}

function sortBy(title, isNumber) {
  order.down = order.title === title ? !order.down : isNumber;
  order.title = title;
  showTable();
}

function start() {
  const all = runs.reduce((sum, run) => sum + run.picks.reduce((own, scores) => own + scores.length, 0), 0);
  byId("heading").textContent = `${all} picks in ${runs.length} tomogram${runs.length === 1 ? "" : "s"}`;
  if (data.failures.length) {
    byId("facts").textContent = `${data.failures.length} failed, see below`;
    byId("failures").append(make("h3", {}, "Failed"),
      make("ul", {}, ...data.failures.map((one) => make("li", {}, `${one.name}: ${one.reason}`))));
  }
  byId("species-note").append(...data.notes.map((note) => ` ${note}`));
  if (data.truth) showTruth(data.truth);
  panel = new SpeciesPanel(species.map((_, index) => runs.flatMap((run) => run.picks[index])),
    data.truth && data.truth.wrongScores, (made) => { panel = made; showTable(); },
    species.map((_, index) => runs.flatMap((run, number) => run.picks[index].map(() => number))));
}

start();
