"use strict";
// Sortable tables, the data of the figures, and the explorer. Foreign text reaches the page through textContent only.

const byId = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const falling = head.getAttribute("aria-sort") !== "descending" && column > 0;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (row) => {
      const cell = row.cells[column];
      return cell && cell.dataset.value !== undefined ? Number(cell.dataset.value) : NaN;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return falling ? y - x : x - y;
    });
    table.tBodies[0].append(...rows);
  }));
}

// The figures: their values as a table, as CSV, and the drawing as a file.

const SHOWN_ROWS = 200;

function cellText(value) {
  if (typeof value !== "string") return String(value);
  return `"${value.replace(/^\s*[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
}

function save(name, url) {
  const link = make("a");
  link.download = name;
  link.href = url;
  link.click();
}

function openValues(details) {
  const name = details.dataset.figure, [head, ...rows] = data.figures[name];
  const table = make("table"), top = table.createTHead().insertRow(), body = table.createTBody();
  for (const title of head) top.append(title ? Object.assign(make("th", "", title), { scope: "col" }) : make("td"));
  for (const row of rows.slice(0, SHOWN_ROWS)) {
    const line = body.insertRow();
    for (const value of row) line.append(make("td", "", typeof value === "number" ? String(+value.toPrecision(5)) : value));
  }
  const csv = make("button", "", "Save CSV"), svg = make("button", "", "Save SVG"), box = make("div", "scroll");
  csv.addEventListener("click", () => {
    const lines = [head, ...rows].map((row) => row.map(cellText).join(","));
    save(`${name}.csv`, URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })));
  });
  svg.addEventListener("click", () => save(`${name}.svg`, details.parentNode.querySelector("img").src));
  for (const button of [csv, svg]) button.type = "button";
  Object.assign(box, { tabIndex: 0, role: "region", ariaLabel: `Data of ${name}` });
  box.append(table);
  details.append(csv, svg, box);
  if (rows.length > SHOWN_ROWS) details.append(make("p", "note", `The first ${SHOWN_ROWS} of ${rows.length} rows; the CSV has all.`));
}

// The explorer.

const PAGE = 25;
const SLICE = 12; // milliseconds after which the page may draw again
const WORDS = ["right", "wrong", "no answer", "truncated"];
// ALL has each answer once, ROWS their indices by seed and arm, ANSWERS those of the chosen seed by arm.
const [ID, QUESTION, GOLD, SOLUTION, CATEGORY, STEPS, UNSEEN, ALL, ROWS, ANSWERS] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const right = (answer) => answer !== null && answer[0] === 0;
const solved = (problem) => problem[ANSWERS].filter(right).length;
let data, wants, haystacks = [], matches = [], shown = 0, search = 0;

function choose(seed) {
  haystacks = [];
  for (const p of data.problems) p[ANSWERS] = p[ROWS][seed].map((index) => (index < 0 ? null : p[ALL][index]));
}

const nobody = (p) => !p[ANSWERS].some(right), everybody = (p) => p[ANSWERS].every(right);
const SHOW = [["All problems", () => true]];
const ORDER = [["In the order of the file", null]];

function choices() { // what can be asked of these answers; of one arm there is no disagreement
  const several = data.arms.length > 1, kinds = new Set(data.problems.flatMap((p) => p[ALL].map((a) => a[5])));
  if (several) SHOW.push(["Arms disagree", (p) => !nobody(p) && !everybody(p)]);
  SHOW.push([several ? "Nobody is right" : "Wrong answers", nobody], [several ? "Everybody is right" : "Right answers", everybody]);
  SHOW.push(["A wrong calculation", (p) => p[ANSWERS].some((a) => a && a[4].length)]);
  SHOW.push(["A right answer with a wrong calculation", (p) => p[ANSWERS].some((a) => right(a) && a[4].length)]);
  if (data.problems.some((p) => p[UNSEEN])) SHOW.push(["Unseen templates", (p) => p[UNSEEN] === 1]);
  data.kinds.forEach((name, kind) => kinds.has(kind) && SHOW.push([`Kind: ${name}`, (p) => p[ANSWERS].some((a) => a && a[5] === kind)]));
  if (several) ORDER.push(["Most disagreement first", (p) => -Math.min(solved(p), p[ANSWERS].length - solved(p))]);
  ORDER.push([several ? "Solved least first" : "Wrong answers first", solved], ["Most calculations first", (p) => -p[STEPS]]);
}

function haystack(index) {
  if (haystacks[index] === undefined) {
    const p = data.problems[index];
    haystacks[index] = [p[ID], p[QUESTION], p[GOLD], ...p[ANSWERS].map((a) => (a ? a[2] : ""))].join("\n").toLowerCase();
  }
  return haystacks[index];
}

async function update() {
  const turn = ++search, found = [];
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const category = byId("category").value, fits = SHOW[Number(byId("show").value)][1];
  let since = performance.now();
  for (let index = 0; index < data.problems.length; index++) {
    if (performance.now() - since > SLICE) {
      await new Promise((resume) => setTimeout(resume));
      if (turn !== search) return;
      since = performance.now();
    }
    const p = data.problems[index];
    if (category && p[CATEGORY] !== category) continue;
    if (!fits(p)) continue;
    if (!wants.every((want, arm) => want === null || (p[ANSWERS][arm] !== null && right(p[ANSWERS][arm]) === want))) continue;
    if (words.length && !words.every((word) => haystack(index).includes(word))) continue;
    found.push(index);
  }
  const rank = ORDER[Number(byId("order").value)][1];
  if (rank) {
    const keys = new Map(found.map((index) => [index, rank(data.problems[index])]));
    found.sort((a, b) => keys.get(a) - keys.get(b) || a - b);
  }
  list(found);
}

function list(found) {
  matches = found;
  byId("count").textContent = `${matches.length.toLocaleString("en")} of ${data.problems.length.toLocaleString("en")} problems`;
  byId("list").replaceChildren();
  shown = 0;
  more();
}

function more() {
  const next = matches.slice(shown, shown + PAGE);
  byId("list").append(...next.map((index) => card(data.problems[index])));
  shown += next.length;
  byId("more").hidden = shown >= matches.length;
}

function tally(problem) {
  const all = problem[ANSWERS].length;
  return all > 1 ? `${solved(problem)} of ${all} right` : solved(problem) ? "right" : "wrong";
}

function card(problem) {
  const item = make("li"), details = make("details"), summary = make("summary"), chips = make("div", "chips");
  problem[ANSWERS].forEach((answer, arm) => {
    const chip = make("span", `chip arm-${data.marks[arm]}${answer === null ? " none" : right(answer) ? " yes" : ""}`);
    chip.title = `${data.arms[arm]}: ${answer === null ? "no completion" : WORDS[answer[0]]}`;
    chips.append(chip);
  });
  chips.setAttribute("aria-hidden", "true");
  const facts = [problem[ID], problem[CATEGORY], problem[STEPS] ? `${problem[STEPS]} steps` : "", problem[UNSEEN] ? "unseen template" : ""];
  summary.append(make("p", "question", problem[QUESTION]), chips);
  summary.append(make("p", "note meta", [...facts.filter(Boolean), tally(problem)].join(" \u00b7 ")));
  details.append(summary);
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const link = make("a", "note", "Link to this problem");
    const name = encodeURIComponent(problem[ID].toWellFormed ? problem[ID].toWellFormed() : problem[ID]);
    link.href = `#problem=${name}${data.seeds.length > 1 ? `&seed=${data.seeds[byId("seed").value]}` : ""}`;
    details.append(answers(problem), link);
  });
  item.append(details);
  return item;
}

