// Utterances in pieces, as frames/tokenization.py cuts them: a SentencePiece unigram model within the atoms of the text.

const MARK = "▁"; // stands before the first piece of a word
const UNKNOWN_PENALTY = 10; // of a character that no piece has, below the least likely piece (as in `tokenizers`)
const MAX_PIECES = 512;

export class Tokenizer {
  /** @param {object} saved the content of a bundle's tokenizer.json */
  constructor(saved) {
    const { model, normalizer, pre_tokenizer: cutter } = saved.tokenizer;
    if (model.type !== "Unigram" || normalizer?.type !== "Lowercase" || saved.special.prefix.length) {
      throw new Error("only the tokenizer of a conv NAR bundle is read here");
    }
    const split = cutter.pretokenizers.find((part) => part.type === "Split");
    this.atom = new RegExp(split.pattern.Regex, "gu");
    this.unknown = model.unk_id;
    this.pieces = new Map(model.vocab.map(([piece, score], id) => [piece, { id, score }]));
    this.longest = Math.max(...model.vocab.map(([piece]) => [...piece].length));
    this.unknownScore = Math.min(...model.vocab.map(([, score]) => score)) - UNKNOWN_PENALTY;
  }

  /**
   * Cuts an utterance.
   * @param {string} text
   * @returns pieces in order: `id`, characters `[start, end)` counted as Unicode code points, and number of the `atom`
   */
  cut(text) {
    const found = [];
    let atom = 0;
    for (const word of words(text)) {
      for (const part of this.atoms(word)) {
        for (const { id, from, to } of this.best(part.map(({ character }) => character))) {
          const piece = { id, start: part[from].start, end: part[to - 1].start + 1, atom };
          // A word mark alone stands on the first character of its word, which belongs to the next piece.
          if (found.length && piece.start < found.at(-1).end) found.pop();
          found.push(piece);
        }
        atom += 1;
      }
    }
    if (!found.length) throw new Error("the utterance holds no word");
    if (found.length > MAX_PIECES) throw new Error(`the utterance makes more than ${MAX_PIECES} pieces`);
    return found;
  }

  /** The atoms of a word, and what lies between them. */
  *atoms(word) {
    const text = word.map(({ character }) => character).join("");
    const place = new Map(); // from positions in the string to positions in the word
    let at = 0;
    word.forEach(({ character }, i) => {
      place.set(at, i);
      at += character.length;
    });
    place.set(at, word.length);
    let end = 0;
    for (const match of text.matchAll(this.atom)) {
      if (match.index > end) yield word.slice(place.get(end), place.get(match.index));
      end = match.index + match[0].length;
      yield word.slice(place.get(match.index), place.get(end));
    }
    if (end < text.length) yield word.slice(place.get(end));
  }

  /** The likeliest pieces of some characters (Viterbi); neighbours that no piece has are one unknown piece. */
  best(characters) {
    const ends = [{ score: 0 }];
    const reach = (to, score, from, id) => {
      if (!ends[to] || score > ends[to].score) ends[to] = { score, from, id };
    };
    for (let from = 0; from < characters.length; from++) {
      let piece = "";
      for (let to = from + 1; to <= Math.min(characters.length, from + this.longest); to++) {
        piece += characters[to - 1];
        const known = this.pieces.get(piece);
        if (known) reach(to, ends[from].score + known.score, from, known.id);
      }
      if (!this.pieces.has(characters[from])) reach(from + 1, ends[from].score + this.unknownScore, from, this.unknown);
    }
    const path = [];
    for (let to = characters.length; to > 0; to = ends[to].from) {
      const { from, id } = ends[to];
      if (id === this.unknown && path[0]?.id === this.unknown) path[0].from = from;
      else path.unshift({ id, from, to });
    }
    return path;
  }
}

/** Words between white space, in small letters, a mark before each; every character with its place in the text. */
function* words(text) {
  let word = [];
  for (const [start, original] of [...text].entries()) {
    if (/\s/u.test(original)) {
      if (word.length) yield word;
      word = [];
      continue;
    }
    if (!word.length && original !== MARK) word.push({ character: MARK, start });
    for (const character of original.toLowerCase()) word.push({ character, start });
  }
  if (word.length) yield word;
}
