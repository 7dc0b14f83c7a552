// The best well-formed frame under the scores of each position: parsers/constrained.py, for the span form.
// A* from left to right over all candidate lengths at once; see there for why frames are found best first.

const [IN_INTENT, IN_SLOT, IN_LEAF, AFTER_CONTENT] = [0, 1, 2, 3]; // what may come next
const MAX_STEPS = 2000; // of exact search; as many again search the furthest positions first

/** The tokens that may follow one another in a frame of the ontology. Ids from `size` on point at pieces. */
export class Grammar {
  /** @param {object} ontology the content of a bundle's ontology.json */
  constructor(ontology) {
    const { intent_slots: slotsOf, slot_intents: intentsOf } = ontology;
    this.tokens = ["]", ...Object.keys(slotsOf).map((x) => `IN:${x}`), ...Object.keys(intentsOf).map((x) => `SL:${x}`)];
    this.size = this.tokens.length;
    this.close = 0;
    const ids = new Map(this.tokens.map((token, id) => [token, id]));
    this.roots = Object.keys(ontology.roots).map((x) => ids.get(`IN:${x}`));
    this.inside = new Map(); // opener to the openers that may stand directly inside
    this.slots = new Map();
    for (const [intent, slots] of Object.entries(slotsOf)) {
      this.inside.set(ids.get(`IN:${intent}`), Object.keys(slots).map((x) => ids.get(`SL:${x}`)));
    }
    for (const [slot, intents] of Object.entries(intentsOf)) {
      this.inside.set(ids.get(`SL:${slot}`), Object.keys(intents).map((x) => ids.get(`IN:${x}`)));
      const [text, empty] = [ontology.slot_spans[slot] > 0, ontology.slot_empty[slot] > 0];
      this.slots.set(ids.get(`SL:${slot}`), { text, empty });
    }
    this.step_ = Object.values(ontology.slot_empty).some((count) => count > 0) ? 2 : 4; // tokens of the smallest slot
  }

  /** Ids that may follow, whatever the length; `edges` are the pieces where leaves may begin and end. */
  options({ stack, phase, pointer }, edges) {
    if (!stack.length) return pointer === -1 && phase === IN_SLOT ? this.roots : [];
    const top = stack.at(-1);
    const point = (positions) => positions.map((position) => this.size + position);
    if (phase === IN_INTENT) return [...this.inside.get(top), this.close];
    if (phase === IN_LEAF) return point(edges.lasts.filter((last) => last >= pointer));
    if (phase === AFTER_CONTENT) return [this.close];
    const { text, empty } = this.slots.get(top);
    const leaves = text ? point(edges.firsts.filter((first) => first > pointer)) : [];
    return [...this.inside.get(top), ...(empty ? [this.close] : []), ...leaves];
  }

  /** The state after an allowed token. */
  step({ stack, phase, pointer }, token) {
    if (token >= this.size) {
      return { stack, phase: phase === IN_LEAF ? AFTER_CONTENT : IN_LEAF, pointer: token - this.size };
    }
    if (token === this.close) {
      return { stack: stack.slice(0, -1), phase: phase === IN_INTENT ? AFTER_CONTENT : IN_INTENT, pointer };
    }
    return { stack: [...stack, token], phase: this.slots.has(token) ? IN_SLOT : IN_INTENT, pointer };
  }

  /** Whether exactly `left` more tokens can finish the frame: a necessary condition. */
  completable({ stack, phase, pointer }, left, pieces) {
    let spare = left - stack.length;
    if (!stack.length) return left === 0;
    if (spare < 0) return false;
    if (phase === IN_LEAF) spare -= 1;
    else if (phase === IN_SLOT) {
      const top = stack.at(-1);
      if (spare === 0) return this.slots.get(top).empty;
      if (!this.inside.get(top).length && pointer + 1 >= pieces) return false;
      spare -= 2;
    }
    return spare >= 0 && spare % this.step_ === 0;
  }
}

