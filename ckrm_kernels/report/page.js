"use strict";
const table = document.getElementById("layers"), rows = [...table.tBodies[0].rows];  // in the model's order
const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];

// ---- sorting: by a head or by the list, which a phone shows in place of the heads

const list = document.getElementById("sort");
const key = (row, place) => place ? row.cells[place].textContent.trim() : row.dataset.name;
const isWord = (head) => head.dataset.kind === "word";
const usual = (head) => isWord(head) ? "ascending" : "descending";

function compare(head, place, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  return (a, b) => {
    const [x, y] = [key(a, place), key(b, place)];
    const [lacksX, lacksY] = [x, y].map((text) => isWord(head) ? text === "" : Number.isNaN(parseFloat(text)));
    if (lacksX || lacksY) return lacksX - lacksY;  // what has no value comes last either way
    const both = isWord(head) || head.dataset.key === "shape";
    return sign * (both ? x.localeCompare(y, "en", { numeric: true }) : parseFloat(x) - parseFloat(y));
  };
}

function sort(place, direction) {
  const sorted = direction === "none" ? rows : [...rows].sort(compare(heads[place], place, direction));
  table.tBodies[0].append(...sorted);
  for (const head of heads) if (head.dataset.key) head.setAttribute("aria-sort", "none");
  if (direction !== "none") heads[place].setAttribute("aria-sort", direction);
  list.value = direction === "none" ? "" : place;
}

heads.forEach((head, place) => {
  if (!head.dataset.key) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  head.replaceChildren(button);
  head.setAttribute("aria-sort", "none");
  button.addEventListener("click", () => {
    const first = usual(head), second = first === "ascending" ? "descending" : "ascending";
    sort(place, { none: first, [first]: second, [second]: "none" }[head.getAttribute("aria-sort")]);
  });
  list.add(new Option(head.dataset.label, place));
});
list.addEventListener("change", () => list.value === "" ? sort(0, "none") : sort(+list.value, usual(heads[list.value])));

// ---- filtering: a part of a name, or a glob

const filter = document.getElementById("filter"), count = document.getElementById("count");

function show() {
  const part = filter.value.trim(), glob = part.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  const fits = (name) => name.includes(part) || new RegExp(`^${glob}$`).test(name);
  for (const each of document.querySelectorAll("tr[data-name], li[data-name]")) each.hidden = !fits(each.dataset.name);
  count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} measured layers`;
}

filter.addEventListener("input", show);
filter.form.addEventListener("submit", (event) => event.preventDefault());
filter.form.hidden = false;
show();

// ---- the distribution of a layer: while the mouse or the focus is there; a tap or Enter keeps it

const look = document.getElementById("look"), bin = document.getElementById("bin");
let looked = null, pinned = false, counts = [], chosen = 0;

function open(row) {
  if (row === looked || !row.dataset.counts) return;
  close();
  looked = row;
  row.classList.add("looked");
  counts = row.dataset.counts.split(" ").map(Number);
  look.querySelector("h2").textContent = row.dataset.name;
  look.querySelector("p").textContent = row.querySelector("svg").getAttribute("aria-label");
  look.querySelector("g").replaceChildren(...counts.map(bar));
  choose(counts.indexOf(Math.max(...counts)));
  look.hidden = false;
}

function bar(pairs, place) {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect"), width = 400 / counts.length;
  const height = pairs && Math.max(104 * pairs / Math.max(...counts), 1);
  const sizes = { x: place * width, y: 110 - height, width, height };
  for (const [name, value] of Object.entries(sizes)) rect.setAttribute(name, value);
  rect.classList.toggle("redundant", place / counts.length >= table.dataset.at - 1e-9);
  return rect;
}

function choose(place) {
  chosen = Math.min(Math.max(place, 0), counts.length - 1);
  look.querySelectorAll("rect").forEach((rect, at) => rect.classList.toggle("chosen", at === chosen));
  const lowest = Number(table.dataset.lowest), edge = (at) => (lowest + (1 - lowest) * at / counts.length).toFixed(2);
  const pairs = counts[chosen] === 1 ? "1 pair" : `${counts[chosen].toLocaleString("en")} pairs`;
  bin.textContent = `${table.dataset.word} from ${edge(chosen)} to ${edge(chosen + 1)}: ${pairs}`;
}

function close() {
  if (looked) looked.classList.remove("looked");
  looked = null;
  pin(false);
  look.hidden = true;
}

function pin(value) {
  pinned = value;
  look.classList.toggle("pinned", value);
}

for (const row of rows) {
  const drawing = row.querySelector("svg");
  if (!drawing) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `distribution of ${row.dataset.name}: ${drawing.getAttribute("aria-label")}`);
  drawing.replaceWith(button);
  button.append(drawing);
  row.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse" && !pinned) open(row); });
  row.addEventListener("focusin", () => { if (!pinned) open(row); });
  row.addEventListener("click", () => {
    if (pinned && row === looked) return close();
    open(row);
    pin(true);
  });
}
table.addEventListener("pointerleave", () => { if (!pinned) close(); });
table.addEventListener("focusout", () => { if (!pinned) close(); });
look.querySelector("svg").addEventListener("pointermove", (event) => {
  const box = event.currentTarget.getBoundingClientRect();
  choose(Math.floor((event.clientX - box.left) / box.width * counts.length));
});
document.getElementById("close").addEventListener("click", close);
document.addEventListener("keydown", (event) => {
  if (!looked) return;
  if (event.key === "Escape") close();
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && event.target.closest("#layers, #look")) { event.preventDefault(); choose(chosen + step); }
});
