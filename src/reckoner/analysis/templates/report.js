"use strict";
// Sortable tables, and the explorer. Model text reaches the page through textContent only.

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

const PAGE = 25;
const WORDS = ["right", "wrong", "no answer", "truncated"];
const [ID, QUESTION, GOLD, SOLUTION, CATEGORY, STEPS, UNSEEN, ANSWERS] = [0, 1, 2, 3, 4, 5, 6, 7];
const byId = (id) => document.getElementById(id);
const right = (answer) => answer !== null && answer[0] === 0;
const haystacks = [];
let data, wants, matches = [], shown = 0;

const PRESETS = [
  ["All problems", () => true],
  ["Arms disagree", (p) => p[ANSWERS].some(right) && !p[ANSWERS].every(right)],
  ["Nobody is right", (p) => !p[ANSWERS].some(right)],
  ["Everybody is right", (p) => p[ANSWERS].every(right)],
  ["A wrong calculation", (p) => p[ANSWERS].some((a) => a && a[4].length)],
  ["A right answer with a wrong calculation", (p) => p[ANSWERS].some((a) => right(a) && a[4].length)],
  ["Unseen templates", (p) => p[UNSEEN] === 1],
];

function haystack(index) {
  if (haystacks[index] === undefined) {
    const p = data.problems[index];
    haystacks[index] = [p[ID], p[QUESTION], p[GOLD], ...p[ANSWERS].map((a) => (a ? a[2] : ""))].join("\n").toLowerCase();
  }
  return haystacks[index];
}

function update() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const category = byId("category").value, preset = PRESETS[Number(byId("sort").value)][1];
  matches = [];
  data.problems.forEach((p, index) => {
    if (category && p[CATEGORY] !== category) return;
    if (!preset(p)) return;
    if (!wants.every((want, arm) => want === null || (p[ANSWERS][arm] !== null && right(p[ANSWERS][arm]) === want))) return;
    if (words.length && !words.every((word) => haystack(index).includes(word))) return;
    matches.push(index);
  });
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

function card(problem) {
  const item = make("li"), details = make("details"), summary = make("summary");
  const chips = make("div", "chips");
  problem[ANSWERS].forEach((answer, arm) => {
    const chip = make("span", `chip arm-${data.marks[arm]}${answer === null ? " none" : right(answer) ? " yes" : ""}`);
    chip.title = `${data.arms[arm]}: ${answer === null ? "no completion" : WORDS[answer[0]]}`;
    chips.append(chip);
  });
  const facts = [problem[ID], problem[CATEGORY], problem[STEPS] ? `${problem[STEPS]} steps` : "", problem[UNSEEN] ? "unseen template" : ""];
  const solved = problem[ANSWERS].filter(right).length;
  summary.append(make("p", "question", problem[QUESTION]), chips);
  summary.append(make("p", "note meta", [...facts.filter(Boolean), `${solved} of ${problem[ANSWERS].length} right`].join(" \u00b7 ")));
  details.append(summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(answers(problem));
  });
  item.append(details);
  return item;
}

function answers(problem) {
  const grid = make("div", "answers");
  grid.append(column("Reference", `answer ${problem[GOLD]}`, "note", "", [problem[SOLUTION]]));
  problem[ANSWERS].forEach((answer, arm) => {
    const tone = `arm-${data.marks[arm]}`;
    if (answer === null) return grid.append(column(data.arms[arm], "no completion", "note", tone, [""]));
    const [verdict, value, text, left, slips, kind, detail] = answer;
    const said = value === null ? WORDS[verdict] : `${WORDS[verdict]}, ${value}`;
    const box = column(data.arms[arm], said, verdict === 0 ? "right" : "wrong", tone, marked(text, slips));
    if (left) box.append(make("p", "note", `${left.toLocaleString("en")} more characters are in the predictions file.`));
    if (kind >= 0) box.append(make("p", "note", `${data.kinds[kind]}: ${detail}`));
    grid.append(box);
  });
  return grid;
}

function column(title, verdict, tone, arm, content) {
  const box = make("div", arm), head = make("h4", "", title), pre = make("pre");
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

async function unpack(text) {
  const packed = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

async function start() {
  if (!("DecompressionStream" in window)) {
    byId("list").before(make("p", "note", "Reading the answers needs a browser from 2023 or later."));
    return;
  }
  data = await unpack(byId("data").textContent);
  wants = data.arms.map(() => null);
  if (!data.problems.length) return;
  const categories = [...new Set(data.problems.map((p) => p[CATEGORY]))].filter(Boolean).sort();
  byId("category").append(option("All categories", ""), ...categories.map((name) => option(name, name)));
  byId("category").hidden = !categories.length;
  const unseen = data.problems.some((p) => p[UNSEEN]);
  PRESETS.forEach(([name], index) => (unseen || index < PRESETS.length - 1) && byId("sort").append(option(name, index)));
  byId("pattern").append(...data.arms.map(patternButton));
  let timer;
  byId("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(update, 120); });
  byId("category").addEventListener("change", update);
  byId("sort").addEventListener("change", update);
  byId("more").addEventListener("click", more);
  byId("reset").addEventListener("click", () => {
    wants.fill(null);
    byId("search").value = byId("category").value = "";
    byId("sort").value = "0";
    for (const button of byId("pattern").children) button.dispatchEvent(new Event("reset"));
    update();
  });
  byId("controls").hidden = false;
  update();
}

window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("#setup details")) details.open = true;
});
start();
