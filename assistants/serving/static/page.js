"use strict";

const $ = (id) => document.getElementById(id);
const form = $("form"), text = $("text"), results = $("results"), state = $("status");
let asked = 0; // answers to an earlier question are not shown

/** An element with attributes, and children that are elements or text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Asks the server; gives the parsed answer, or throws an error with the server's message. */
async function ask(path, body) {
  const headers = {};
  if ($("token").value) headers.Authorization = `Bearer ${$("token").value}`;
  if (body) headers["Content-Type"] = "application/json";
  const reply = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (reply.status === 401) $("token-label").hidden = false;
  const value = await reply.json();
  if (!reply.ok) throw new Error([value.error.code, value.error.what, value.error.remedy].filter(Boolean).join(" "));
  return value;
}

async function listBundles() {
  const { bundles } = await ask("/bundles");
  const shown = bundles.map((bundle, i) => make("label", {},
    make("input", { type: "checkbox", name: "bundle", value: bundle.name, checked: i === 0 }), ` ${bundle.name}`));
  $("bundles").replaceChildren($("bundles").querySelector("legend"), ...shown);
}

async function parse() {
  const question = ++asked;
  try {
    if (!form.querySelector("[name=bundle]")) await listBundles();
    const names = [...form.querySelectorAll("[name=bundle]:checked")].map((box) => box.value);
    if (!names.length) throw new Error("Choose a bundle.");
    state.textContent = "Parsing …";
    const columns = await Promise.all(names.map((name) => column(name)));
    if (question !== asked) return;
    results.replaceChildren(...columns);
    state.textContent = `${columns.length} ${columns.length === 1 ? "answer" : "answers"}`;
    location.replace(`#${encodeURIComponent(text.value)}`);
  } catch (error) {
    if (question === asked) state.replaceChildren(make("span", { class: "error" }, error.message));
  }
}

/** The answer of one bundle. */
async function column(name) {
  const card = make("article", { "aria-label": name });
  const began = performance.now();
  let answer;
  try {
    answer = await ask("/parse", { text: text.value, n_best: Number($("n_best").value), bundle: name, details: true });
  } catch (error) {
    card.append(make("header", {}, make("h2", {}, name)), make("p", { class: "error" }, error.message));
    return card;
  }
  const took = performance.now() - began;
  const facts = make("span", { class: "facts" }, `${took.toFixed(1)} ms`);
  card.append(make("header", {}, make("h2", {}, name), facts));
  if (answer.abstained) card.append(make("p", { class: "abstained" }, "Refused: no reading is probable enough."));
  const shown = make("div", { class: "shown" });
  const show = (reading) => shown.replaceChildren(highlight(answer.text, reading), drawing(reading));
  card.append(shown, make("h3", {}, "Readings"), readings(name, answer.hypotheses, show));
  show(answer.hypotheses[0]);
  const candidates = answer.hypotheses[0].trace.candidates;
  if (candidates) card.append(make("h3", {}, "Scenarios"), scenarios(candidates));
  return card;
}

/** The utterance, each leaf of the frame marked with the slots above it. */
function highlight(utterance, reading) {
  const letters = Array.from(utterance); // offsets count characters, JavaScript counts UTF-16 units
  const paragraph = make("p", { class: "utterance", dir: "auto" });
  const labels = [];
  let at = 0;
  const walk = (node, path) => {
    for (const child of node.children) {
      if ("start" in child) {
        const label = path.join(" › ");
        if (!labels.includes(label)) labels.push(label);
        paragraph.append(letters.slice(at, child.start).join(""), make("mark", { class: `c${labels.indexOf(label) % 6}` },
          letters.slice(child.start, child.end).join(""), make("small", {}, label)));
        at = child.end;
      } else walk(child, child.slot ? [...path, child.slot] : path);
    }
  };
  if (reading.frame) walk(reading.frame, []);
  paragraph.append(letters.slice(at).join(""));
  return paragraph;
}

/** The tree as the server drew it. */
function drawing(reading) {
  const box = make("div", { class: "drawing", tabIndex: 0, role: "figure", "aria-label": reading.text || "no frame" });
  if (reading.drawing) {
    const parsed = new DOMParser().parseFromString(reading.drawing, "image/svg+xml");
    box.append(document.importNode(parsed.documentElement, true));
  }
  return box;
}

/** A group of radio buttons, which arrow keys walk through. */
function readings(name, hypotheses, show) {
  return make("ol", { class: "readings" }, ...hypotheses.map((reading, i) => {
    const button = make("input", { type: "radio", name: `reading-${name}`, checked: i === 0, onchange: () => show(reading) });
    const chance = make("span", { class: "chance" });
    if (reading.probability === null) chance.append(`score ${reading.score === null ? "-∞" : reading.score.toFixed(2)}`);
    else chance.append(make("meter", { min: 0, max: 1, value: reading.probability }), ` ${(100 * reading.probability).toFixed(1)}%`);
    return make("li", {}, make("label", {}, button, make("code", {}, reading.text || "no frame"), chance));
  }));
}

/** What RAF retrieved or composed, best first. */
function scenarios(candidates) {
  const scores = { retrieval_score: "retrieval", fill_score: "filling", decoder_score: "decoder", rescorer_score: "rescorer", score: "score" };
  const number = (value) => (typeof value === "number" ? value.toFixed(2) : "–");
  const head = make("tr", {}, ...["", "scenario", "origin", ...Object.values(scores)].map((word) => make("th", { scope: "col" }, word)));
  const rows = candidates.map((candidate, i) => make("tr", {}, make("td", {}, String(i + 1)), make("td", {}, candidate.scenario),
    make("td", {}, candidate.origin), ...Object.keys(scores).map((key) => make("td", {}, number(candidate[key])))));
  return make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Scenarios" },
    make("table", { class: "scenarios" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}

form.addEventListener("submit", (event) => { event.preventDefault(); parse(); });
$("bundles").addEventListener("change", () => { if (text.value) parse(); });
$("n_best").addEventListener("change", () => { if (text.value) parse(); });

listBundles().then(() => {
  text.value = decodeURIComponent(location.hash.slice(1));
  if (text.value) parse();
}, (error) => state.replaceChildren(make("span", { class: "error" }, error.message)));
