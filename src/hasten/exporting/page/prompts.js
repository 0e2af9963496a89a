// Prompts as tokens: CLIP's byte pair encoding, with the vocabulary and merges of text.json; the same
// tokens as prompts.py.

const between = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => first + i);
const PLAIN = new Set([...between(33, 126), ...between(161, 172), ...between(174, 255)]);
const OTHERS = between(0, 255).filter((byte) => !PLAIN.has(byte));
const sign = (byte) => String.fromCodePoint(PLAIN.has(byte) ? byte : 256 + OTHERS.indexOf(byte));
const SIGNS = between(0, 255).map(sign);
const PIECES = /'(?:s|t|re|ve|m|ll|d)|[a-zé]+|0|['!]+/g;
const SPACES = /[\t-\r\x1c-\x20\x85\p{Z}]+/u; // between words

// What counts of a sign where a text is split: itself, or a letter, digit, space or other.
function kind(c) {
  if (/^['a-zA-Z ]$/.test(c)) return c;
  return /\p{L}/u.test(c) ? "é" : /\p{N}/u.test(c) ? "0" : "!";
}

function merged(word, ranks) {
  while (word.length > 1) {
    let [rank, at] = [Infinity, -1];
    for (let i = 0; i + 1 < word.length; i++) {
      const here = ranks.get(`${word[i]} ${word[i + 1]}`) ?? Infinity;
      if (here < rank) [rank, at] = [here, i];
    }
    if (at < 0) break;
    word.splice(at, 2, word[at] + word[at + 1]);
  }
  return word;
}

// A reader of prompts: `{tokens, cut}`, a Float32Array of the length of a prompt, and what of the
// prompt was read where it was too long, else null.
export function reader(facts) {
  const ranks = new Map(facts.merges.map((pair, rank) => [pair, rank]));
  const bytes = new TextEncoder();
  return (prompt) => {
    const words = prompt.normalize("NFC").split(SPACES).filter((word) => word !== "");
    const signs = Array.from(words.join(" ").toLowerCase());
    const [out, ends] = [[], []];
    for (const piece of signs.map(kind).join("").matchAll(PIECES)) {
      const end = piece.index + piece[0].length;
      const word = Array.from(bytes.encode(signs.slice(piece.index, end).join("")), (b) => SIGNS[b]);
      word[word.length - 1] += "</w>";
      for (const part of merged(word, ranks)) {
        out.push(facts.vocabulary[part] ?? facts.unknown);
        ends.push(end);
      }
    }
    const most = facts.length - 2;
    const tokens = new Float32Array(facts.length).fill(facts.pad);
    tokens.set([facts.start, ...out.slice(0, most), facts.end]);
    return { tokens, cut: out.length > most ? signs.slice(0, ends[most - 1]).join("") : null };
  };
}
