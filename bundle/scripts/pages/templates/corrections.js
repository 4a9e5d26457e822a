"use strict";
// What a person says of the picks: kept in the browser, saved as a table, taken from one.

const BY_HAND = "corrected in report.html";
const COLUMNS = ["experiment", "particle_type", "x", "y", "z", "weight", "origin"];

function keyOf(name, angstrom) { // of "x,y,z": a spreadsheet may have written 110.000 as 110
  return [name, ...angstrom.split(",").map((value) => Number(value).toFixed(3))].join("\t");
}

function csvCell(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function rowsOfCsv(text) {
  const rows = [[]];
  for (const [, cell, end] of text.replace(/^\ufeff/, "").matchAll(/("(?:[^"]|"")*"|[^",\r\n]*)(,|\r\n|\n|\r|$)/g)) {
    rows.at(-1).push((cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell).trim());
    if (!end) break;
    if (end !== ",") rows.push([]);
  }
  return rows.filter((row) => row.some(Boolean));
}

// A verdict is the name of the species that stands there, "" if none does. A step is a list of keys of items with their
// verdicts; the last step can be undone. `newItem(name, angstrom)` makes the item of a place that has no pick.
class Corrections {
  constructor(items, newItem, changed) {
    this.itemOf = new Map(items.map((item) => [item.key, item]));
    this.newItem = newItem;
    this.changed = changed;
    this.storage = `corrections of ${data.run}, model ${data.model}, image ${data.image}`;
    [this.steps, this.verdicts, this.isKept] = [[], new Map(), true];
  }

  restore() {
    this.reread();
    this.update();
  }

  // Another tab of this page may have stored steps. Where the browser stores none, those of this tab are the newest.
  reread() {
    try {
      if (this.isKept) this.steps = JSON.parse(localStorage.getItem(this.storage)) || this.steps;
    } catch {
      // unreadable: the steps stay
    }
    this.apply();
  }

  keep() {
    try {
      localStorage.setItem(this.storage, JSON.stringify(this.steps));
      this.isKept = true;
    } catch {
      this.isKept = false;
    }
  }

  apply() {
    this.verdicts = new Map(this.steps.flat());
    for (const key of this.verdicts.keys()) this.item(key);
  }

  update() {
    this.apply();
    this.keep();
    this.changed(this.isKept);
  }

  takeOver() { // what another tab stored; storing it again here could replace a step that it says meanwhile
    this.reread();
    this.changed(this.isKept);
  }

  item(key) {
    if (!this.itemOf.has(key)) {
      const [name, ...angstrom] = key.split("\t");
      this.itemOf.set(key, this.newItem(name, angstrom.join()));
    }
    return this.itemOf.get(key);
  }

  of(item) { // undefined while nobody has looked
    return this.verdicts.get(item.key);
  }

  say(item, verdict) {
    this.reread();
    const others = [...this.itemOf.values()].filter((other) => other !== item && other.own && other.angstrom === item.angstrom);
    this.steps.push([[item.key, verdict], ...(verdict ? others.map((other) => [other.key, ""]) : [])]); // one particle at a place
    this.update();
  }

  undo() {
    this.reread();
    const step = this.steps.pop();
    this.update();
    return step && this.item(step[0][0]);
  }

  // Rows of species, place, weight and origin. One species has one row at a place: the last that is given here.
  rows(byScore) {
    const rows = new Map(), all = [...this.itemOf.values()];
    const add = (name, item, weight, origin) => name && rows.set(keyOf(name, item.angstrom), [name, item.angstrom, weight, origin]);
    for (const item of all.filter((one) => !one.added && this.of(one) === undefined)) {
      add(item.own, item, byScore ? String(Math.min(item.score, data.highestScore)) : "", `model ${data.model}`.trim());
    }
    const seen = all.filter((item) => this.of(item) !== undefined);
    for (const item of seen) if (this.of(item) !== item.own) add(item.own, item, "0", BY_HAND);
    for (const item of seen) add(this.of(item), item, "1", BY_HAND);
    return [...rows.values()];
  }

  table(byScore) {
    const rows = this.rows(byScore).map(([name, angstrom, weight, origin]) => [csvCell(data.run), csvCell(name), angstrom, weight, csvCell(origin)]);
    return [COLUMNS, ...rows].map((row) => `${row.join()}\n`).join("");
  }

  // Take the verdicts of a table over, as one step; what models wrote there is no verdict. Returns how many there were.
  load(text) {
    const [header = [], ...rows] = rowsOfCsv(text), column = (name) => header.indexOf(name);
    const missing = COLUMNS.slice(0, 5).filter((name) => column(name) < 0);
    if (missing.length) throw new Error(`the columns ${missing.join(", ")} are missing.`);
    if (column("score") >= 0 && column("weight") < 0) {
      throw new Error("it is a table of picks, not of corrections: choose one that a page saved, such as RUN_corrected.csv.");
    }
    const own = rows.filter((row) => row[column("experiment")] === data.run);
    if (!own.length) throw new Error(`no row is of ${data.run}; its runs are ${[...new Set(rows.map((row) => row[column("experiment")]))].join(", ")}.`);
    const found = own.map((row) => ({ name: row[column("particle_type")], angstrom: ["x", "y", "z"].map((axis) => row[column(axis)]).join(),
      weight: column("weight") < 0 ? "1" : row[column("weight")], origin: row[column("origin")] || "" }));
    const isPlace = (angstrom) => angstrom.split(",").every((value) => value && Number.isFinite(Number(value)));
    const wrong = found.find((row) => !species.some((one) => one.name === row.name) || !isPlace(row.angstrom));
    if (wrong) throw new Error(`${wrong.name} at ${wrong.angstrom} is no species of this page, or no place.`);
    const said = (weight) => found.filter((row) => row.weight !== "" && Number(row.weight) === weight && !row.origin.startsWith("model"));
    this.reread();
    const step = new Map(), rejectedAt = new Map();
    for (const row of said(0)) {
      step.set(keyOf(row.name, row.angstrom), "");
      rejectedAt.set(keyOf("", row.angstrom), keyOf(row.name, row.angstrom));
    }
    for (const row of said(1)) {
      const key = keyOf(row.name, row.angstrom), place = keyOf("", row.angstrom);
      step.set(this.itemOf.has(key) ? key : rejectedAt.get(place) || place, row.name);
    }
    if (step.size) this.steps.push([...step]);
    this.update();
    return step.size;
  }
}