function sideBySide() {
  const left = byId("left").value, both = [left, byId("right").value].filter((arm) => arm !== "").map(Number);
  return left === "" ? data.arms.map((_, arm) => arm) : [...new Set(both)];
}

function answers(problem) {
  const grid = make("div", "answers"), arms = sideBySide();
  grid.append(column("Reference", `answer ${problem[GOLD]}`, "note", "", [problem[SOLUTION]]));
  for (const arm of arms) {
    const tone = `arm-${data.marks[arm]}`, answer = problem[ANSWERS][arm];
    if (answer === null) {
      grid.append(column(data.arms[arm], "no completion", "note", tone, [""]));
      continue;
    }
    const [verdict, value, text, left, slips, kind, detail] = answer;
    const outcome = value === null ? WORDS[verdict] : `${WORDS[verdict]}, ${value}`;
    const box = column(data.arms[arm], outcome, verdict === 0 ? "right" : "wrong", tone, marked(text, slips));
    if (left) box.append(make("p", "note", `${left.toLocaleString("en")} more characters are in the predictions file.`));
    if (kind >= 0) box.append(make("p", "note", `${data.kinds[kind]}: ${detail}`));
    grid.append(box);
  }
  return grid;
}

function column(title, verdict, tone, arm, content) {
  const box = make("div", arm), head = make("h3", "", title), pre = make("pre");
  head.append(make("span", tone, verdict));
  pre.append(...content);
  box.append(head, pre);
  return box;
}