/** A candidate length: its log-probability, and the scores of each of its positions. */
export class LengthCandidate {
  constructor(prior, scores) {
    Object.assign(this, { prior, scores, bound: new Array(scores.length + 1).fill(0) });
    for (let i = scores.length - 1; i >= 0; i--) this.bound[i] = this.bound[i + 1] + scores[i].reduce((a, b) => Math.max(a, b));
  }

  /** Allowed ids at a position, best first. */
  ranked(position, allowed) {
    const row = this.scores[position];
    return allowed.map((token) => ({ cost: -row[token], token })).sort((a, b) => a.cost - b.cost || a.token - b.token);
  }
}

/**
 * Well-formed sequences over all candidate lengths, best first, at least one.
 * @param {Grammar} grammar
 * @param {LengthCandidate[]} candidates
 * @param {{firsts: number[], lasts: number[]}} edges
 * @returns {Generator<{ids: number[], score: number}>}
 */
export function* decode(grammar, candidates, edges) {
  const pieces = edges.lasts.at(-1) + 1;
  let [queue, tie, diving, found] = [new Heap(), 0, false, false];
  const push = (entry) => {
    if (entry.rank >= entry.options.length) return;
    const { bound } = candidates[entry.candidate];
    const cost = -(entry.score - entry.options[entry.rank].cost + bound[entry.position + 1]);
    queue.push({ ...entry, cost, urgency: diving ? -entry.position : 0, tie: tie++ });
  };
  const start = { stack: [], phase: IN_SLOT, pointer: -1 };
  candidates.forEach((lengths, candidate) => {
    const options = lengths.ranked(0, grammar.options(start, edges));
    push({ candidate, position: 0, state: start, path: [], score: lengths.prior, options, rank: 0 });
  });
  for (let steps = 1; queue.size && steps <= 2 * MAX_STEPS; steps++) {
    if (steps > MAX_STEPS && !diving) {
      if (found) return;
      diving = true;
      queue = new Heap(queue.entries.map((entry) => ({ ...entry, urgency: -entry.position })));
    }
    const entry = queue.pop();
    push({ ...entry, rank: entry.rank + 1 });
    const { cost, token } = entry.options[entry.rank];
    const lengths = candidates[entry.candidate];
    const state = grammar.step(entry.state, token);
    const left = lengths.scores.length - entry.position - 1;
    if (!grammar.completable(state, left, pieces)) continue;
    const [path, score, position] = [[...entry.path, token], entry.score - cost, entry.position + 1];
    if (left === 0) {
      [found, steps] = [true, 0];
      yield { ids: path, score };
      if (diving) return;
      continue;
    }
    const options = lengths.ranked(position, grammar.options(state, edges));
    push({ candidate: entry.candidate, position, state, path, score, options, rank: 0 });
  }
  if (found) return;
  const [{ cost, token }] = candidates[0].ranked(0, grammar.roots);
  yield { ids: [token, grammar.close], score: candidates[0].prior - cost };
}

/** A binary heap in the order of urgency, cost and tie, the smallest first. */
class Heap {
  constructor(entries = []) {
    this.entries = [];
    entries.forEach((entry) => this.push(entry));
  }

  get size() {
    return this.entries.length;
  }

  push(entry) {
    const { entries } = this;
    let at = entries.push(entry) - 1;
    for (let up = (at - 1) >> 1; at > 0 && before(entry, entries[up]); at = up, up = (at - 1) >> 1) {
      [entries[at], entries[up]] = [entries[up], entries[at]];
    }
  }

  pop() {
    const { entries } = this;
    const [first, last] = [entries[0], entries.pop()];
    if (!entries.length) return first;
    entries[0] = last;
    for (let at = 0; ; ) {
      const [left, right] = [2 * at + 1, 2 * at + 2];
      let least = left < entries.length && before(entries[left], entries[at]) ? left : at;
      if (right < entries.length && before(entries[right], entries[least])) least = right;
      if (least === at) return first;
      [entries[at], entries[least]] = [entries[least], entries[at]];
      at = least;
    }
  }
}

const before = (a, b) => (a.urgency - b.urgency || a.cost - b.cost || a.tie - b.tie) < 0;
