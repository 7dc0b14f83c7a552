// A conv NAR bundle in JavaScript: the steps of parsers/nar.py for one utterance at a time.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import ort from "onnxruntime-node";
import { Grammar, LengthCandidate, decode } from "./decoding.mjs";
import { Tokenizer } from "./tokenizer.mjs";

const MASKED = -1n; // a target position whose token the decoder does not see

/**
 * Opens a bundle folder.
 * @param {string} folder written by `framefill export`, of the kind conv_nar
 */
export async function load(folder) {
  const json = async (name) => JSON.parse(await readFile(join(folder, name), "utf8"));
  const manifest = await json("manifest.json");
  if (manifest.parser !== "conv_nar" || manifest.form !== "span") {
    throw new Error(`a bundle of kind ${manifest.parser} needs the Python runtime; conv NAR in the span form is read here`);
  }
  const suffix = [".int8.onnx", ".onnx"].find((ending) => `encoder${ending}` in manifest.files);
  if (!suffix) {
    throw new Error("a bundle with whole graphs in int8 or fp32 is read here: export with --precision int8");
  }
  const options = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3, enableCpuMemArena: false };
  const open = (name) => ort.InferenceSession.create(join(folder, name + suffix), options);
  const names = ["encoder", "decoder", ...(manifest.decoding.num_rescored ? ["rescorer"] : [])];
  const graphs = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await open(name)])));
  const tokenizer = new Tokenizer(await json("tokenizer.json"));
  return new Parser(manifest.decoding, tokenizer, new Grammar(await json("ontology.json")), graphs);
}

export class Parser {
  constructor(config, tokenizer, grammar, graphs) {
    Object.assign(this, { config, tokenizer, grammar, graphs });
    this.wanted = graphs.rescorer ? config.num_rescored : 1;
    this.margin = graphs.rescorer ? config.rescoring_margin : 0; // how far behind the best a frame may be
  }

  /**
   * The likeliest frame of an utterance.
   * @param {string} text
   * @returns {Promise<{text: string, frame: string, tree: object, score: number}>} `frame` in brackets; `tree` as the
   *   Python runtime's `Frame.to_dict()["frame"]`, its offsets counted in Unicode code points
   */
  async parse(text) {
    const source = this.tokenizer.cut(text);
    const edges = { firsts: [], lasts: [] };
    source.forEach(({ atom }, i) => {
      if (source[i - 1]?.atom !== atom) edges.firsts.push(i);
      if (source[i + 1]?.atom !== atom) edges.lasts.push(i);
    });
    const given = {
      pieces: int64(source.map(({ id }) => id), [1, source.length]),
      mask: new ort.Tensor("bool", new Uint8Array(source.length).fill(1), [1, source.length]),
    };
    const { memory, lengths } = await run(this.graphs.encoder, given);
    const encoded = { memory, ...given };
    const beam = this.beam(lengths.data);
    let candidates = await this.score(encoded, beam.slice(0, 1));
    let found = this.search(candidates, edges);
    // No token has a log-probability above 0, so no frame of a length is likelier than the length.
    const rivals = beam.slice(1).filter(({ prior }) => prior > found[0].score - this.margin);
    if (rivals.length) {
      candidates = [...candidates, ...(await this.score(encoded, rivals))];
      found = this.search(candidates, edges);
    }
    const best = found.length > 1 ? await this.rescored(encoded, found) : found[0];
    const characters = [...text];
    const tree = this.tree(best.ids, source, characters);
    return { text, frame: bracketed(tree), tree, score: best.score };
  }

  /** The likeliest lengths, best first; length 0 spells nothing. */
  beam(priors) {
    return [...priors]
      .map((prior, length) => ({ length, prior }))
      .slice(1)
      .sort((a, b) => b.prior - a.prior || a.length - b.length)
      .slice(0, this.config.length_beam);
  }

  /** The best frames under the scores of some lengths, the best first. */
  search(candidates, edges) {
    const found = [];
    for (const decoded of decode(this.grammar, candidates, edges)) {
      if (found.length && decoded.score < found[0].score - this.margin) break;
      found.push(decoded);
      if (found.length === this.wanted) break;
    }
    return found;
  }

  /** The best frame by decoder and rescorer together. */
  async rescored(encoded, found) {
    const scores = await this.ofTargets("rescorer", encoded, found.map(({ ids }) => ids.map(BigInt)));
    const weight = this.config.rescoring_weight;
    return found
      .map(({ ids, score }, row) => ({ ids, score: (1 - weight) * score + weight * scores.data[row] }))
      .reduce((best, other) => (other.score > best.score ? other : best));
  }

  /** Scores the positions of targets of some lengths. */
  async score(encoded, lengths) {
    const scores = await this.ofTargets("decoder", encoded, lengths.map(({ length }) => new Array(length).fill(MASKED)));
    const [, longest, width] = scores.dims;
    return lengths.map(({ length, prior }, row) => {
      const position = (t) => scores.data.subarray((row * longest + t) * width, (row * longest + t + 1) * width);
      return new LengthCandidate(prior, Array.from({ length }, (_, t) => position(t)));
    });
  }

  /** What a graph says of targets over the one utterance. */
  async ofTargets(graph, encoded, targets) {
    const [rows, longest] = [targets.length, Math.max(...targets.map(({ length }) => length))];
    const tokens = new BigInt64Array(rows * longest);
    targets.forEach((target, row) => tokens.set(target, row * longest));
    const { scores } = await run(this.graphs[graph], {
      memory: repeated(encoded.memory, rows),
      pieces: repeated(encoded.pieces, rows),
      mask: repeated(encoded.mask, rows),
      tokens: new ort.Tensor("int64", tokens, [rows, longest]),
      target_lengths: int64(targets.map(({ length }) => length), [rows]),
    });
    return scores;
  }

  /** The tree that target ids spell. */
  tree(ids, source, characters) {
    const stack = [{ children: [] }];
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] === this.grammar.close) stack.pop();
      else if (ids[i] < this.grammar.size) {
        const [kind, label] = this.grammar.tokens[ids[i]].split(/:(.*)/s);
        const node = { [kind === "IN" ? "intent" : "slot"]: label, children: [] };
        stack.at(-1).children.push(node);
        stack.push(node);
      } else {
        const [first, last] = [ids[i++], ids[i]].map((id) => source[id - this.grammar.size]);
        const text = characters.slice(first.start, last.end).join("");
        stack.at(-1).children.push({ start: first.start, end: last.end, text });
      }
    }
    return stack[0].children[0];
  }
}

/** A tree as TOPv2 writes it; a word that reads as a bracket has a backslash before it. */
export function bracketed(node) {
  if ("text" in node) return words(node.text).map((word) => (/^\\*(\]$|\[(IN|SL):)/.test(word) ? `\\${word}` : word)).join(" ");
  const head = "intent" in node ? `[IN:${node.intent}` : `[SL:${node.slot}`;
  return [head, ...node.children.map(bracketed), "]"].join(" ");
}

const words = (text) => text.split(/\s+/u).filter(Boolean);
const int64 = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);

/** Runs a graph; inputs that it does not read are left out. */
function run(session, given) {
  return session.run(Object.fromEntries(session.inputNames.map((name) => [name, given[name]])));
}

/** A tensor whose one row is repeated. */
function repeated({ type, data, dims }, rows) {
  const all = new data.constructor(rows * data.length);
  for (let row = 0; row < rows; row++) all.set(data, row * data.length);
  return new ort.Tensor(type, all, [rows, ...dims.slice(1)]);
}