function marked(text, slips) {
  const parts = [];
  let at = 0;
  for (const [start, end, value] of slips) {
    if (start < at) continue;
    parts.push(text.slice(at, start), make("mark", "slip", text.slice(start, end)), make("ins", "", ` (${value})`));
    at = end;
  }
  return [...parts, text.slice(at)];
}

function patternButton(title, arm) {
  const button = make("button"), chip = make("span", "chip"), text = make("span");
  const show = () => {
    chip.className = `chip arm-${data.marks[arm]}${wants[arm] ? " yes" : wants[arm] === null ? " none" : ""}`;
    text.textContent = wants[arm] === null ? title : `${title}: ${wants[arm] ? "right" : "wrong"}`;
    button.dataset.want = wants[arm] === null ? "" : Number(wants[arm]);
  };
  button.type = "button";
  button.append(chip, text);
  button.addEventListener("click", () => {
    wants[arm] = wants[arm] === null ? true : wants[arm] ? false : null;
    show();
    update();
  });
  button.addEventListener("reset", show);
  show();
  return button;
}

function option(text, value) {
  const node = make("option", "", text);
  node.value = value;
  return node;
}

function reset() {
  wants.fill(null);
  for (const id of ["search", "category", "left", "right"]) byId(id).value = "";
  byId("seed").value = "0";
  choose(0);
  byId("show").value = byId("order").value = "0";
  byId("right").hidden = true;
  for (const button of byId("pattern").children) button.dispatchEvent(new Event("reset"));
}

function follow() {
  const asked = new URLSearchParams(location.hash.slice(1)), name = asked.get("problem");
  const index = name === null ? -1 : data.problems.findIndex((p) => p[ID] === name);
  if (index < 0) return false;
  reset();
  const seed = data.seeds.findIndex((one) => String(one) === asked.get("seed"));
  if (seed > 0) {
    byId("seed").value = seed;
    choose(seed);
  }
  search++;
  list([index]);
  byId("list").querySelector("details").open = true;
  byId("explorer").scrollIntoView();
  return true;
}

async function unpack(text) {
  const packed = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

function controls() {
  const categories = [...new Set(data.problems.map((p) => p[CATEGORY]))].filter(Boolean).sort();
  byId("category").append(option("All categories", ""), ...categories.map((name) => option(name, name)));
  byId("category").hidden = !categories.length;
  choices();
  SHOW.forEach(([name], index) => byId("show").append(option(name, index)));
  ORDER.forEach(([name], index) => byId("order").append(option(name, index)));
  byId("left").append(option("All arms side by side", ""), ...data.arms.map((name, arm) => option(name, arm)));
  byId("right").append(option("alone", ""), ...data.arms.map((name, arm) => option(`beside ${name}`, arm)));
  byId("duel").hidden = data.arms.length < 3;
  byId("seed").append(...data.seeds.map((seed, index) => option(`Answers of seed ${seed}`, index)));
  byId("seed").hidden = data.seeds.length < 2;
  byId("pattern").append(...data.arms.map(patternButton));
  byId("pattern").hidden = data.arms.length < 2;
  let timer;
  byId("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(update, 120); });
  for (const id of ["category", "show", "order", "left", "right"]) byId(id).addEventListener("change", update);
  byId("seed").addEventListener("change", () => { choose(Number(byId("seed").value)); update(); });
  byId("left").addEventListener("change", () => { byId("right").hidden = byId("left").value === ""; });
  byId("more").addEventListener("click", more);
  byId("reset").addEventListener("click", () => { reset(); update(); });
  addEventListener("hashchange", follow);
  byId("controls").hidden = false;
}

async function start() {
  if (!("DecompressionStream" in window)) {
    byId("list").before(make("p", "note", "Reading the answers needs a browser from 2023 or later."));
    return;
  }
  data = await unpack(byId("data").textContent);
  for (const details of document.querySelectorAll("details.values")) {
    details.hidden = !data.figures[details.dataset.figure].length;
    details.addEventListener("toggle", () => details.childElementCount === 1 && openValues(details));
  }
  wants = data.arms.map(() => null);
  if (!data.problems.length) return;
  controls();
  reset();
  if (!follow()) update();
}

start();
