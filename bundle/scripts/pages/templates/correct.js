"use strict";
// Buttons and keys that correct picks. They act on the chosen pick, or on the chosen place: 1, 2 ... add a particle there.

const NOT_KEPT = "This browser does not keep corrections: save the table before you leave the page.";

function newItem(name, angstrom) { // an item of a place where the page has no pick of that species
  const place = angstrom.split(",").reverse().map((value, axis) =>
    (value / data.ownVoxelSize - data.voxelOffset - data.start[axis]) / ownPerVoxel);
  const item = asItem({ species: numberOf(name), own: name, key: keyOf(name, angstrom), angstrom, place, added: true, score: 1,
    odds: Infinity, number: items.length });
  items.push(item);
  return item;
}

// Whether an added item is to be seen: one whose adding was undone is not, and neither is one that was removed again.
function isThere(item) {
  const verdict = corrections.of(item);
  return Boolean(verdict || (verdict === "" && item.own));
}

function isGone(item) {
  return item.added && !isThere(item);
}

function tabOf(item) {
  return item.added ? speciesOf(item) : item.species;
}

function inWords(item) {
  const verdict = corrections.of(item);
  if (verdict === undefined || !item.own) return "";
  return verdict === "" ? ", rejected" : verdict === item.own ? ", accepted" : `, now ${verdict}`;
}

function note(text) {
  byId("correction-note").textContent = text;
}

function choosePlace() {
  if (data.truth) return;
  [state.chosen, state.isPlace] = [null, true];
  const place = [..."xyz"].map((axis) => `${axis} ${own(axis, state[axis])}`).join(", ");
  byId("chosen").textContent = `place ${place}: press 1 to ${species.length} to add a particle here`;
  document.querySelectorAll(".tile").forEach((tile) => tile.setAttribute("aria-current", "false"));
  showVerdict();
  repaint();
}

function addHere(name) {
  const angstrom = [..."xyz"].map((axis) => (ownVoxel(axis, state[axis]) + data.voxelOffset) * data.ownVoxelSize).join();
  const item = corrections.item(keyOf("", angstrom));
  corrections.say(item, name);
  choose(item);
}

function judge(verdict) {
  const item = state.chosen;
  if (item) {
    corrections.say(item, verdict);
    goOn();
  } else if (!state.isPlace) note("Choose a pick or a place first.");
  else if (verdict) addHere(verdict);
}

function accept() {
  judge(state.chosen ? state.chosen.own || corrections.of(state.chosen) : "");
}

function undo() {
  const item = corrections.undo();
  if (item) show(item);
  else note("There is nothing to undo.");
}

function show(item) {
  if (isGone(item)) {
    for (const axis of "zyx") go(axis, item[axis]);
    choosePlace();
  } else {
    choose(item);
    focusTile(item.number);
  }
}

// To the next pick that nobody has looked at, in the order of the gallery, then in the other species.
function goOn() {
  const own = galleryItems(state.tab, KINDS.picks), at = own.indexOf(state.chosen);
  const others = species.map((_, step) => (state.tab + step) % species.length).slice(1).filter((index) => panel.on[index]);
  const queue = [...own.slice(at + 1), ...own.slice(0, Math.max(at, 0)), ...others.flatMap((index) => galleryItems(index, KINDS.picks))];
  const next = queue.find(KINDS.open);
  if (next) show(next);
  else {
    if (state.chosen) show(state.chosen);
    note("Every pick that the page shows has been looked at.");
  }
}

function walk(step) {
  const order = galleryItems(state.tab), next = order[order.indexOf(state.chosen) + step];
  if (next) show(next);
}

function onCorrectionKey(event, field) {
  if (field && !["range", "checkbox"].includes(field.type)) return;
  const arrow = field ? 0 : { ArrowUp: -1, ArrowDown: 1 }[event.key], name = (species[event.key - 1] || {}).name;
  const act = { a: accept, r: () => judge(""), u: undo, n: goOn }[event.key.toLowerCase()];
  if (act) act();
  else if (name) judge(name);
  else if (arrow && state.chosen) {
    event.preventDefault();
    walk(arrow);
  }
}

function verdictButton(key, words, act, isPressed, ...picture) {
  const button = make("button", { type: "button", "aria-keyshortcuts": key, onclick: act }, ...picture, words, make("kbd", {}, key));
  return Object.assign(button, { isPressed });
}

function showVerdict() {
  const item = state.chosen, verdict = item ? corrections.of(item) : undefined;
  for (const button of byId("verdicts").children) {
    if (button.isPressed) button.setAttribute("aria-pressed", String(verdict !== undefined && button.isPressed(verdict, item)));
  }
}

function showProgress() {
  const counted = items.filter((item) => !item.truth && !item.added && panel.keeps(item.species, item.odds));
  const seen = items.filter(KINDS.seen), count = (wanted) => seen.filter((item) => wanted(corrections.of(item), item)).length;
  const parts = [
    [count((verdict, item) => item.own && verdict === item.own), "accepted"], [count((verdict, item) => item.own && verdict === ""), "rejected"],
    [count((verdict, item) => item.own && verdict && verdict !== item.own), "re-labelled"], [count((verdict, item) => !item.own && verdict), "added"],
  ].filter(([number]) => number).map(([number, words]) => `${number} ${words}`);
  byId("progress").textContent = [`looked at ${counted.filter(KINDS.seen).length} of ${counted.length}`, ...parts].join(" · ");
}

function save() {
  const name = `${data.run}_corrected.csv`, address = URL.createObjectURL(new Blob([corrections.table(byId("unseen").value)], { type: "text/csv" }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  note(`Saved ${name}.`);
}

function startCorrections() {
  corrections = new Corrections(items, newItem, (kept) => {
    repaint();
    showGallery();
    showProgress();
    note(kept ? "" : NOT_KEPT);
  });
  byId("corrections").hidden = byId("x").parentElement.hidden = Boolean(data.truth);
  if (data.truth) return;
  for (const [value, words] of [["open", "not yet looked at"], ["seen", "looked at"]]) byId("kind").append(make("option", { value }, words));
  byId("unseen").lastElementChild.disabled = !data.judged || Boolean(data.warning); // only probabilities can be weights
  byId("verdicts").append(
    verdictButton("a", "accept", accept, (verdict, item) => verdict !== "" && verdict === item.own),
    verdictButton("r", "reject", () => judge(""), (verdict) => verdict === ""),
    ...species.map((one, index) => verdictButton(String(index + 1), one.name, () => judge(one.name), (verdict) => verdict === one.name, swatch(index))),
    verdictButton("n", "next", goOn), verdictButton("u", "undo", undo));
  byId("save").addEventListener("click", save);
  byId("table").addEventListener("change", takeTable);
  window.addEventListener("storage", (event) => { if (event.key === corrections.storage) takeOver(); });
}

function takeOver() {
  corrections.takeOver();
  if (!state.chosen) return;
  if (isGone(state.chosen)) choosePlace();
  else {
    byId("chosen").textContent = describe(state.chosen);
    showVerdict();
  }
}

async function takeTable() {
  const [file] = byId("table").files;
  try {
    const count = corrections.load(await file.text());
    note(`${count} corrections of ${file.name} were taken over.`);
  } catch (error) {
    note(`${file.name} cannot be used: ${error.message}`);
  }
  byId("table").value = "";
}
